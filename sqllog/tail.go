package sqllog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// contendedBatches is how many batches begin with a turn after another server's append was met: without a turn
// they would be evaluated and sent in vain.
const contendedBatches = 32

// doubt is an append whose outcome is unknown. It is in the log if its batch stands after its end, and is not, nor
// will be, if something else stands there, or the log answers and nothing does.
type doubt struct {
	after  drivers.End
	id     drivers.BatchID
	landed bool
	// lost is set when the place where it would stand can be seen no more.
	lost bool
}

// loadFreed is load, but that nothing that is superseded is left in the index.
func (s *Store) loadFreed(ctx context.Context, freed func([]mvcc.Freed)) (*mvcc.Index, error) {
	ix, err := s.load(ctx, freed)
	if err != nil {
		return nil, err
	}
	b := ix.Edit(false)
	freed(b.TakeSuperseded(ix.End.Position))
	return b.Index(ix.End), nil
}

// load reads the whole log, without values, on one goroutine and builds the index on another. A log may have much more that is superseded than fits into
// memory: now and then that is taken out of the index, and given to freed. What came since the last time is left in the index.
func (s *Store) load(ctx context.Context, freed func([]mvcc.Freed)) (*mvcc.Index, error) {
	start := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	slices := make(chan []drivers.Entry, 4)
	var bounds drivers.Bounds
	scanned := make(chan error, 1)
	go func() {
		defer close(slices)
		var err error
		bounds, err = s.scanAll(ctx, false, func(entries []drivers.Entry) error {
			select {
			case slices <- append([]drivers.Entry(nil), entries...):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		scanned <- err
	}()
	b := mvcc.NewIndex().Edit(false)
	loaded, last := 0, int64(0)
	for entries := range slices {
		if err := b.Load(entries); err != nil {
			return nil, err
		}
		last = entries[len(entries)-1].Position
		if loaded += len(entries); loaded >= max(s.opts.loadAtOnce, b.Keys()) {
			freed(b.TakeSuperseded(last))
			loaded = 0
		}
	}
	if err := <-scanned; err != nil {
		return nil, err
	}
	b.Settle()
	ix := b.Index(bounds.End)
	s.opts.Logger.Info("loaded the log", "keys", ix.Keys(), "revision", ix.Rev,
		"compact_revision", ix.Compact, "position", ix.End.Position, "took", time.Since(start))
	return ix, nil
}

// scanAll gives the whole log as it is at one moment. Where others scrub too, it takes more than a scan.
func (s *Store) scanAll(ctx context.Context, values bool, fn func([]drivers.Entry) error) (drivers.Bounds, error) {
	if s.followed != nil {
		return s.followed.Load(ctx, values, fn)
	}
	bounds, err := s.log.ReadIndex(ctx)
	if err != nil || bounds.End.Position == 0 {
		return bounds, err
	}
	return bounds, s.log.Scan(ctx, drivers.ScanOptions{UpTo: bounds.End.Position, Values: values}, fn)
}

// Follow takes in what other servers append, as it comes, until ctx ends. On a log to which nobody else appends there is nothing to do.
func (s *Store) Follow(ctx context.Context) error {
	for s.followed != nil && ctx.Err() == nil {
		err := s.followed.Moved(ctx, s.index.Load().End)
		if err == nil {
			err = s.takeIn(ctx)
		}
		if err != nil && ctx.Err() == nil {
			// It is told by readFailed or failed. A request or the next try may bring it back.
			select {
			case <-time.After(followAgain):
			case <-s.stopped:
				return nil
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// takeIn brings the index to where the log is known to end: for a replica without asking anybody.
func (s *Store) takeIn(ctx context.Context) error {
	if s.replica != nil {
		return s.edit(ctx, edit{upTo: s.replica.Known().End.Position})
	}
	_, err := s.Linearizable(ctx)
	return err
}

// followAgain is the pause after a failure to take in what others append.
const followAgain = time.Second

// takeTurn takes the sole right to append, if that has been contended of late, and takes in what was appended before.
func (s *Store) takeTurn(ctx context.Context) (drivers.Turn, error) {
	if s.shared == nil || s.contended == 0 {
		return nil, nil
	}
	t, err := s.shared.Hold(ctx)
	if errors.Is(err, drivers.ErrUnresolved) {
		if err = s.catchUp(ctx); err == nil {
			t, err = s.shared.Hold(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	s.contended--
	end := s.index.Load().End
	if err := s.arrive(ctx, t.Bounds().End); err != nil {
		t.Release()
		return nil, err
	}
	if s.index.Load().End != end {
		s.contended = contendedBatches
	}
	return t, nil
}

// catchUp takes in what stands in the log after the index's end, up to its end now.
func (s *Store) catchUp(ctx context.Context) error {
	bounds, err := s.log.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return s.arrive(ctx, bounds.End)
}

// arrive takes in the log up to its end, as it was told since the last append. An end before the index's means that the log has lost what
// was served.
func (s *Store) arrive(ctx context.Context, end drivers.End) error {
	seen := s.index.Load().End
	if behind(end, seen) {
		return s.divergedAs(fmt.Errorf("the log ends at %d, %d was seen: %w", end.Position, seen.Position, drivers.ErrDiverged))
	}
	if err := s.reach(ctx, end.Position); err != nil {
		return err
	}
	if s.doubt != nil {
		s.doubt = nil
		s.failure.Store(nil)
	}
	return nil
}

// reach takes in the log up to a position at least, if the index is not there yet.
func (s *Store) reach(ctx context.Context, position int64) error {
	ix := s.index.Load()
	if position <= ix.End.Position {
		return nil
	}
	// Follow, unlike Scan, makes sure that what comes is a continuation of what was seen.
	b, end := ix.Edit(true), ix.End
	err := s.log.Follow(ctx, ix.End, func(batch *drivers.Batch) error {
		if err := b.Load(batch.Entries); err != nil {
			return err
		}
		if d := s.doubt; d != nil && d.after == end {
			d.landed = batch.ID == d.id
		}
		end = drivers.End{Position: end.Position + int64(len(batch.Entries)), Batch: batch.ID}
		if end.Position >= position {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough):
		s.publish(b, end)
		return nil
	case errors.Is(err, drivers.ErrScrubbed) && s.followed != nil:
		return s.reload(ctx, err)
	case errors.Is(err, drivers.ErrDiverged):
		return s.divergedAs(err)
	}
	return err
}

// reload drops the index and loads the log anew, after this server has fallen behind what was scrubbed.
func (s *Store) reload(ctx context.Context, why error) error {
	s.opts.Logger.Warn("this server has fallen behind what was scrubbed: loading the log anew", "error", why)
	old, load := s.index.Load(), s.load
	if s.opts.Retain > 0 {
		// What waits is in the log still, and is not to wait twice.
		load = s.loadFreed
	}
	dropped := false
	ix, err := load(ctx, func(freed []mvcc.Freed) { dropped = dropped || len(freed) > 0 })
	if err != nil {
		return err
	}
	if err := s.continued(old, ix); err != nil {
		return err
	}
	if dropped {
		s.dropped.Add(1) // before anybody can take something out of this index (S3)
	}
	if s.doubt != nil {
		s.doubt.lost = true
	}
	s.index.Store(ix)
	s.arrivals.arrived(ix.End.Position)
	s.opts.Reloaded(ix)
	s.opts.Members(ix)
	s.opts.Alarms(ix)
	s.opts.Compacted()
	return nil
}

// continued makes sure, as far as can be seen, that an index that was loaded continues one that was served when loading began.
func (s *Store) continued(old, ix *mvcc.Index) error {
	if ix.Rev < old.Rev || ix.Compact < old.Compact || behind(ix.End, old.End) {
		return s.divergedAs(fmt.Errorf("the log ends at %d and revision %d, %d and %d were seen: %w", ix.End.Position, ix.Rev, old.End.Position, old.Rev, drivers.ErrDiverged))
	}
	return nil
}

// resolve finds out what became of the append in doubt: whether it is in the log. An error says that it is not known.
func (s *Store) resolve(ctx context.Context) (landed bool, err error) {
	d := s.doubt
	switch err := s.catchUp(ctx); {
	case err != nil:
		return false, err
	case d.lost:
		return false, drivers.ErrScrubbed
	}
	return d.landed, nil
}

// divergedAs refuses everything from now on.
func (s *Store) divergedAs(err error) error {
	err = fmt.Errorf("%w: %w: the database has lost what it had acknowledged, as a standby does that is promoted without the last commits of its primary; "+
		"this server answers nothing until it is started again", ErrStorage, err)
	if s.diverged.CompareAndSwap(nil, &err) {
		s.opts.Logger.Error("the log has another history than the one that was served", "error", err)
		s.opts.Diverged(err)
	}
	return *s.diverged.Load()
}
