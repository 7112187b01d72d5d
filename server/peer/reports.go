package peer

import (
	"context"
	"sync"
)

// reports calls the callbacks of a Network, from one goroutine. What is reported several times before
// that goroutine comes to it is reported once.
type reports struct {
	o    *NetworkOptions
	wake chan struct{}

	mu          sync.Mutex
	unreachable map[uint64]bool
	snapshots   map[uint64]bool
	removed     map[uint64]bool // who say so
	begun       map[uint64]bool // who say so
}

func newReports(o *NetworkOptions) *reports {
	return &reports{o: o, wake: make(chan struct{}, 1), unreachable: map[uint64]bool{}, snapshots: map[uint64]bool{}, removed: map[uint64]bool{}, begun: map[uint64]bool{}}
}

// lost reports messages to a member that were dropped.
func (r *reports) lost(id uint64, l loss) {
	if l == (loss{}) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.unreachable {
		r.unreachable[id] = true
	}
	if l.snapshot {
		r.snapshots[id] = true
	}
	r.signal()
}

// removedFrom reports that the member id considers this one removed.
func (r *reports) removedFrom(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed[id] = true
	r.signal()
}

// begunFor reports that the member id knows this one, which has no data, as one that had.
func (r *reports) begunFor(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun[id] = true
	r.signal()
}

// signal wakes run. The mutex is held.
func (r *reports) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run calls the callbacks until ctx ends.
func (r *reports) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		unreachable, snapshots, removed, begun := r.unreachable, r.snapshots, r.removed, r.begun
		r.unreachable, r.snapshots, r.removed, r.begun = map[uint64]bool{}, map[uint64]bool{}, map[uint64]bool{}, map[uint64]bool{}
		r.mu.Unlock()
		for id := range unreachable {
			r.o.Unreachable(id)
		}
		for id := range snapshots {
			r.o.SnapshotLost(id)
		}
		for id := range removed {
			r.o.Removed(id)
		}
		for id := range begun {
			r.o.Begun(id)
		}
	}
}
