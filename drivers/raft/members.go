package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft/internal/wal"
)

// Member is a member of the configuration: a voter, or a learner, that gets the log and has no vote.
type Member struct {
	ID      uint64
	Learner bool
}

// Progress is how far another member is, as the leader knows.
type Progress struct {
	// Match is the index up to which its Raft log is known to be the leader's.
	Match uint64
	// Active: it was heard of of late, or this member leads for no longer than an election timeout.
	Active bool
	// Copying: it needs a copy of the database.
	Copying bool
}

// Status is this server's part in the consensus. Fields are zero for a server that is alone.
type Status struct {
	ID, Leader, Term uint64
	// Last is the index of the Raft log's last entry, Commit of the last one agreed on, Applied of the last one in the state machine.
	Last, Commit, Applied uint64
	Learner               bool
	Members               []Member
	// Progress of the others, by id, is known to the leader alone.
	Progress map[uint64]Progress
}

// Status gives the state of the consensus now.
func (l *Log) Status(ctx context.Context) (s Status, err error) {
	n := l.node.Load()
	if n == nil {
		return Status{}, nil
	}
	err = n.do(ctx, func() { s = n.status() })
	return s, err
}

// Applied gives the index of the last entry that is in the state machine, 0 for a server that is alone. It waits for nothing.
func (l *Log) Applied() uint64 {
	if n := l.node.Load(); n != nil {
		return n.applied.Load()
	}
	return 0
}

func (n *node) status() Status {
	b := n.rn.BasicStatus()
	s := Status{
		ID: n.id, Leader: b.Lead, Term: b.GetTerm(), Commit: b.GetCommit(), Applied: n.applied.Load(),
		Members: members(n.conf.Load()), Progress: map[uint64]Progress{},
	}
	s.Last, _ = n.wal.LastIndex() // it is at hand, and does not fail
	s.Learner = slices.Contains(s.Members, Member{n.id, true})
	if n.state == raft.StateLeader {
		n.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
			s.Progress[id] = Progress{Match: pr.Match, Active: n.active(id), Copying: pr.State == tracker.StateSnapshot}
		})
	}
	return s
}

// listen counts for how long members are silent. Raft's own note of who is active does not do: every election timeout it begins anew with nobody.
func (n *node) listen() {
	if n.state != raft.StateLeader {
		clear(n.silent)
		return
	}
	n.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if pr.RecentActive || id == n.id {
			n.silent[id] = 0
			return
		}
		n.silent[id]++
	})
}

// active tells whether another member, or this one, was heard of of late.
func (n *node) active(id uint64) bool { return n.silent[id] < n.log.opts.electionTicks() }

// members gives a configuration's members by id.
func members(conf *raftpb.ConfState) []Member {
	var out []Member
	for _, id := range conf.GetVoters() {
		out = append(out, Member{ID: id})
	}
	for _, id := range append(slices.Clone(conf.GetLearners()), conf.GetLearnersNext()...) {
		out = append(out, Member{ID: id, Learner: true})
	}
	slices.SortFunc(out, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}

// Clustered tells whether this server is a member of a cluster, and as which.
func (l *Log) Clustered() (Identity, bool) {
	if n := l.node.Load(); n != nil {
		return n.wal.Identity(), true
	}
	return Identity{}, false
}

// Leader gives the leader that is known, 0 if none is, and the term; leading tells whether it is this server. The channel is closed when any
// of it changes. A server that is alone leads itself, as member 0.
func (l *Log) Leader() (leader, term uint64, leading bool, changed <-chan struct{}) {
	grown := l.grown.Next() // first, so that it is closed by whatever comes after the look
	n := l.node.Load()
	if n == nil {
		return 0, 0, true, grown
	}
	changed = n.changed.Next()
	return n.lead.Load(), n.term.Load(), n.leading.Load(), changed
}

// AwaitLeader waits until there is a leader.
func (l *Log) AwaitLeader(ctx context.Context) error {
	for {
		leader, _, leading, changed := l.Leader()
		if leading || leader != 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return drivers.ErrClosed
		}
	}
}

// ErrRemoved says that a member's own Raft log tells that it was removed.
var ErrRemoved = errors.New("the member has been permanently removed from the cluster")

// refuseRemoved gives ErrRemoved for the Raft log of a member in which it is agreed on that it was removed.
func refuseRemoved(w *wal.WAL) error {
	snap, err := w.Snapshot()
	if err != nil {
		return err
	}
	hs, _, err := w.InitialState()
	if err != nil {
		return err
	}
	id, at := w.Identity().Member, snap.GetMetadata().GetIndex()
	// A marker is never made before the member is in the configuration: who joins has none.
	removed := at > 0 && !isMember(snap.GetMetadata().GetConfState(), id)
	for at < hs.GetCommit() {
		entries, err := w.Entries(at+1, hs.GetCommit()+1, flushBytes)
		if err != nil {
			return err
		}
		for _, e := range entries {
			cc, err := confChangeOf(e)
			if err != nil {
				return err
			}
			if cc != nil {
				for _, change := range cc.AsV2().GetChanges() {
					if change.GetNodeId() == id {
						removed = change.GetType() == raftpb.ConfChangeRemoveNode
					}
				}
			}
			at = e.GetIndex()
		}
	}
	if removed {
		return fmt.Errorf("member %x: %w", id, ErrRemoved)
	}
	return nil
}

// Removed is closed when this server is a member of the configuration no more. It is nil for one that is alone. One that is started again after that is refused
// by Start: ErrRemoved.
func (l *Log) Removed() <-chan struct{} {
	if n := l.node.Load(); n != nil {
		return n.removed
	}
	return nil
}

// Failed is closed when this server's part in the consensus has ended because its Raft log failed: it has to be started again. It is nil for one that is alone.
func (l *Log) Failed() <-chan struct{} {
	if n := l.node.Load(); n != nil {
		return n.failed
	}
	return nil
}

// Configured tells whether a member is in the configuration that this server has applied: as long as it is, the others may need it to agree on
// anything, its own removal included.
func (l *Log) Configured(id uint64) bool {
	n := l.node.Load()
	return n != nil && isMember(n.conf.Load(), id)
}

// Follows tells whether the configuration that this server has applied is one of these members: Configure would have nothing to do. Nobody else is asked.
func (l *Log) Follows(want []Member) bool {
	n := l.node.Load()
	return n != nil && nextChange(n.conf.Load(), n.id, want) == nil
}

// Failure tells what keeps this server from a disk of its own, or ended its part in the consensus.
func (l *Log) Failure() error {
	if n := l.node.Load(); n != nil {
		if p := n.failure.Load(); p != nil {
			return *p
		}
	}
	return l.unwritable()
}

// Configure brings the configuration to these members, one change after the other, and returns when it is applied here. The leader alone can:
// drivers.ErrNotLeader. If the leader itself is to leave, it hands over the lead when nothing else is left to do, and the next one has it leave: so who
// says that the change is agreed on stays until all have heard it. With the leader gone, and others down, those who have not might be too few to go on.
func (l *Log) Configure(ctx context.Context, want []Member) error {
	_, term, _, _ := l.Leader()
	return l.ConfigureIn(ctx, term, want)
}

// ConfigureIn is Configure, for who has found out in a term that this server leads, and who the members are. In a later one they may be others.
func (l *Log) ConfigureIn(ctx context.Context, term uint64, want []Member) error {
	n := l.node.Load()
	if n == nil {
		return drivers.ErrNotLeader
	}
	for {
		confed, changed := n.confed.Next(), n.changed.Next()
		var done bool
		var err error
		if derr := n.do(ctx, func() { done, err = n.change(term, want) }); derr != nil {
			return derr
		}
		if errors.Is(err, errLeaves) {
			if err := l.Resign(ctx, func(uint64) bool { return true }); err != nil && !errors.Is(err, drivers.ErrNoQuorum) {
				return err
			}
			continue
		}
		if done || err != nil {
			return err
		}
		timer := time.NewTimer(configureAgain)
		select {
		case <-confed:
		case <-changed:
		case <-timer.C: // it was passed over, since another one was under way
		case <-ctx.Done():
		case <-n.done:
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

const configureAgain = 500 * time.Millisecond

// errLeaves says that all that is left to do is that the leader leaves, and that another one can see to it.
var errLeaves = errors.New("raft: the leader is to leave")

// change proposes the next change that leads to the members wanted.
func (n *node) change(term uint64, want []Member) (done bool, err error) {
	cc := nextChange(n.conf.Load(), n.id, want)
	if cc == nil {
		return true, nil
	}
	if n.state != raft.StateLeader || n.rn.BasicStatus().GetTerm() != term {
		return false, drivers.ErrNotLeader
	}
	if cc.GetNodeId() == n.id && cc.GetType() == raftpb.ConfChangeRemoveNode && len(n.conf.Load().GetVoters()) > 1 {
		return false, errLeaves
	}
	err = n.rn.ProposeConfChange(cc)
	if errors.Is(err, raft.ErrProposalDropped) {
		return false, drivers.ErrNotLeader
	}
	return false, err
}

// nextChange gives the next change on the way of a member's configuration to the members wanted, nil if none is left.
func nextChange(conf *raftpb.ConfState, self uint64, want []Member) *raftpb.ConfChange {
	have := members(conf)
	for _, m := range want {
		i := slices.IndexFunc(have, func(h Member) bool { return h.ID == m.ID })
		switch {
		case m.Learner && i < 0:
			return confChange(raftpb.ConfChangeAddLearnerNode, m.ID)
		case !m.Learner && (i < 0 || have[i].Learner):
			return confChange(raftpb.ConfChangeAddNode, m.ID)
		}
	}
	var last *raftpb.ConfChange
	for _, h := range have {
		if slices.ContainsFunc(want, func(m Member) bool { return m.ID == h.ID }) {
			continue
		}
		cc := confChange(raftpb.ConfChangeRemoveNode, h.ID)
		if h.ID != self {
			return cc
		}
		last = cc
	}
	return last
}

func confChange(t raftpb.ConfChangeType, id uint64) *raftpb.ConfChange {
	return &raftpb.ConfChange{Type: &t, NodeId: &id}
}

// Transfer has another voter take over the lead. It returns when that leads, or with drivers.ErrNoQuorum when it does not within an election timeout.
func (l *Log) Transfer(ctx context.Context, to uint64) error {
	n := l.node.Load()
	if n == nil {
		return drivers.ErrNotLeader
	}
	ctx, cancel := context.WithTimeout(ctx, l.opts.ElectionTimeout+l.opts.HeartbeatInterval)
	defer cancel()
	if err := n.do(ctx, func() { n.rn.TransferLeader(to) }); err != nil {
		return err
	}
	for {
		leader, _, _, changed := l.Leader()
		if leader == to {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("hand over the lead: %w", drivers.ErrNoQuorum)
		case <-n.done:
			return n.ended()
		}
	}
}

// Resign hands over the lead, if this server has it, to the voter that is furthest of those that are fit. If none is, it does nothing.
func (l *Log) Resign(ctx context.Context, fit func(id uint64) bool) error {
	s, err := l.Status(ctx)
	if err != nil || s.ID == 0 || s.Leader != s.ID {
		return err
	}
	var to uint64
	for _, m := range s.Members {
		if m.ID == s.ID || m.Learner || !fit(m.ID) {
			continue
		}
		p, best := s.Progress[m.ID], s.Progress[to]
		if to == 0 || p.Active && !best.Active || p.Active == best.Active && p.Match > best.Match {
			to = m.ID
		}
	}
	if to == 0 {
		return nil
	}
	return l.Transfer(ctx, to)
}

// HandOn hands over the lead, if this server has it, to the next fit voter by id, after the last of them the first; if that does not take it, to the one
// after it. It is for a reason that others may have too, unknown to this one: handed on for it by each, the lead comes to every fit voter before it comes back.
func (l *Log) HandOn(ctx context.Context, fit func(id uint64) bool) error {
	s, err := l.Status(ctx)
	if err != nil || s.ID == 0 || s.Leader != s.ID {
		return err
	}
	for _, id := range ring(s) {
		if !fit(id) {
			continue
		}
		if err = l.Transfer(ctx, id); !errors.Is(err, drivers.ErrNoQuorum) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// ring gives the other voters, those whose ids come after this member's first. Who needs a copy of the database cannot lead.
func ring(s Status) []uint64 {
	var after, before []uint64
	for _, m := range s.Members {
		switch {
		case m.ID == s.ID || m.Learner || s.Progress[m.ID].Copying:
		case m.ID > s.ID:
			after = append(after, m.ID)
		default:
			before = append(before, m.ID)
		}
	}
	return append(after, before...)
}

// Deliver takes in a message that another member has sent. It does not wait: if more comes than is taken in, the message is dropped, with ErrBusy if the sender's
// Raft is to be told.
func (l *Log) Deliver(m *raftpb.Message) error {
	n := l.node.Load()
	if n == nil {
		return drivers.ErrNotLeader
	}
	return n.deliver(m)
}

// Unreachable says that a message to another member could not be sent.
func (l *Log) Unreachable(id uint64) {
	if n := l.node.Load(); n != nil {
		n.post(func() { n.rn.ReportUnreachable(id) })
	}
}

// SnapshotLost says that another member may not have heard that it needs a copy of the database. One that fetches one here has: what it will need after that is kept
// for it only as long as it counts as waiting.
func (l *Log) SnapshotLost(id uint64) {
	n := l.node.Load()
	if n == nil {
		return
	}
	n.post(func() {
		if !l.copies.fetches(id) {
			n.rn.ReportSnapshot(id, raft.SnapshotFailure)
		}
	})
}
