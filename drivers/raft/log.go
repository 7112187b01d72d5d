package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/internal/wake"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

var (
	_ drivers.Replica      = (*Log)(nil)
	_ drivers.Sizer        = (*Log)(nil)
	_ drivers.Checker      = (*Log)(nil)
	_ drivers.Defragmenter = (*Log)(nil)
)

// Log is a log in an SQLite file, of a server that is alone or a member of a cluster. See the package's comment.
type Log struct {
	opts   Options
	logger *slog.Logger
	born   uint64 // by chance: tells this process's questions from those before

	// node is this server's part in the consensus, nil while it is alone; tail is valid with it.
	node atomic.Pointer[node]
	tail *tail
	// appending is held by an append of a server that is alone, and while it ceases to be.
	appending sync.Mutex
	grown     wake.Signal // node was set

	// fileMu is held shared by whoever uses file, and exclusively while it is replaced, which ends fileCtx first.
	fileMu   sync.RWMutex
	file     *sqlite.Log
	fileCtx  context.Context
	fileEnds context.CancelFunc
	swapped  bool // a copy is in its place, and could not be opened yet
	replaced wake.Signal
	epoch    atomic.Uint64 // how often it was replaced

	flushing sync.Mutex          // held while the tail goes to the file
	copying  *semaphore.Weighted // held shared by copies of the file, as a whole by scrubs: see share and alone
	freed    wake.Signal         // somebody holds copying no more
	hurry    chan struct{}
	// raftLog and database are the disks of the two logs.
	raftLog, database disk
	// unresolved is set while the outcome of an append is not known.
	unresolved atomic.Bool
	copies     copies
	forced     bool        // ForceNew or ForceAnew was done since Open; only before Start
	unbegun    atomic.Bool // set by Start, before the network is asked for

	background sync.WaitGroup
	ctx        context.Context // ends with Close
	stop       context.CancelFunc
	// patience ends with Run, or with Close: a disk that has no room is not waited for any longer.
	patience  context.Context
	lose      context.CancelFunc
	closeOnce sync.Once
	closeErr  error
}

// withFile gives fn the file. Long work is to end with the context that fn is given.
func (l *Log) withFile(ctx context.Context, fn func(context.Context, *sqlite.Log) error) error {
	l.fileMu.RLock()
	defer l.fileMu.RUnlock()
	if l.file == nil {
		return drivers.ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.fileCtx, func() { cancel(errReplaced) })()
	err := fn(ctx, l.file)
	switch {
	case err == nil:
	case l.ctx.Err() != nil:
		return fmt.Errorf("%w: %w", drivers.ErrClosed, err)
	case errors.Is(context.Cause(ctx), errReplaced):
		return fmt.Errorf("%w: %w", errReplaced, err)
	}
	return err
}

// briefly gives fn the file for what is done at once. Who replaces the file waits for it.
func (l *Log) briefly(fn func(*sqlite.Log) error) error {
	l.fileMu.RLock()
	defer l.fileMu.RUnlock()
	if l.file == nil {
		return drivers.ErrClosed
	}
	return fn(l.file)
}

// allCopies is what a scrub takes of copying, of which a copy takes 1.
const allCopies = math.MaxInt64

// share waits until no scrub is under way, and keeps off any until release is called.
func (l *Log) share(ctx context.Context) (release func(), err error) {
	if err := l.copying.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { l.release(1) }, nil
}

// alone waits until nothing of the file is copied or loaded, and keeps that off until release is called. A copy may take long, so who waits here
// keeps no other from beginning.
func (l *Log) alone(ctx context.Context) (release func(), err error) {
	for {
		freed := l.freed.Next()
		if l.copying.TryAcquire(allCopies) {
			return func() { l.release(allCopies) }, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Log) release(n int64) {
	l.copying.Release(n)
	l.freed.All()
}

// errReplaced ends what reads a file in whose place a newer one comes.
var errReplaced = errors.New("the database is being replaced by a newer copy")

func (l *Log) fileEnd() (end drivers.End, mark sqlite.Mark) {
	_ = l.briefly(func(f *sqlite.Log) error {
		end, mark = f.LastMark()
		return nil
	})
	return end, mark
}

// Append implements drivers.Log. In a cluster it is done by the leader alone: drivers.ErrNotLeader.
func (l *Log) Append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	if err := errors.Join(validate(batch), l.usable(ctx)); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if l.unresolved.Load() {
		return fmt.Errorf("append after %d: %w", after.Position, drivers.ErrUnresolved)
	}
	err := l.append(ctx, after, batch)
	if errors.Is(err, drivers.ErrUncertain) {
		l.unresolved.Store(true)
	}
	return err
}

func (l *Log) append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	n := l.node.Load()
	if n == nil {
		l.appending.Lock()
		if n = l.node.Load(); n == nil {
			defer l.appending.Unlock()
			return l.briefly(func(f *sqlite.Log) error { return f.Append(ctx, after, batch) })
		}
		l.appending.Unlock()
	}
	if end, _ := l.tail.ends(); end != after {
		return fmt.Errorf("append after %d: %w: it is at %d", after.Position, drivers.ErrConflict, end.Position)
	}
	if err := l.unwritable(); err != nil {
		return fmt.Errorf("append after %d: %w", after.Position, err)
	}
	if err := n.append(after, batch); err != nil {
		return fmt.Errorf("append after %d: %w", after.Position, err)
	}
	return nil
}

func validate(batch *drivers.Batch) error {
	if len(batch.Entries) == 0 {
		return errors.New("the batch is empty")
	}
	for i := range batch.Entries {
		if len(batch.Entries[i].Meta) == 0 {
			return fmt.Errorf("entry %d of the batch has no meta", i)
		}
	}
	return nil
}

// usable says why a call cannot begin.
func (l *Log) usable(ctx context.Context) error {
	if l.ctx.Err() != nil {
		return drivers.ErrClosed
	}
	return ctx.Err()
}

// ReadIndex implements drivers.Log. In a cluster a majority is asked: drivers.ErrNoQuorum if none answers for Options.Timeout, drivers.ErrNoLeader if this
// server stands still (Halted).
func (l *Log) ReadIndex(ctx context.Context) (b drivers.Bounds, err error) {
	if err := l.usable(ctx); err != nil {
		return b, fmt.Errorf("read index: %w", err)
	}
	if n := l.node.Load(); n != nil {
		b, err = n.readIndex(ctx)
	} else {
		err = l.briefly(func(f *sqlite.Log) error {
			b, err = f.ReadIndex(ctx)
			return err
		})
	}
	if err == nil && l.unresolved.Load() {
		l.unresolved.Store(false)
	}
	return b, err
}

// Known implements drivers.Replica.
func (l *Log) Known() drivers.Bounds { return l.bounds() }

// bounds are those of what is applied here.
func (l *Log) bounds() drivers.Bounds {
	var b drivers.Bounds
	_ = l.briefly(func(f *sqlite.Log) error {
		b = f.Bounds()
		return nil
	})
	if l.node.Load() != nil {
		b.End, _ = l.tail.ends()
	}
	return b
}

// Scan implements drivers.Log.
func (l *Log) Scan(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	if l.node.Load() == nil {
		return l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error { return f.Scan(ctx, opts, fn) })
	}
	if err := l.usable(ctx); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	// First what is not in the file: it may be there a moment later, and then it must not be read twice.
	batches := l.tail.beyondFile()
	upTo := opts.UpTo
	if upTo == 0 {
		upTo = math.MaxInt64
	}
	inFile := opts
	inFile.UpTo = upTo
	if len(batches) > 0 {
		inFile.UpTo = min(upTo, batches[0].after.Position)
	}
	if inFile.UpTo == math.MaxInt64 {
		inFile.UpTo = 0
	}
	if len(batches) == 0 || inFile.UpTo > opts.After {
		if err := l.scanFile(ctx, inFile, fn); err != nil {
			return err
		}
	}
	for _, a := range batches {
		first, end := max(opts.After, a.after.Position), min(upTo, a.end().Position)
		if first >= end {
			continue
		}
		if err := l.usable(ctx); err != nil {
			return err
		}
		part := cloned(a.batch.Entries[first-a.after.Position:end-a.after.Position], opts.Values)
		if opts.Times && end == a.end().Position {
			part[len(part)-1].Written = a.batch.Time.UnixMilli()
		}
		if err := fn(part); err != nil {
			return err
		}
	}
	return nil
}

// scanFile scans the file, and goes on in the one that takes its place meanwhile: that lacks nothing but what was scrubbed.
func (l *Log) scanFile(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	for {
		var ended error
		err := l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error {
			return f.Scan(ctx, opts, func(entries []drivers.Entry) error {
				opts.After = entries[len(entries)-1].Position
				ended = fn(entries)
				return ended
			})
		})
		switch {
		case ended != nil:
			return ended
		case !errors.Is(err, errReplaced) || ctx.Err() != nil:
			return err
		case opts.UpTo > 0 && opts.After >= opts.UpTo:
			return nil
		}
	}
}

// Load implements drivers.Followed: scrubs wait meanwhile. If the file is replaced it ends with drivers.ErrEpoch, since in the newer one things are
// scrubbed that were superseded after the end of this one.
func (l *Log) Load(ctx context.Context, values bool, fn func([]drivers.Entry) error) (drivers.Bounds, error) {
	release, err := l.share(ctx)
	if err != nil {
		return drivers.Bounds{}, err
	}
	defer release()
	epoch := l.Epoch()
	b := l.bounds()
	if b.End.Position == 0 {
		return b, nil
	}
	if err := l.Scan(ctx, drivers.ScanOptions{UpTo: b.End.Position, Values: values}, fn); err != nil {
		return b, err
	}
	if l.Epoch() != epoch {
		return b, fmt.Errorf("load: %w: %w", drivers.ErrEpoch, errReplaced)
	}
	return b, nil
}

// errEnough ends following a file.
var errEnough = errors.New("enough")

// Follow implements drivers.Log.
func (l *Log) Follow(ctx context.Context, after drivers.End, fn func(*drivers.Batch) error) error {
	for {
		if l.node.Load() == nil {
			return l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error { return f.Follow(ctx, after, fn) })
		}
		moved := l.tail.moved.Next()
		batches, ok, err := l.tail.since(after)
		switch {
		case err != nil:
			return fmt.Errorf("follow after %d: %w", after.Position, err)
		case !ok:
			if after, err = l.followFile(ctx, after, fn); err != nil {
				return err
			}
			continue
		}
		for _, a := range batches {
			if err := l.usable(ctx); err != nil {
				return fmt.Errorf("follow after %d: %w", after.Position, err)
			}
			b := *a.batch
			b.Entries = cloned(b.Entries, true)
			if err := fn(&b); err != nil {
				return err
			}
			after = a.end()
		}
		if len(batches) > 0 {
			continue
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return fmt.Errorf("follow: %w", drivers.ErrClosed)
		}
	}
}

// followFile gives what the file has after an end, up to where it ends now.
func (l *Log) followFile(ctx context.Context, after drivers.End, fn func(*drivers.Batch) error) (drivers.End, error) {
	at := after
	var ended error
	err := l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error {
		upTo, _ := f.LastMark()
		return f.Follow(ctx, after, func(b *drivers.Batch) error {
			if ended = fn(b); ended != nil {
				return ended
			}
			at = drivers.End{Position: at.Position + int64(len(b.Entries)), Batch: b.ID}
			if at.Position >= upTo.Position {
				return errEnough
			}
			return nil
		})
	})
	switch {
	case ended != nil:
		return at, ended
	case errors.Is(err, errEnough), errors.Is(err, errReplaced) && ctx.Err() == nil:
		return at, nil
	}
	return at, err
}

// Values implements drivers.Log.
func (l *Log) Values(ctx context.Context, positions []int64, dst [][]byte) error {
	if l.node.Load() == nil {
		return l.briefly(func(f *sqlite.Log) error { return f.Values(ctx, positions, dst) })
	}
	if err := l.usable(ctx); err != nil {
		return fmt.Errorf("values: %w", err)
	}
	if len(dst) != len(positions) {
		return fmt.Errorf("values: %d positions and room for %d", len(positions), len(dst))
	}
	var missing []int64
	var at []int
	for i, p := range positions {
		if e, ok := l.tail.entry(p); ok {
			dst[i] = bytes.Clone(e.Value)
			continue
		}
		missing, at = append(missing, p), append(at, i)
	}
	if len(missing) == 0 {
		return nil
	}
	got := make([][]byte, len(missing))
	if err := l.briefly(func(f *sqlite.Log) error { return f.Values(ctx, missing, got) }); err != nil {
		return err
	}
	for i, v := range got {
		dst[at[i]] = v
	}
	return nil
}

// Scrub implements drivers.Log. Each member scrubs its own file.
func (l *Log) Scrub(ctx context.Context, positions []int64) error {
	return l.ScrubIn(ctx, l.Epoch(), positions)
}

// Epoch implements drivers.Followed: it rises when the file is replaced.
func (l *Log) Epoch() uint64 { return l.epoch.Load() }

// ScrubIn implements drivers.Followed.
func (l *Log) ScrubIn(ctx context.Context, epoch uint64, positions []int64) error {
	if l.unresolved.Load() {
		return fmt.Errorf("scrub: %w", drivers.ErrUnresolved)
	}
	release, err := l.alone(ctx)
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	defer release()
	if l.node.Load() != nil && len(positions) > 0 {
		if end, _ := l.tail.ends(); positions[len(positions)-1] >= end.Position {
			return fmt.Errorf("scrub: position %d is not below the log's last, %d", positions[len(positions)-1], end.Position)
		}
		// The file's last entry must be a later one, and the tail must not give what is gone.
		if err := l.flush(ctx); err != nil {
			return fmt.Errorf("scrub: %w", err)
		}
		l.tail.cut()
	}
	return l.briefly(func(f *sqlite.Log) error {
		if l.epoch.Load() != epoch {
			return fmt.Errorf("scrub: %w", drivers.ErrEpoch)
		}
		return f.Scrub(ctx, positions)
	})
}

// Moved implements drivers.Followed.
func (l *Log) Moved(ctx context.Context, than drivers.End) error {
	for {
		grown := l.grown.Next()
		var other <-chan struct{}
		if l.node.Load() != nil {
			other = l.tail.other.Next()
			if l.tail.movedByOthers(than) {
				return nil
			}
		}
		select {
		case <-grown:
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return drivers.ErrClosed
		}
	}
}

// Size implements drivers.Sizer: that of the database, as etcd's is; the Raft log is beside it.
func (l *Log) Size(ctx context.Context) (total, inUse int64, err error) {
	err = l.briefly(func(f *sqlite.Log) error {
		total, inUse, err = f.Size(ctx)
		return err
	})
	return total, inUse, err
}

// Check implements drivers.Checker.
func (l *Log) Check(ctx context.Context, report func(string)) error {
	return l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error { return f.Check(ctx, report) })
}

// Defragment implements drivers.Defragmenter.
func (l *Log) Defragment(ctx context.Context) error {
	return l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error { return f.Defragment(ctx) })
}
