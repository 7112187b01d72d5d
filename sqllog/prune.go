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
	if err := s.pruneIndex(ctx, rest); err != nil {
		return 0, err
	}
	patience, cancel := context.WithTimeout(ctx, fencePatience)
	defer cancel()
	if err := s.fence.pass(patience); err != nil && ctx.Err() != nil {
		return 0, err
	}
	// A read that outlasts the patience finds its values gone, and begins anew or is told so.
	return s.scrub(ctx, rest)
}

// pruneIndex moves what is free from the index to s.freed.
func (s *Store) pruneIndex(ctx context.Context, rest func(context.Context) error) error {
	rev := s.index.Load().Compact
	for from, more := "", rev > 0; more; {
		keys, next := s.index.Load().Prunable(from, rev, visitedKeys)
		for chunk := range slices.Chunk(keys, prunedKeys) {
			err := s.edit(ctx, func(b *mvcc.Builder) {
				freed := b.Prune(chunk, rev)
				for _, pos := range freed {
					s.cache.drop(pos)
				}
				s.freed = append(s.freed, freed...)
			})
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
	return s.edit(ctx, func(b *mvcc.Builder) { s.freed = append(s.freed, b.TakeGarbage()...) })
}

// scrub removes s.freed from the log.
func (s *Store) scrub(ctx context.Context, rest func(context.Context) error) (removed int, err error) {
	slices.Sort(s.freed)
	s.freed = slices.Compact(s.freed)
	// The last position stays (it tells the end), and what is freed after it cannot be there yet.
	last, _ := slices.BinarySearch(s.freed, s.index.Load().End.Position)
	for removed < last {
		chunk := s.freed[removed:min(removed+scrubbed, last)]
		if err = s.log.Scrub(ctx, chunk); err != nil {
			break
		}
		removed += len(chunk)
		if err = rest(ctx); err != nil {
			break
		}
	}
	s.freed = slices.Clone(s.freed[removed:])
	return removed, err
}

// Unpruned tells whether there is anything for Prune to do, as far as is known without looking.
func (s *Store) Unpruned() bool { return s.index.Load().Garbage() > 0 }
