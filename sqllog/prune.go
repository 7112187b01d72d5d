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
// version never outlives the tombstone after it. Between slices it calls rest. Whatever it does not get
// to is found again by the next Prune, also after a crash. One Prune runs at a time.
//
// It gives the number of entries removed from the log.
func (s *Store) Prune(ctx context.Context, rest func(context.Context) error) (int, error) {
	select {
	case s.pruning <- struct{}{}:
		defer func() { <-s.pruning }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := s.refused(); err != nil {
		return 0, err
	}
	begin := s.index.Load().End.Position
	if err := s.pruneIndex(ctx, rest); err != nil {
		return 0, err
	}
	if s.opts.Peers != nil && !s.opts.Peers.Keeper() {
		// Another server scrubs. Should it end before it has, this one knows what is left.
		s.forget(s.opts.Peers.Cleared())
		return 0, nil
	}
	patience, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	if err := s.passed(patience); err != nil && ctx.Err() != nil {
		return 0, err
	}
	// A read that outlasts the patience finds its values gone, and begins anew or is told so.
	removed, err := s.scrub(ctx, rest)
	switch {
	case len(s.freed) > 0:
		begin = min(begin, s.freed[0].positions[0]-1)
	case err != nil:
		begin = 0
	}
	s.cleared.Store(max(s.cleared.Load(), begin))
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

// Cleared gives the position up to which this server has scrubbed everything superseded.
func (s *Store) Cleared() int64 { return s.cleared.Load() }

// freed are positions of superseded entries that are to be scrubbed.
type freed struct {
	positions []int64
	upTo      int64 // where the log ended when they were found
}

// free adds to what is to be scrubbed.
func (s *Store) free(positions []int64, upTo int64) {
	switch n := len(s.freed); {
	case len(positions) == 0:
	case n > 0 && s.freed[n-1].upTo == upTo:
		s.freed[n-1].positions = append(s.freed[n-1].positions, positions...)
	default:
		s.freed = append(s.freed, freed{positions, upTo})
	}
}

// forget lets go of what another server has scrubbed, all that was superseded up to a position. Who speaks of one that
// the log does not have speaks of another log.
func (s *Store) forget(cleared int64) {
	if cleared <= s.index.Load().End.Position {
		s.freed = slices.DeleteFunc(s.freed, func(f freed) bool { return f.upTo <= cleared })
	}
}

// pruneIndex moves what is free from the index to s.freed.
func (s *Store) pruneIndex(ctx context.Context, rest func(context.Context) error) error {
	rev := s.index.Load().Compact
	for from, more := "", rev > 0; more; {
		keys, next := s.index.Load().Prunable(from, rev, visitedKeys)
		for chunk := range slices.Chunk(keys, prunedKeys) {
			err := s.edit(ctx, edit{fn: func(b *mvcc.Builder) {
				positions := b.Prune(chunk, rev)
				for _, pos := range positions {
					s.cache.drop(pos)
				}
				s.free(positions, b.End().Position)
			}})
			if err == nil {
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
	return s.edit(ctx, edit{fn: func(b *mvcc.Builder) { s.free(b.TakeGarbage(), b.End().Position) }})
}

// scrub removes s.freed from the log.
func (s *Store) scrub(ctx context.Context, rest func(context.Context) error) (removed int, err error) {
	var all []int64
	for _, f := range s.freed {
		all = append(all, f.positions...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	end := s.index.Load().End.Position
	// The last position stays (it tells the end), and what is freed after it cannot be there yet.
	last, _ := slices.BinarySearch(all, end)
	for removed < last {
		chunk := all[removed:min(removed+scrubbed, last)]
		// In a log with another history something else stands there, which may be live.
		if err = s.current(ctx); err != nil {
			break
		}
		if err = s.log.Scrub(ctx, chunk); err != nil {
			break
		}
		removed += len(chunk)
		if err = rest(ctx); err != nil {
			break
		}
	}
	s.freed = nil
	s.free(slices.Clone(all[removed:]), end)
	return removed, err
}

// Unpruned tells whether there is anything for Prune to do, as far as is known without looking.
func (s *Store) Unpruned() bool { return s.index.Load().Garbage() > 0 }
