package sqllog

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// What must not happen: a put p1 is superseded by p2, the key deleted by p3, p2 and p3 are scrubbed and p1 is not. Whoever loads
// that log finds a deleted key again; leases likewise. Within one list of positions the ascending order prevents it, so who
// scrubs must know of everything superseded that is there. It may not if other servers have scrubbed before (what they had not
// got to, only they knew), or if the database has lost scrubs (an asynchronous standby was promoted).
//
// So the keeper derives what is superseded from the log itself, when its backlog is not known to be whole:
//
//	S1  While backlog.whole, every superseded entry in the log as of backlog.epoch is in backlog.positions, or superseded in the
//	    served index. Only survey and Open make it so. Whoever takes something out of the index and
//	    does not keep it in mind ends it before.
//	S2  Scrubs are bound to backlog.epoch, where they are done: so those before one of them have not been lost.
//
// Two servers that take themselves for the keeper do no harm: each has a list of its own that is whole, and all that the other one
// can do to it is to remove what is on it.

// backlog is what this server has to scrub.
type backlog struct {
	positions []int64 // of superseded entries that the served index does not have any more, in no order
	whole     bool    // rule S1
	epoch     uint64  // of the log
}

// add runs in the commit loop.
func (b *backlog) add(positions []int64) { b.positions = append(b.positions, positions...) }

// epoch gives that of a log that has epochs.
func (s *Store) epoch() uint64 {
	if s.followed == nil {
		return 0
	}
	return s.followed.Epoch()
}

// survey makes the backlog whole, if it is not: it loads the log anew, beside the index that is served.
func (s *Store) survey(ctx context.Context) error {
	if s.followed == nil || s.backlog.whole && s.backlog.epoch == s.epoch() {
		return nil
	}
	// This waits for edits of an earlier Prune that has given up, too: they take from the index without a trace.
	if err := s.edit(ctx, edit{fn: func(*mvcc.Builder) {}}); err != nil {
		return err
	}
	old, epoch := s.index.Load(), s.epoch()
	ix, err := s.load(ctx)
	if err != nil {
		return fmt.Errorf("survey the log: %w", err)
	}
	if err := s.continued(old, ix); err != nil {
		return err
	}
	// What was superseded meanwhile must be so in the index that is served, before anything of it is scrubbed.
	if err := s.edit(ctx, edit{upTo: ix.End.Position}); err != nil {
		return err
	}
	if now := s.epoch(); now != epoch {
		return fmt.Errorf("survey the log: %w meanwhile", drivers.ErrEpoch)
	}
	s.backlog = backlog{superseded(ix), true, epoch}
	s.opts.Logger.Info("surveyed the log for what is to be scrubbed", "entries", len(s.backlog.positions))
	return nil
}

// superseded gives the positions of all entries that are not needed, in no order and possibly repeated.
func superseded(ix *mvcc.Index) (positions []int64) {
	b := ix.Edit(false)
	for from, more := "", ix.Compact > 0; more; {
		keys, next := ix.Prunable(from, ix.Compact, visitedKeys)
		positions = append(positions, b.Prune(keys, ix.Compact)...)
		from, more = next, next != ""
	}
	return append(positions, b.TakeGarbage()...)
}
