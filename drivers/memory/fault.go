package memory

import "context"

// Op names the method of a log that a fault is meant for.
type Op int

// The methods that can be made to fail.
const (
	OpAppend Op = iota
	OpReadIndex
	OpScan
	OpFollow
	OpValues
	OpScrub
	OpHold
	OpAnnounce
)

// Fault is what happens to one call. Its parts come in the order of the fields.
type Fault struct {
	// Entered is closed when the call has arrived. nil: nobody is told.
	Entered chan<- struct{}
	// Hold keeps the call until it is closed. A context that ends first ends the
	// call, with nothing done. nil: no wait.
	Hold <-chan struct{}
	// Before runs before the call does its work, for instance to let a
	// foreign writer append, which makes an append conflict. nil: nothing.
	Before func()
	// Apply lets the call do its work before Err is returned: with Err =
	// ErrUncertain an append whose answer was lost. Without it nothing is done.
	// It has no meaning when Err is nil, since the call does its work then.
	Apply bool
	// Late, with Err = ErrUncertain and without Apply, leaves the append in
	// flight: it is tried when the log's next ReadIndex begins, as a
	// COMMIT does that arrives after the connection broke. It may conflict then.
	Late bool
	// Err is what the call returns; nil for its own result. Append's must be an error of the
	// contract.
	Err error
}

// Inject makes the next call of the method suffer the fault. Several faults
// for one method are queued, one for each call.
func (l *Log) Inject(op Op, f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faults == nil {
		l.faults = make(map[Op][]Fault)
	}
	l.faults[op] = append(l.faults[op], f)
}

// Pending says how many faults of the method have not been suffered yet.
func (l *Log) Pending(op Op) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.faults[op])
}

func (l *Log) takeFault(op Op) Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.faults[op]
	if len(queue) == 0 {
		return Fault{}
	}
	l.faults[op] = queue[1:]
	return queue[0]
}

// suffer takes the next fault of the method and does what comes before the work.
func (l *Log) suffer(ctx context.Context, op Op) (Fault, error) {
	f := l.takeFault(op)
	if f.Entered != nil {
		close(f.Entered)
	}
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-ctx.Done():
			return f, ctx.Err()
		case <-l.closed:
		}
	}
	if f.Before != nil {
		f.Before()
	}
	if err := l.usable(ctx); err != nil {
		return f, err
	}
	if f.Err != nil && !f.Apply {
		return f, f.Err
	}
	return f, nil
}
