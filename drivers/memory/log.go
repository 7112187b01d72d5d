package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keelson-io/keelson/drivers"
)

// scanSlice is how many entries a scan gives to its callback at once.
const scanSlice = 256

var _ drivers.Log = (*Log)(nil)

// Log is one server's connection to a Store.
type Log struct {
	store  *Store
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex // guards what follows
	faults map[Op][]Fault
	// uncertain is set from an ErrUncertain to the next ReadIndex; late is
	// the append that is still in flight then, if any.
	uncertain bool
	late      func()
	// own is the end of this log's last append that it knows of, turn the one it holds.
	own  drivers.End
	turn *turn
}

// Close ends the connection; the store stays.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *Log) usable(ctx context.Context) error {
	select {
	case <-l.closed:
		return drivers.ErrClosed
	default:
		return ctx.Err()
	}
}

// Append implements drivers.Log.
func (l *Log) Append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	if l.isUncertain() {
		return fmt.Errorf("append: %w", drivers.ErrUnresolved)
	}
	f, err := l.suffer(ctx, OpAppend)
	if err != nil {
		if f.Late && errors.Is(err, drivers.ErrUncertain) {
			l.setLate(after, batch)
		}
		return l.noteUncertain(err)
	}
	end, err := l.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer end()
	l.store.mu.Lock()
	err = l.store.appendLocked(after, batch)
	if err == nil && f.Err == nil {
		l.mu.Lock()
		l.own = l.store.endLocked()
		l.mu.Unlock()
	}
	l.store.mu.Unlock()
	if f.Err != nil {
		err = f.Err
	}
	return l.noteUncertain(err)
}

func (l *Log) isUncertain() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uncertain
}

func (l *Log) noteUncertain(err error) error {
	if errors.Is(err, drivers.ErrUncertain) {
		l.mu.Lock()
		l.uncertain = true
		l.mu.Unlock()
	}
	return err
}

func (l *Log) setLate(after drivers.End, batch *drivers.Batch) {
	// The caller may change the batch once Append has returned.
	kept := *batch
	kept.Entries = make([]drivers.Entry, len(batch.Entries))
	for i, e := range batch.Entries {
		kept.Entries[i] = drivers.Entry{Kind: e.Kind, Meta: clone(e.Meta), Value: clone(e.Value)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = func() {
		l.store.mu.Lock()
		defer l.store.mu.Unlock()
		// A conflict is an outcome too: somebody else was first.
		_ = l.store.appendLocked(after, &kept)
	}
}

// ReadIndex implements drivers.Log.
func (l *Log) ReadIndex(ctx context.Context) (drivers.Bounds, error) {
	f, err := l.suffer(ctx, OpReadIndex)
	if err != nil {
		return drivers.Bounds{}, err
	}
	l.mu.Lock()
	late := l.late
	l.late = nil
	l.mu.Unlock()
	if late != nil {
		late()
	}
	if f.Err != nil {
		return drivers.Bounds{}, f.Err
	}
	l.mu.Lock()
	l.uncertain = false
	l.mu.Unlock()
	return l.store.Bounds(), nil
}

// Scan implements drivers.Log.
func (l *Log) Scan(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	f, err := l.suffer(ctx, OpScan)
	if err != nil {
		return err
	}
	if end := l.store.Bounds().End.Position; opts.UpTo == 0 || opts.UpTo > end {
		opts.UpTo = end
	}
	for after := max(opts.After, 0); after < opts.UpTo; {
		if err := l.usable(ctx); err != nil {
			return err
		}
		entries, next := l.store.slice(after, opts, scanSlice)
		if len(entries) > 0 {
			if err := fn(entries); err != nil {
				return err
			}
		}
		if next == after {
			break // the log was rewound below UpTo meanwhile
		}
		after = next
	}
	return f.Err
}

// Follow implements drivers.Log.
func (l *Log) Follow(ctx context.Context, after drivers.End, fn func(*drivers.Batch) error) error {
	f, err := l.suffer(ctx, OpFollow)
	if err != nil {
		return err
	}
	if f.Err != nil {
		return f.Err
	}
	for {
		batch, moved, err := l.next(after)
		if err != nil {
			return err
		}
		if batch != nil {
			if err := l.usable(ctx); err != nil {
				return err
			}
			after = drivers.End{Position: after.Position + int64(len(batch.Entries)), Batch: batch.ID}
			if err := fn(batch); err != nil {
				return err
			}
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return drivers.ErrClosed
		}
	}
}

// next gives the batch after the end, or what to wait for if there is none.
func (l *Log) next(after drivers.End) (*drivers.Batch, <-chan struct{}, error) {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkLocked(after); err != nil {
		return nil, nil, err
	}
	return s.batchLocked(after.Position), s.moved, nil
}

// Values implements drivers.Log.
func (l *Log) Values(ctx context.Context, positions []int64, dst [][]byte) error {
	f, err := l.suffer(ctx, OpValues)
	if err != nil {
		return err
	}
	if f.Err != nil {
		return f.Err
	}
	if len(dst) != len(positions) {
		return fmt.Errorf("values: %d positions but room for %d", len(positions), len(dst))
	}
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range positions {
		if p < 1 || p > int64(len(s.records)) || s.records[p-1] == nil {
			return fmt.Errorf("values: position %d: %w", p, drivers.ErrScrubbed)
		}
		dst[i] = clone(s.records[p-1].value)
	}
	return nil
}

// Scrub implements drivers.Log.
func (l *Log) Scrub(ctx context.Context, positions []int64) error {
	return l.scrub(ctx, func() error { return l.store.scrubLocked(positions) })
}

// scrub runs fn, which scrubs, with the store locked.
func (l *Log) scrub(ctx context.Context, fn func() error) error {
	if l.isUncertain() {
		return fmt.Errorf("scrub: %w", drivers.ErrUnresolved)
	}
	f, err := l.suffer(ctx, OpScrub)
	if err != nil {
		return l.noteUncertain(err)
	}
	l.store.mu.Lock()
	err = fn()
	l.store.mu.Unlock()
	if f.Err != nil {
		err = f.Err
	}
	return l.noteUncertain(err)
}
