package sqllog

import (
	"context"
	"slices"
	"time"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Slices of housekeeping: how much is done at once while commits wait.
const (
	prunedKeys    = 512    // keys pruned in the index between two batches
	visitedKeys   = 20_000 // keys looked at on a snapshot, beside the loop
	scrubbed      = 512    // positions removed from the log in one transaction
	fencePatience = 30 * time.Second
)

// Prune frees what the compactions so far have made unreachable: first in the index,
// then, when every read that may need it has ended, in the log, in ascending order, so that a
// version never outlives the tombstone after it. What Options.Retain keeps stays in the log until it is due (retain.go). Between slices it calls rest. Whatever it does not get
// to is found again by the next Prune, also after a crash. One Prune runs at a time.
//
// Of the servers on a shared log it is the keeper that scrubs; the others free their index and remember nothing. So who becomes the
// keeper surveys the log first (survey.go).
//
// It gives the number of entries removed from the log.
func (s *Store) Prune(ctx context.Context, rest func(context.Context) error) (int, error) {
	select {
	case s.pruning <- struct{}{}:
		defer func() {
			kept := s.backlog.waiting.all()
			s.kept.Store(&kept)
			<-s.pruning
		}()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := s.refused(); err != nil {
		return 0, err
	}
	if s.opts.Peers != nil && !s.opts.Peers.Keeper() {
		// At first: an edit that this Prune gives up waiting for is made all the same.
		s.backlog.whole = false
		err := s.pruneIndex(ctx, rest, func([]mvcc.Freed) {})
		if err == nil {
			s.backlog.positions, s.backlog.fresh, s.backlog.waiting = nil, nil, waiting{}
			if s.opts.Retain > 0 {
				s.retention.note(s.index.Load().End.Position)
			}
		}
		return 0, err
	}
	bound, early := s.due(ctx)
	for total := 0; ; {
		removed, err := s.pruneOnce(ctx, rest, bound)
		total += removed
		// What was due and forgotten is found by another survey, as long as that leads anywhere.
		if err == nil && removed > 0 && !s.backlog.whole {
			continue
		}
		if early && total > 0 {
			s.opts.Logger.Warn("the database is nearly as large as its quota allows: less of its history is kept than --history-retention asks for", "removed", total)
		}
		return total, err
	}
}

// pruneOnce is Prune, up to a bound, on the server that scrubs. If there was more that is due than it can keep in mind, the backlog is not whole after it.
func (s *Store) pruneOnce(ctx context.Context, rest func(context.Context) error, bound int64) (int, error) {
	if s.backlog.waiting.lacks(bound) {
		s.backlog.whole = false
	}
	// Once more if the log was loaded anew meanwhile: then something may be missing that is to be scrubbed before what was taken out of the index after it (S3).
	for once := true; once || s.backlog.dropped != s.dropped.Load(); once = false {
		if err := s.survey(ctx, rest); err != nil {
			return 0, err
		}
		if err := s.pruneIndex(ctx, rest, s.backlog.add); err != nil {
			return 0, err
		}
	}
	s.backlog.sort(s.opts.waitingMost)
	s.backlog.positions = append(s.backlog.positions, s.backlog.waiting.take(bound)...)
	patience, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	if err := s.passed(patience); err != nil && ctx.Err() != nil {
		return 0, err
	}
	// A read that outlasts the patience finds its values gone, and begins anew or is told so.
	removed, err := s.scrub(ctx, rest)
	if s.backlog.waiting.lacks(bound) {
		s.backlog.whole = false
	}
	return removed, err
}

// passed waits until nobody needs what was freed: the reads of this server that began before have ended, and
// the others know that it is free.
func (s *Store) passed(ctx context.Context) error {
	if err := s.fence.pass(ctx); err != nil {
		return err
	}
	if s.opts.Peers == nil {
		return nil
	}
	return s.opts.Peers.Reached(ctx, s.index.Load().End.Position)
}

// pruneIndex takes what is free out of the index, and gives it to fn, in the commit loop.
func (s *Store) pruneIndex(ctx context.Context, rest func(context.Context) error, fn func([]mvcc.Freed)) error {
	rev := s.index.Load().Compact
	for from, more := "", rev > 0; more; {
		keys, next := s.index.Load().Prunable(from, rev, visitedKeys)
		for chunk := range slices.Chunk(keys, prunedKeys) {
			err := s.edit(ctx, edit{fn: func(b *mvcc.Builder) {
				freed := b.Prune(chunk, rev)
				for _, f := range freed {
					s.cache.drop(f.Position)
				}
				fn(freed)
			}})
			if err == nil {
				// All edits so far are done.
				if len(s.backlog.fresh) > freshEntries {
					s.backlog.sort(s.opts.waitingMost)
				}
				err = rest(ctx)
			}
			if err != nil {
				return err
			}
		}
		from, more = next, next != ""
	}
	if s.index.Load().Garbage() == 0 {
		return nil
	}
	return s.edit(ctx, edit{fn: func(b *mvcc.Builder) { fn(b.TakeGarbage()) }})
}

// scrub removes the backlog from the log.
func (s *Store) scrub(ctx context.Context, rest func(context.Context) error) (removed int, err error) {
	all := s.backlog.positions
	slices.Sort(all)
	all = slices.Compact(all)
	// The last position stays (it tells the end), and what is freed after it cannot be there yet.
	last, _ := slices.BinarySearch(all, s.index.Load().End.Position)
	for removed < last {
		chunk := all[removed:min(removed+scrubbed, last)]
		// In a log with another history something else stands there, which may be live.
		if err = s.current(ctx); err != nil {
			break
		}
		if err = s.remove(ctx, chunk); err != nil {
			break
		}
		removed += len(chunk)
		if err = rest(ctx); err != nil {
			break
		}
	}
	s.backlog.positions = slices.Clone(all[removed:])
	return removed, err
}

// remove scrubs a slice, where others may take over only if the slices before it are gone for certain.
func (s *Store) remove(ctx context.Context, positions []int64) error {
	if s.followed == nil {
		return s.log.Scrub(ctx, positions)
	}
	return s.followed.ScrubIn(ctx, s.backlog.epoch, positions)
}
