package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// vacuumBytes is how much one slice of vacuum moves, about. Appends wait for a slice at most.
const vacuumBytes = 256 << 10

// vacuumRest is how many times as long as a slice took the background
// rests before the next one.
const vacuumRest = 4

// Run does the work in the background until ctx ends: it checkpoints when the
// write-ahead log has reached its size, and gives free pages back. Without
// it the log works, but appends stop for checkpoints and the file does not shrink.
// What fails is logged and tried again; Run returns ctx's error or ErrClosed.
func (l *Log) Run(ctx context.Context) error {
	if l.opts.ReadOnly {
		return fmt.Errorf("run: %w", drivers.ErrReadOnly)
	}
	k := l.checkpointer
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return drivers.ErrClosed
		case <-k.due:
			err = k.checkpoint(ctx)
		case <-k.free:
			err = l.giveBack(ctx)
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, drivers.ErrClosed) {
			k.report(err)
		}
	}
}

// giveBack vacuums until the share of free pages is as wanted. Checkpoints that become due go first.
func (l *Log) giveBack(ctx context.Context) error {
	if l.opts.FreePages < 0 {
		return nil
	}
	shrunk := false
	for {
		total, inUse, err := l.Size(ctx)
		if err != nil {
			return err
		}
		excess := (total - inUse) - total*int64(l.opts.FreePages)/100
		if excess < vacuumBytes {
			break
		}
		began := time.Now()
		if err := l.vacuumSlice(ctx); err != nil {
			return err
		}
		shrunk = true
		if err := l.rest(ctx, vacuumRest*time.Since(began)); err != nil {
			return err
		}
	}
	if shrunk {
		return l.checkpointer.checkpoint(ctx)
	}
	return nil
}

// rest waits, and checkpoints meanwhile if one becomes due.
func (l *Log) rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	return l.await(ctx, timer.C, nil)
}

// await waits until the time has come or the turn has been given, and checkpoints meanwhile if one
// becomes due. A nil channel is not waited for.
func (l *Log) await(ctx context.Context, until <-chan time.Time, turn chan<- struct{}) error {
	for {
		select {
		case <-until:
			return nil
		case turn <- struct{}{}:
			return nil
		case <-l.checkpointer.due:
			if err := l.checkpointer.checkpoint(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, drivers.ErrClosed) {
				l.checkpointer.report(err)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return drivers.ErrClosed
		}
	}
}

// vacuumSlice moves some pages from the end of the file into free ones. It waits for a check of the pages to
// end: what it writes would use up the patience that commits have with one.
func (l *Log) vacuumSlice(ctx context.Context) error {
	if err := l.await(ctx, nil, l.checking); err != nil {
		return err
	}
	defer func() { <-l.checking }()
	if err := l.lockWriter(ctx); err != nil {
		return err
	}
	defer l.unlockWriter()
	if err := l.writable(); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	err := l.writer.beginClean()
	if err == nil {
		err = l.writer.conn.runAll(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", max(vacuumBytes/l.checkpointer.pageSize, 1)))
	}
	if err != nil {
		return fmt.Errorf("vacuum: %w", classify(errors.Join(err, l.abandon())))
	}
	if err := l.commit(nil); err != nil {
		return fmt.Errorf("vacuum: %w", classify(err))
	}
	l.checkpointer.grew()
	return nil
}
