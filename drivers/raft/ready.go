package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// ready does what Raft asks for, in the order that it asks for it: what is to be on disk is there before anybody hears of it. The leader alone sends
// first, since its own disk is one of those whose word is counted, and is counted later (Raft thesis, 10.2.1).
func (n *node) ready(ctx context.Context) error {
	rd := n.rn.Ready()
	if rd.SoftState != nil {
		n.softState(rd.SoftState)
	}
	if t := rd.HardState.GetTerm(); rd.HardState != nil && t != n.term.Load() {
		n.term.Store(t)
		n.changed.All()
	}
	leading := n.state == raft.StateLeader
	if leading {
		n.net.Send(rd.Messages)
	}
	if err := n.persist(ctx, &rd); err != nil {
		return err
	}
	n.turned()
	if !leading {
		n.net.Send(rd.Messages)
	}
	if err := n.applyAll(ctx, rd.CommittedEntries); err != nil {
		return err
	}
	for _, rs := range rd.ReadStates {
		n.reads.confirmed(n, rs)
	}
	n.reads.applied(n)
	n.rn.Advance(rd)
	return nil
}

func (n *node) softState(s *raft.SoftState) {
	was := n.state
	n.state = s.RaftState
	leading := s.RaftState == raft.StateLeader
	if was != raft.StateLeader && leading {
		n.log.copies.forget()
	}
	if was == raft.StateLeader && !leading {
		n.dropWaiters(errors.New("this member does not lead any more"))
	}
	if s.Lead != n.lead.Load() {
		n.logger.Info("the leader has changed", "leader", fmt.Sprintf("%x", s.Lead), "this_member", fmt.Sprintf("%x", n.id), "term", n.rn.BasicStatus().GetTerm())
	}
	if s.Lead != raft.None && s.Lead != n.lead.Load() {
		n.counts.leaders.Add(1)
	}
	n.setLead(s.Lead, leading)
	n.reads.again(n)
}

// persist brings to disk what must be there. On a full disk it tries until there is room: meanwhile this member is silent, and
// the others do without it.
func (n *node) persist(ctx context.Context, rd *raft.Ready) error {
	if rd.HardState != nil {
		n.hard, n.unsaved = rd.HardState, true
		n.counts.committed.Store(rd.HardState.GetCommit())
	}
	if rd.Snapshot != nil && !raft.IsEmptySnap(rd.Snapshot) {
		if err := n.untilRoom(ctx, func() error { return n.install(rd.Snapshot) }); err != nil {
			return err
		}
	}
	if len(rd.Entries) == 0 && !rd.MustSync {
		// A commit index alone can be learned again: it goes with what comes next.
		return nil
	}
	return n.untilRoom(ctx, func() error {
		var hs *raftpb.HardState
		if n.unsaved {
			hs = n.hard
		}
		err := n.save(hs, rd.Entries, rd.MustSync)
		n.unsaved = n.unsaved && err != nil
		return err
	})
}

// saveLast keeps the commit index, so that the next start has all of the log at once.
func (n *node) saveLast() error {
	if !n.unsaved {
		return nil
	}
	return n.wal.Save(n.hard, nil, true)
}

// roomAgain is the pause before a full disk is tried again.
const roomAgain = 500 * time.Millisecond

func (n *node) untilRoom(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil || errors.Is(err, drivers.ErrNoSpace) {
			n.log.noted(&n.log.raftLog, err)
		}
		if !errors.Is(err, drivers.ErrNoSpace) {
			return err
		}
		select {
		case <-time.After(roomAgain):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errImpatient, ctx.Err())
		}
	}
}

// errImpatient says that a server which is stopping has not waited until there is room on a disk.
var errImpatient = errors.New("the server stops, and there is no room on its disk")

// applyAll gives committed entries to the state machine.
func (n *node) applyAll(ctx context.Context, entries []*raftpb.Entry) error {
	for _, e := range entries {
		if err := n.apply(ctx, e); err != nil {
			return err
		}
		n.applied.Store(e.GetIndex())
		n.appliedTerm = e.GetTerm()
		n.turned()
	}
	return nil
}

func (n *node) apply(ctx context.Context, e *raftpb.Entry) error {
	cc, err := confChangeOf(e)
	switch {
	case err != nil:
		return err
	case cc != nil:
		return n.applyConf(cc, e.GetIndex())
	case len(e.Data) == 0:
		return nil // a new leader's first
	}
	return n.applyCommand(ctx, e)
}

// confChangeOf gives the change of the configuration that an entry is, nil if it is none.
func confChangeOf(e *raftpb.Entry) (cc raftpb.ConfChangeI, err error) {
	switch e.GetType() {
	case raftpb.EntryConfChange:
		v1 := new(raftpb.ConfChange)
		cc, err = v1, proto.Unmarshal(e.Data, v1)
	case raftpb.EntryConfChangeV2:
		v2 := new(raftpb.ConfChangeV2)
		cc, err = v2, proto.Unmarshal(e.Data, v2)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: entry %d of Raft's log: %w", drivers.ErrCorrupt, e.GetIndex(), err)
	}
	return cc, nil
}

// applyCommand is the state machine. A command whose end is the log's is appended, and any other one changes nothing: on every member alike.
//
// After a start it begins at the marker, and what the file has comes once more. None of that is appended again: a command that was, or was refused, came after an end
// before the file's, and its author had seen that end, which the file's last batch has passed (invariant R3).
func (n *node) applyCommand(ctx context.Context, e *raftpb.Entry) error {
	c, err := decodeCommand(e.Data)
	if err != nil {
		return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
	}
	waiter := n.waiters[c.batch.ID]
	delete(n.waiters, c.batch.ID)
	end, hash := n.log.tail.ends()
	if c.after != end {
		if c.after.Position >= end.Position {
			// Its author has seen that end, so the log had it.
			return fmt.Errorf("%w: entry %d of Raft's log comes after %x at position %d, and the log ends with %x at %d", drivers.ErrCorrupt, e.GetIndex(), c.after.Batch, c.after.Position, end.Batch, end.Position)
		}
		if waiter != nil {
			waiter <- drivers.ErrConflict
		}
		return nil
	}
	if err := n.log.awaitRoom(ctx); err != nil {
		return err
	}
	n.log.tail.add(&applied{
		after: c.after, batch: c.batch, entry: entryID{e.GetIndex(), e.GetTerm()},
		chain: chain(hash, e.Data), foreign: waiter == nil,
	})
	if waiter != nil {
		waiter <- nil
	}
	return nil
}

func (n *node) applyConf(cc raftpb.ConfChangeI, index uint64) error {
	n.setConf(n.rn.ApplyConfChange(cc), index)
	// A start is to know that this is agreed on, if nobody is left who could tell: by the configuration before, the vote of one that has been removed would be needed. And who is
	// removed is to find it in its own data. If there is no room for that the others will tell, if there are any.
	if err := n.saveLast(); err != nil && !errors.Is(err, drivers.ErrNoSpace) {
		return err
	}
	switch {
	case isMember(n.conf.Load(), n.id):
		n.member = true
	case n.member && !n.isRemoved:
		n.isRemoved = true
		close(n.removed)
	}
	n.confed.All()
	return nil
}

// setConf takes note of the configuration that an entry gave. It is not changed afterwards.
func (n *node) setConf(conf *raftpb.ConfState, index uint64) {
	n.conf.Store(conf)
	n.confIndex = index
}

// isMajority reports whether members, each given once, are most of those who vote. While a change of several at a time is under way nobody is.
func isMajority(conf *raftpb.ConfState, ids ...uint64) bool {
	votes := 0
	for _, id := range ids {
		if slices.Contains(conf.GetVoters(), id) {
			votes++
		}
	}
	return len(conf.GetVotersOutgoing()) == 0 && votes > len(conf.GetVoters())/2
}

// votesAlone tells whether a member is the only voter.
func votesAlone(conf *raftpb.ConfState, id uint64) bool {
	return len(conf.GetVotersOutgoing()) == 0 && slices.Equal(conf.GetVoters(), []uint64{id})
}

func isMember(conf *raftpb.ConfState, id uint64) bool {
	for _, ids := range [][]uint64{conf.GetVoters(), conf.GetVotersOutgoing(), conf.GetLearners(), conf.GetLearnersNext()} {
		for _, other := range ids {
			if other == id {
				return true
			}
		}
	}
	return false
}
