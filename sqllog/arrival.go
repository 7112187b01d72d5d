package sqllog

import (
	"context"
	"slices"
	"sync"
)

// arrivals are those who wait until the index has come to a position.
type arrivals struct {
	mu      sync.Mutex
	waiting []arrival
}

type arrival struct {
	position int64
	here     chan struct{}
}

// arrived is called in the commit loop.
func (a *arrivals) arrived(position int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = slices.DeleteFunc(a.waiting, func(w arrival) bool {
		if w.position <= position {
			close(w.here)
		}
		return w.position <= position
	})
}

// Await waits until the index has come to a position of the log, by itself: nobody is asked. ErrHalted if this server stands still.
func (s *Store) Await(ctx context.Context, position int64) error {
	a := &s.arrivals
	a.mu.Lock()
	if s.index.Load().End.Position >= position {
		a.mu.Unlock()
		return nil
	}
	here := make(chan struct{})
	a.waiting = append(a.waiting, arrival{position, here})
	a.mu.Unlock()
	var err error
	select {
	case <-here:
		return nil
	case <-s.stopped:
		return ErrStopped
	case <-s.halted():
		err = ErrHalted
	case <-ctx.Done():
		err = ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = slices.DeleteFunc(a.waiting, func(w arrival) bool { return w.here == here })
	return err
}
