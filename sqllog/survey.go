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
//	S1  While backlog.whole, every superseded entry in the log as of backlog.epoch is in the backlog, or superseded in the
//	    served index, but for what waits longer than all that is in the backlog (waiting.forgotten). Only survey and Open make it so. Whoever takes something out of the index and
//	    does not keep it in mind ends it before.
//	S2  Scrubs are bound to backlog.epoch, where they are done: so those before one of them have not been lost.
//	S3  Loading the log anew (reload) leaves superseded entries out of the index that is served, and keeps none of them in mind: else a log that keeps much would have to fit into
//	    memory. It counts Store.dropped up before that index is served. backlog.dropped is the count from before the backlog was made whole. While they differ, S1 does not
//	    hold: what Prune takes out of the index is scrubbed only if they are the same after it was taken.
//
// Two servers that take themselves for the keeper do no harm: each has a list of its own that is whole, and all that the other one
// can do to it is to remove what is on it.

// backlog is what this server has to scrub.
type backlog struct {
	positions []int64      // that are due, in no order
	waiting   waiting      // those that are not, or not found to be yet
	fresh     []mvcc.Freed // what came last, and is in neither yet
	whole     bool         // rule S1
	epoch     uint64       // of the log
	dropped   uint64       // rule S3
}

// freshEntries is about how many entries are fresh at most.
const freshEntries = 1 << 20

// add runs in the commit loop.
func (b *backlog) add(freed []mvcc.Freed) { b.fresh = append(b.fresh, freed...) }

// sort has what is fresh wait. All that is to be scrubbed comes this way, also where nothing is kept and it is due at once: who has forgotten an older
// version of a key must not scrub a newer one.
func (b *backlog) sort(most int) {
	b.waiting.add(b.fresh, most)
	b.fresh = nil
}

// isWhole tells whether the rules S1 and S3 hold.
func (s *Store) isWhole() bool {
	return s.backlog.whole && s.backlog.epoch == s.epoch() && s.backlog.dropped == s.dropped.Load()
}

// epoch gives that of a log that has epochs.
func (s *Store) epoch() uint64 {
	if s.followed == nil {
		return 0
	}
	return s.followed.Epoch()
}

// survey makes the backlog whole, if it is not: it loads the log anew, beside the index that is served.
func (s *Store) survey(ctx context.Context, rest func(context.Context) error) error {
	if s.isWhole() {
		return nil
	}
	s.backlog.whole = false
	// What the log is about to be asked for is not to be in the index too, and so wait twice.
	if err := s.pruneIndex(ctx, rest, func([]mvcc.Freed) {}); err != nil {
		return err
	}
	// This waits for edits of an earlier Prune that has given up, too: they take from the index without a trace.
	if err := s.edit(ctx, edit{fn: func(*mvcc.Builder) {}}); err != nil {
		return err
	}
	old, epoch := s.index.Load(), s.epoch()
	found := backlog{whole: true, epoch: epoch, dropped: s.dropped.Load()}
	ix, err := s.loadFreed(ctx, func(freed []mvcc.Freed) { found.waiting.add(freed, s.opts.waitingMost) })
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
	s.backlog = found
	s.opts.Logger.Info("surveyed the log for what is to be scrubbed", "entries", found.waiting.all().Entries)
	return nil
}
