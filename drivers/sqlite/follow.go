package sqlite

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// Follow implements drivers.Log. It wakes by a signal within the process:
// no other one can append.
func (l *Log) Follow(ctx context.Context, after drivers.End, fn func(*drivers.Batch) error) error {
	f := follower{log: l, fn: fn, position: after.Position}
	if err := f.check(ctx, after); err != nil {
		return fmt.Errorf("follow after %d: %w", after.Position, err)
	}
	for {
		// Taken before reading, so that nothing comes in between unseen.
		moved := l.wake.Next()
		if err := f.readAll(ctx); err != nil {
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return fmt.Errorf("follow: %w", drivers.ErrClosed)
		}
	}
}

// follower walks the log batch by batch.
type follower struct {
	log *Log
	fn  func(*drivers.Batch) error
	// position is the last one read: those up to it were given to fn or are in part.
	position int64
	// part has the entries read of a batch whose end has not been read yet.
	part  []drivers.Entry
	slice scanSlice
}

// check says whether the log passes through the end.
func (f *follower) check(ctx context.Context, after drivers.End) error {
	bounds := f.log.state.Load().bounds()
	switch {
	case after.Position < bounds.Scrubbed:
		return fmt.Errorf("%w up to %d", drivers.ErrScrubbed, bounds.Scrubbed)
	case after.Position > bounds.End.Position || after.Position < 0:
		return fmt.Errorf("%w: it ends at %d", drivers.ErrDiverged, bounds.End.Position)
	case after == drivers.End{}:
		return f.log.usable(ctx)
	}
	return f.log.read(ctx, func(r *reader) error {
		ok, err := r.closing.queryRow(after.Position)
		switch {
		case err != nil:
			return err
		case !ok && after.Position > 0:
			// Scrubbed just now, or the mark stands here exactly: there is nothing to compare with.
			return drivers.ErrScrubbed
		case !ok || r.closing.row[0] == nil:
			return drivers.ErrDiverged
		}
		c, err := decodeClosing(r.closing.row[0])
		if err == nil && c.id != after.Batch {
			err = drivers.ErrDiverged
		}
		return err
	})
}

// readAll reads on up to the end of the log.
func (f *follower) readAll(ctx context.Context) error {
	for {
		upTo := f.log.state.Load().Position
		if f.position >= upTo {
			return nil
		}
		f.slice.reset()
		err := f.log.read(ctx, func(r *reader) error {
			return f.slice.fill(r, drivers.ScanOptions{After: f.position, UpTo: upTo, Values: true})
		})
		if err != nil {
			return fmt.Errorf("follow after %d: %w", f.position, err)
		}
		if err := f.deliver(ctx, upTo); err != nil {
			return err
		}
	}
}

// deliver gives the whole batches of the slice, which was read up to a position, to fn and keeps the rest.
func (f *follower) deliver(ctx context.Context, upTo int64) error {
	last := f.position
	for i := range f.slice.entries {
		if f.slice.entries[i].Position != last+1 {
			return f.hole(last+1, upTo)
		}
		last++
	}
	if !f.slice.full && last != upTo {
		return f.hole(last+1, upTo)
	}
	f.position = last
	return f.give(ctx)
}

// hole says what it means that a position is not there. Above the mark every position is,
// so the mark must have passed this follower.
func (f *follower) hole(position, upTo int64) error {
	if _, err := f.log.checkHoles(f.position, upTo, &f.slice); err != nil {
		return fmt.Errorf("follow after %d: %w", f.position, err)
	}
	return fmt.Errorf("follow: position %d: %w", position, drivers.ErrScrubbed)
}

// give gives the whole batches of the slice to fn.
func (f *follower) give(ctx context.Context) error {
	from := 0
	for _, c := range f.slice.closings {
		entries := f.slice.entries[from : c.index+1]
		from = c.index + 1
		batch := &drivers.Batch{ID: c.id, Time: c.time, Server: c.server, Entries: append(f.part, entries...)}
		f.part = nil
		if err := f.log.usable(ctx); err != nil {
			return err
		}
		if err := f.fn(batch); err != nil {
			return err
		}
	}
	f.part = append(f.part, f.slice.entries[from:]...)
	return nil
}
