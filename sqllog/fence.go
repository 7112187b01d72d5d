package sqllog

import (
	"context"
	"sync"
	"sync/atomic"
)

// fence lets housekeeping wait until all reads that may still need what it is
// about to remove have ended, without a lock on the way of reads: readers count themselves into
// one of two epochs, pass makes the other one current and waits for the old one to drain.
type fence struct {
	mu      sync.Mutex // one pass at a time
	epoch   atomic.Uint32
	readers [2]atomic.Int64
	drained chan struct{}
}

// ticket says which epoch a reader is counted in: 0 or 1, plus 1 so that the zero ticket is none.
type ticket uint32

func (f *fence) enter() ticket {
	for {
		e := f.epoch.Load()
		f.readers[e&1].Add(1)
		if f.epoch.Load() == e {
			return ticket(e&1) + 1
		}
		f.leave(ticket(e&1) + 1)
	}
}

func (f *fence) leave(t ticket) {
	if t == 0 {
		return
	}
	f.readers[t-1].Add(-1)
}
