package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// Part is a piece of a copy of the database: first the Stand alone, then Rows, and at last the end.
type Part struct {
	Stand *Stand
	Rows  []sqlite.Row
	Last  bool
}

// Stand is what a copy is of.
type Stand struct {
	End      drivers.End
	Scrubbed int64
	Mark     sqlite.Mark
}

// copies are those that other members fetch from this one.
type copies struct {
	mu sync.Mutex
	// now counts them by the member; since has those of which one began since this member leads.
	now   map[uint64]int
	since map[uint64]bool
}

func (c *copies) init() { c.now, c.since = map[uint64]int{}, map[uint64]bool{} }

// begin takes note that a member begins to fetch one. It calls end when it fetches no more.
func (c *copies) begin(id uint64) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now[id]++
	c.since[id] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.now[id]--; c.now[id] == 0 {
			delete(c.now, id)
		}
	}
}

// fetches tells whether a member fetches one now.
func (c *copies) fetches(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now[id] > 0
}

// begun tells whether a member has begun to fetch one since this one leads.
func (c *copies) begun(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since[id]
}

// forget begins another lead.
func (c *copies) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.since)
	for id := range c.now {
		c.since[id] = true
	}
}

// errStalled breaks off a copy that stands still.
var errStalled = errors.New("nothing of it has come through for too long")

// ServeCopy gives a copy of the database as the file has it now to fn, for a member. Scrubs wait meanwhile; all else goes on. If a part is not taken
// within Options.CopyTimeout it is broken off, and fn may still be in that call when ServeCopy returns.
func (l *Log) ServeCopy(ctx context.Context, id uint64, fn func(Part) error) error {
	release, err := l.share(ctx)
	if err != nil {
		return err
	}
	defer release()
	defer l.copies.begin(id)()
	return l.serveCopy(ctx, func(p Part) error {
		taken := make(chan error, 1)
		go func() { taken <- fn(p) }()
		stalled := time.NewTimer(l.opts.CopyTimeout)
		defer stalled.Stop()
		select {
		case err := <-taken:
			return err
		case <-stalled.C:
			return errStalled
		}
	})
}

func (l *Log) serveCopy(ctx context.Context, fn func(Part) error) error {
	var s Stand
	var epoch uint64
	err := l.withFile(ctx, func(_ context.Context, f *sqlite.Log) error {
		epoch, s.Scrubbed = l.Epoch(), f.Bounds().Scrubbed
		s.End, s.Mark = f.LastMark()
		return nil
	})
	if err != nil {
		return err
	}
	if err := fn(Part{Stand: &s}); err != nil {
		return err
	}
	for after := int64(0); after < s.End.Position; {
		rows, err := l.rows(ctx, epoch, after, s.End.Position)
		if err != nil {
			return err
		}
		if err := fn(Part{Rows: rows}); err != nil {
			return err
		}
		after = rows[len(rows)-1].Position
	}
	return fn(Part{Last: true})
}

// rows gives the next rows of the file of an epoch, some of those in (after, upTo], of which the last is there. While they are sent, which may take long, the file is not held:
// another one can take its place.
func (l *Log) rows(ctx context.Context, epoch uint64, after, upTo int64) (rows []sqlite.Row, err error) {
	err = l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error {
		if l.Epoch() != epoch {
			return errReplaced
		}
		return f.Rows(ctx, after, upTo, func(slice []sqlite.Row) error {
			rows = slices.Clone(slice)
			return errEnough
		})
	})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return nil, err
	case len(rows) == 0:
		return nil, fmt.Errorf("%w: there is no row after %d", drivers.ErrCorrupt, after)
	}
	return rows, nil
}

// copySuffix is added to the database's name while a copy of another member's is made.
const copySuffix = ".copy"

// fetched is a copy of another member's database, beside this one's: on its way there, or whole and waiting to be installed. There is one at a time.
//
// It is of what was agreed on, which no later term changes. So it is kept when the leader changes, and Raft is given it in whatever term it is then.
type fetched struct {
	// stand is what it is of, nil while it is on its way.
	stand *Stand
	// snap is the marker to install it with: the one that it was fetched for, or a later one that it covers.
	snap *raftpb.Snapshot
	// later is the newest marker that was offered while it was on its way.
	later *raftpb.Snapshot
	// given is set when Raft was told of it, or needs it no more, and installed when it has taken the database's place.
	given, installed bool
	// dropped is set while it is removed from the disk.
	dropped bool
}

// offer takes note of another marker that a leader has.
func (f *fetched) offer(snap *raftpb.Snapshot) {
	index := snap.GetMetadata().GetIndex()
	switch {
	case index <= f.snap.GetMetadata().GetIndex():
	case f.stand != nil:
		if f.stand.covers(snap) {
			f.snap = snap
		}
	case index > f.later.GetMetadata().GetIndex():
		f.later = snap
	}
}

// arrived takes note that it is whole.
func (f *fetched) arrived(stand *Stand) {
	f.stand = stand
	if f.later != nil {
		f.offer(f.later)
	}
}

// covers tells whether a copy that stands there has all that a marker stands for. Both are of one log, so it has if it ends no earlier; of the same end, the marker is as
// late as the copy's mark or later, since entries that append nothing may have come between, and the hashes are equal; of an earlier one the marker is before the mark.
func (s *Stand) covers(snap *raftpb.Snapshot) bool {
	stood, chained, err := decodeStand(snap.GetData())
	if err != nil {
		return false
	}
	entry, hash := decodeMark(s.Mark)
	index, term := snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	if s.End == stood {
		// Without a mark it is of the time before there was a Raft log.
		return entry.index == 0 || entry.index <= index && entry.term <= term && hash == chained
	}
	return s.End.Position > stood.Position && entry.index > index && entry.term >= term
}

// offered hears from a leader that this member is too far behind to get the log. It fetches a copy of that leader's database, unless one is there or on its
// way, or the leader may not have heard of the last one. The leader asks again.
func (n *node) offered(m *raftpb.Message) {
	snap, now := m.GetSnapshot(), n.rn.BasicStatus()
	switch {
	case m.GetTerm() < now.GetTerm(), snap.GetMetadata().GetIndex() <= now.GetCommit():
		n.pass(m) // Raft knows what to answer
	case n.fetched != nil:
		n.fetched.offer(snap)
	case n.begins > 0 && n.begins == now.GetCommit():
		n.answer(m)
	default:
		n.fetch(m.GetFrom(), snap)
	}
}

// answer tells a leader what this member's Raft log begins with, since that it was installed may have been lost on the way. It does so once: if that is not enough for the leader, the
// next offer is taken.
func (n *node) answer(m *raftpb.Message) {
	n.begins = 0
	own, err := n.wal.Snapshot()
	if err != nil {
		return
	}
	// Raft has it already, and says so.
	n.pass(&raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(m.GetFrom()), To: new(n.id), Term: new(m.GetTerm()), Snapshot: own,
	})
}

// fetch begins to make a copy of the database of a member that has a marker.
func (n *node) fetch(from uint64, snap *raftpb.Snapshot) {
	f := &fetched{snap: snap}
	n.fetched = f
	n.log.background.Go(func() {
		n.logger.Info("this member is far behind: fetching a copy of the database", "from", fmt.Sprintf("%x", from))
		stand, err := n.log.fetchCopy(n.log.ctx, n.net, from, snap)
		if err != nil {
			n.logger.Warn("the copy of the database was broken off", "from", fmt.Sprintf("%x", from), "error", err)
		}
		_ = n.do(n.log.ctx, func() {
			if err != nil {
				n.fetched = nil
				return
			}
			f.arrived(stand)
		})
	})
}

// giveCopy has Raft install the copy that was fetched, as a snapshot of whoever leads now. While nobody is known to, it waits.
func (n *node) giveCopy() {
	f := n.fetched
	if f == nil || f.stand == nil || f.given {
		return
	}
	now := n.rn.BasicStatus()
	if f.snap.GetMetadata().GetIndex() > now.GetCommit() && n.log.goesOn(f.stand) == nil {
		if now.Lead == raft.None || now.Lead == n.id {
			return
		}
		n.pass(&raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: new(now.Lead), To: new(n.id), Term: new(now.GetTerm()), Snapshot: f.snap,
		})
	}
	f.given = true
}

// dropCopy lets another copy take the place of one that was installed or passed over.
func (n *node) dropCopy() {
	f := n.fetched
	switch {
	case f == nil, !f.given, f.dropped:
	case f.installed:
		n.fetched = nil
	default:
		f.dropped = true
		n.log.background.Go(func() {
			n.log.removeCopy()
			_ = n.do(n.log.ctx, func() { n.fetched = nil })
		})
	}
}

// removeCopy removes a copy that is not used. It may be large.
func (l *Log) removeCopy() {
	if err := sqlite.RemoveCopy(l.opts.Database.Path + copySuffix); err != nil {
		l.logger.Warn("a copy of another member's database, which is of no use any more, is still there", "error", err)
	}
}

// goesOn refuses a copy that ends before what this member has. That is ahead of its Raft log if it was killed when it had a copy and not yet the Raft log for it, and
// another member's file, which is behind what is agreed on, may not be that far.
func (l *Log) goesOn(stand *Stand) error {
	if end, _ := l.tail.ends(); stand.End.Position < end.Position {
		return fmt.Errorf("it ends at %d, and this member has the log up to %d", stand.End.Position, end.Position)
	}
	return nil
}

// fetchCopy makes a whole copy, durable, beside the database, of one that covers a marker.
func (l *Log) fetchCopy(ctx context.Context, net Network, from uint64, snap *raftpb.Snapshot) (*Stand, error) {
	c, err := sqlite.NewCopy(l.opts.Database.Path+copySuffix, l.opts.Database)
	if err != nil {
		return nil, err
	}
	var stand *Stand
	whole := false
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(l.opts.CopyTimeout, func() { cancel(errStalled) })
	defer stalled.Stop()
	err = net.Copy(ctx, from, func(p Part) error {
		// The time that this member itself takes for it does not count.
		stalled.Stop()
		defer stalled.Reset(l.opts.CopyTimeout)
		switch {
		case p.Stand != nil:
			if stand = p.Stand; !stand.covers(snap) {
				return fmt.Errorf("it ends at %d and is not one of what entry %d of Raft's log stands for", stand.End.Position, snap.GetMetadata().GetIndex())
			}
			return l.goesOn(stand)
		case p.Last:
			whole = true
		default:
			return c.Write(p.Rows)
		}
		return nil
	})
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = fmt.Errorf("%w: %w", errStalled, err)
	}
	if err == nil && (stand == nil || !whole) {
		err = errors.New("it has no end")
	}
	if err == nil {
		err = c.Finish(stand.Scrubbed, stand.End)
	}
	if err != nil {
		return nil, errors.Join(err, c.Abort())
	}
	return stand, nil
}

// install puts the copy that was fetched in the place of the database, and has the Raft log begin after it. The copy may be of a later state
// than Raft asks for: the state machine passes over what it has. After a crash between the two steps the database is ahead of the Raft log, which does no harm. After
// an error it can be tried again.
func (n *node) install(snap *raftpb.Snapshot) error {
	n.counts.installing.Store(true)
	defer n.counts.installing.Store(false)
	m := snap.GetMetadata()
	if n.placed != m.GetIndex() {
		if err := n.log.replace(snap); err != nil {
			return fmt.Errorf("install a copy of the database: %w", err)
		}
		n.placed = m.GetIndex()
		if n.fetched != nil {
			n.fetched.installed = true
		}
	}
	// Entries after it may have come along, agreed on already.
	hard := n.hard
	if hard.GetCommit() > m.GetIndex() {
		hard = &raftpb.HardState{Term: new(hard.GetTerm()), Vote: new(hard.GetVote()), Commit: new(m.GetIndex())}
	}
	if err := n.wal.Install(hard, snap); err != nil {
		return fmt.Errorf("install a copy of the database: %w", err)
	}
	n.placed, n.unsaved, n.begins = 0, hard != n.hard, m.GetIndex()
	n.setConf(m.GetConfState(), m.GetIndex())
	n.member = n.member || isMember(n.conf.Load(), n.id)
	n.applied.Store(m.GetIndex())
	n.confed.All()
	n.logger.Info("a copy of the database was installed", "index", m.GetIndex())
	return nil
}

// replace puts the copy in the place of the file.
func (l *Log) replace(snap *raftpb.Snapshot) error {
	stood, _, err := decodeStand(snap.GetData())
	if err != nil {
		return err
	}
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.fileEnds()
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			return err
		}
		l.file = nil
	}
	if !l.swapped {
		if err := sqlite.Swap(l.opts.Database.Path, l.opts.Database.Path+copySuffix); err != nil {
			return err
		}
		l.swapped = true
	}
	file, err := sqlite.Open(context.WithoutCancel(l.ctx), l.opts.Database)
	if err != nil {
		return err
	}
	end, mark := file.LastMark()
	if end.Position < stood.Position {
		return errors.Join(fmt.Errorf("%w: the copy ends at %d, before %d", drivers.ErrCorrupt, end.Position, stood.Position), file.Close())
	}
	l.file, l.swapped = file, false
	l.fileCtx, l.fileEnds = context.WithCancel(l.ctx)
	l.epoch.Add(1)
	_, hash := decodeMark(mark)
	l.tail.reset(end, hash)
	l.replaced.All()
	return nil
}

// stuckTicks is for how many ticks a member may seem to need a copy and fetch none before it is asked anew how far it is.
const stuckTicks = 50

// unstick asks members anew that Raft waits for: that they have a copy, or that they failed to get one, may have been lost on the way. Who fetches one here
// is given its time, and keeps no other from being asked.
func (n *node) unstick() {
	if n.state != raft.StateLeader {
		clear(n.stuck)
		return
	}
	n.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if pr.State != tracker.StateSnapshot || n.log.copies.fetches(id) {
			delete(n.stuck, id)
			return
		}
		n.stuck[id]++
	})
	for id, ticks := range n.stuck {
		if ticks >= stuckTicks {
			delete(n.stuck, id)
			n.rn.ReportSnapshot(id, raft.SnapshotFailure)
		}
	}
}
