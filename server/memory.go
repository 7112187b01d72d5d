package server

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// quietCheck is how often a server looks whether it is quiet.
	quietCheck = time.Second
	// quietFor is how long what was allocated last would have to go on, at least, to come to what can be given back: then a server is quiet. So memory is
	// given back no more often than that, and costs a collection each time.
	quietFor = 30
	// worthGiving is how much is worth a collection, at least.
	worthGiving = 4 << 20
)

// usage is what memory there was at one moment, in bytes.
type usage struct {
	allocated uint64 // by all allocations so far
	live      uint64 // after the last collection
	objects   uint64 // live or not
	free      uint64 // kept from the system for objects to come
}

// giveBack returns to the system what a burst of requests took, when it is over, until ctx ends. Left alone, Go's runtime collects a heap that does not grow
// after two minutes, and keeps a part of what it finds.
func giveBack(ctx context.Context) error {
	tick := time.NewTicker(quietCheck)
	defer tick.Stop()
	read := usageReader()
	last := read()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := read()
		if now.quiet(last) {
			debug.FreeOSMemory()
			now = read()
		}
		last = now
	}
}

// quiet tells whether a server allocates so little that what is not needed now should go back.
func (now usage) quiet(last usage) bool {
	spare := now.free + now.objects - min(now.objects, now.live)
	return spare >= max(worthGiving, now.live/8) && now.allocated-last.allocated <= spare/quietFor
}

func usageReader() func() usage {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	return func() usage {
		metrics.Read(samples)
		return usage{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
	}
}
