package server

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestQuiet: memory is given back when there is much to give and little is asked for.
func TestQuiet(t *testing.T) {
	const mb = 1 << 20
	tests := []struct {
		name      string
		allocated uint64 // since the last look
		now       usage
		want      bool
	}{
		{"garbage, and nothing asked for", 0, usage{live: 20 * mb, objects: 30 * mb}, true},
		{"free, and nothing asked for", 0, usage{live: 20 * mb, objects: 20 * mb, free: 10 * mb}, true},
		{"nothing to give", 0, usage{live: 20 * mb, objects: 21 * mb, free: 2 * mb}, false},
		{"a little asked for", mb / 4, usage{live: 20 * mb, objects: 30 * mb}, true},
		{"much asked for", mb, usage{live: 20 * mb, objects: 30 * mb}, false},
		{"little beside what is live", 0, usage{live: 400 * mb, objects: 440 * mb}, false},
		{"much beside what is live", mb, usage{live: 400 * mb, objects: 450 * mb, free: 80 * mb}, true},
		{"collected just now", 0, usage{live: 20 * mb, objects: 19 * mb}, false},
	}
	for _, test := range tests {
		last := usage{allocated: 7 * mb}
		test.now.allocated = last.allocated + test.allocated
		if got := test.now.quiet(last); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// TestUsage: what is read of the runtime is what it says.
func TestUsage(t *testing.T) {
	read := usageReader()
	before := read()
	garbage = make([]byte, 32<<20)
	now := read()
	if now.allocated-before.allocated < 32<<20 || now.objects < 32<<20 {
		t.Errorf("32 MiB were allocated: %+v, then %+v", before, now)
	}
	garbage = nil
}

var garbage []byte

// TestGiveBack: garbage that nothing follows on is collected within seconds.
func TestGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		collections := func() uint32 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.NumForcedGC
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- giveBack(ctx) }()
		garbage = make([]byte, 64<<20)
		garbage = nil
		before := collections()
		time.Sleep(3 * quietCheck)
		if collections() == before {
			t.Error("nothing was given back")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
