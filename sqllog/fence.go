package sqllog

import (
	"context"
	"sync"
	"sync/atomic"
)

// fence lets housekeeping wait until all reads that may still need what it is
// about to remove have ended, without a lock in the way of reads: readers
// count themselves into one of two epochs; pass makes the other one current and
// waits for the old one to drain.
type fence struct {
	mu      sync.Mutex // one pass at a time
	epoch   atomic.Uint32
	readers [2]atomic.Int64
	drained atomic.Pointer[chan struct{}]
}

// ticket says in which epoch a reader is counted: 1 or 2. The zero ticket is none.
type ticket uint32

func (f *fence) enter() ticket {
	for {
		e := f.epoch.Load()
		t := ticket(e&1) + 1
		f.readers[t-1].Add(1)
		if f.epoch.Load() == e {
			return t
		}
		f.leave(t)
	}
}

func (f *fence) leave(t ticket) {
	if t == 0 || f.readers[t-1].Add(-1) > 0 {
		return
	}
	if c := f.drained.Load(); c != nil {
		select {
		case *c <- struct{}{}:
		default:
		}
	}
}

// pass waits until every reader that entered before the call has left, or ctx ends.
func (f *fence) pass(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{}, 1)
	f.drained.Store(&c)
	defer f.drained.Store(nil)
	// An earlier pass may have given up on the other epoch.
	if err := f.drain(ctx, c, (f.epoch.Load()+1)&1); err != nil {
		return err
	}
	old := f.epoch.Add(1) - 1
	return f.drain(ctx, c, old&1)
}

func (f *fence) drain(ctx context.Context, c chan struct{}, epoch uint32) error {
	for f.readers[epoch].Load() > 0 {
		select {
		case <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
