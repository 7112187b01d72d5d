package raft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/internal/wake"
	"github.com/keelson-io/keelson/drivers/raft/internal/wal"
)

// Network carries messages to the other members of the cluster.
type Network interface {
	// Send sends messages, each to the member that it names, in order for each. It does not wait: what cannot be sent is dropped.
	Send([]*raftpb.Message)
	// Copy fetches the rows of another member's log, as that member's ServeCopy gives them.
	Copy(ctx context.Context, from uint64, receive func(Part) error) error
}

// node is this server's part in the consensus. One goroutine, run, has all that has no lock or atomic of its own.
type node struct {
	log    *Log
	logger *slog.Logger
	id     uint64
	rn     *raft.RawNode
	wal    *wal.WAL
	save   func(*raftpb.HardState, []*raftpb.Entry, bool) error // the Raft log's, or a test's
	net    Network

	inbox *inbox
	work  chan func()
	done  chan struct{} // closed when run has returned
	turns turns

	state   raft.StateType
	waiters map[drivers.BatchID]chan error
	reads   reads
	// conf is the configuration that is applied. The loop sets it, by setConf, and anybody may read it; what it points to does not change.
	conf atomic.Pointer[raftpb.ConfState]
	// confIndex is the index of the entry that gave conf.
	confIndex uint64
	// appliedTerm is the term of the last entry applied since the start.
	appliedTerm uint64
	// stuck counts the ticks for which a member waits for a copy and fetches none.
	stuck map[uint64]int
	// silent counts the ticks for which a leader has not heard of a member, beginning when Raft says so for the first time.
	silent map[uint64]int
	// hard is Raft's hard state; unsaved is set while its commit index is newer than on disk.
	hard    *raftpb.HardState
	unsaved bool

	applied atomic.Uint64 // index of the last entry applied
	term    atomic.Uint64
	lead    atomic.Uint64 // 0: none is known
	leading atomic.Bool
	changed wake.Signal // term or lead
	confed  wake.Signal // conf
	// removed is closed when this member is in the configuration no more.
	removed   chan struct{}
	isRemoved bool
	member    bool // it has been in the configuration
	failure   atomic.Pointer[error]
	failed    chan struct{} // closed when failure is set
	// fetched is the copy of another member's database that is beside this one's or on its way there, nil if there is none.
	fetched *fetched
	// placed is the index of the snapshot whose copy has taken the file's place, and that the Raft log does not have yet.
	placed uint64
	// begins is the index of the marker that the Raft log began with when it was opened, or a copy was installed. If nothing is agreed on after it, as far as this
	// member knows, the leader may not know that it has it. 0 once that was told again.
	begins uint64
	counts counts
}

// maxMessage bounds the bytes of entries in one message to another member, the other two the messages on the way to it. A larger entry goes alone.
const (
	maxMessage       = 1 << 20
	maxInflight      = 512
	maxInflightBytes = 16 << 20
)

// maxDrained is how many calls the loop takes in at once.
const maxDrained = 4096

func newNode(l *Log, w *wal.WAL, net Network) (*node, error) {
	n := &node{
		log: l, logger: l.logger, id: w.Identity().Member, wal: w, save: w.Save, net: net,
		inbox: newInbox(), work: make(chan func(), 64), done: make(chan struct{}),
		waiters: make(map[drivers.BatchID]chan error), removed: make(chan struct{}), failed: make(chan struct{}), stuck: make(map[uint64]int), silent: make(map[uint64]int),
	}
	n.turns.limit = l.opts.haltTicks()
	n.turns.closed.Store(new(make(chan struct{})))
	snap, err := w.Snapshot()
	if err != nil {
		return nil, err
	}
	hs, conf, err := w.InitialState()
	if err != nil {
		return nil, err
	}
	n.setConf(conf, snap.GetMetadata().GetIndex())
	n.member = isMember(conf, n.id)
	n.hard = hs
	n.begins = snap.GetMetadata().GetIndex()
	n.counts.committed.Store(hs.GetCommit())
	n.applied.Store(snap.GetMetadata().GetIndex())
	n.term.Store(hs.GetTerm())
	n.rn, err = raft.NewRawNode(&raft.Config{
		ID: n.id, Storage: storage{w, n}, Logger: raftLogger{n.logger},
		ElectionTick: l.opts.electionTicks(), HeartbeatTick: 1,
		MaxSizePerMsg: maxMessage, MaxInflightMsgs: maxInflight, MaxInflightBytes: maxInflightBytes,
		CheckQuorum: true, PreVote: l.opts.PreVote, ReadOnlyOption: raft.ReadOnlySafe,
		DisableProposalForwarding: true, StepDownOnRemoval: true,
		// What lies between the marker and what the file has is applied once more, which does nothing: see machine.go.
		Applied: n.applied.Load(),
	})
	return n, err
}

// run is the loop of the consensus, until ctx ends, or the server is stopping and a disk is full, or the log on disk fails for good.
func (n *node) run(ctx context.Context) error {
	defer close(n.done)
	defer n.dropWaiters(drivers.ErrClosed)
	tick := time.NewTicker(n.log.opts.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return n.saveLast()
		case <-tick.C:
			n.tick()
		case <-n.inbox.wake:
		case f := <-n.work:
			f()
		}
		n.turned()
		n.drain()
		n.giveCopy()
		for n.rn.HasReady() {
			if err := n.ready(n.log.patience); err != nil {
				if errors.Is(err, errImpatient) {
					return nil
				}
				n.fail(err)
				return err
			}
		}
		n.dropCopy()
	}
}

// drain takes what else has come, so that it goes to disk and out together.
func (n *node) drain() {
	for _, m := range n.inbox.take() {
		n.step(m)
	}
	for range maxDrained {
		select {
		case f := <-n.work:
			f()
		default:
			return
		}
	}
}

// step takes in a message of another member. A copy of the database comes before the message that says that it was needed.
//
// Where this member alone votes nobody else can lead, or stand for election, so a member that is not in the configuration has nothing to say to it. There is one
// if a new cluster was forced beside others that run: that does not end by their leader's taking this member in again, nor by its answers' disturbing them.
func (n *node) step(m *raftpb.Message) {
	if conf := n.conf.Load(); votesAlone(conf, n.id) && !isMember(conf, m.GetFrom()) {
		return
	}
	switch m.GetType() {
	case raftpb.MsgSnap:
		n.offered(m)
	case raftpb.MsgReadIndex:
		if !n.vouched(m) {
			n.pass(m)
		}
	default:
		n.pass(m)
	}
}

// pass gives a message to Raft.
func (n *node) pass(m *raftpb.Message) {
	// What it refuses is of no use: from a member that is not one, or of an old term.
	if err := n.rn.Step(m); err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
		n.logger.Debug("a message of another member was refused", "from", fmt.Sprintf("%x", m.GetFrom()), "type", m.GetType(), "error", err)
	}
}

func (n *node) tick() {
	n.counts.tick(n, time.Now())
	n.listen()
	n.rn.Tick()
	n.reads.tick(n)
	n.unstick()
}

// fail ends this server's part: its log on disk cannot be trusted any more.
func (n *node) fail(err error) {
	n.failure.Store(&err)
	close(n.failed)
	n.logger.Error("the Raft log failed: this member stops taking part until it is started again", "error", err)
	n.setLead(0, false)
	n.reads.failAll(err)
}

// do has the loop run fn, and waits for it.
func (n *node) do(ctx context.Context, fn func()) error {
	ran := make(chan struct{})
	select {
	case n.work <- func() { fn(); close(ran) }:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.done:
		return n.ended()
	}
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.done:
		return n.ended()
	}
}

// post has the loop run fn, if it is not too busy to be asked, and waits for nothing.
func (n *node) post(fn func()) {
	select {
	case n.work <- fn:
	default:
	}
}

// ended says why the loop is not running.
func (n *node) ended() error {
	if err := n.failure.Load(); err != nil {
		return *err
	}
	return drivers.ErrClosed
}

// deliver takes in a message of another member.
func (n *node) deliver(m *raftpb.Message) error {
	select {
	case <-n.done:
		return n.ended()
	default:
		return n.inbox.push(m)
	}
}

// setLead publishes who leads.
func (n *node) setLead(lead uint64, leading bool) {
	if n.lead.Load() == lead && n.leading.Load() == leading {
		return
	}
	n.leading.Store(leading)
	n.lead.Store(lead)
	n.changed.All()
}

// dropWaiters tells those who wait for an append that its outcome is not known.
func (n *node) dropWaiters(why error) {
	for id, w := range n.waiters {
		delete(n.waiters, id)
		w <- fmt.Errorf("%w: %w", drivers.ErrUncertain, why)
	}
}

// append has a command agreed on, and waits until it is applied here.
func (n *node) append(after drivers.End, batch *drivers.Batch) error {
	if !n.leading.Load() {
		return n.notLeading()
	}
	data := encodeCommand(after, batch)
	id, answer := batch.ID, make(chan error, 1)
	term := batch.Term
	propose := func() {
		// Only here it is certain that the lead was not lost and won again since the author has looked.
		if term != 0 && term != n.rn.BasicStatus().GetTerm() {
			answer <- n.notLeading()
			return
		}
		n.waiters[id] = answer
		if err := n.rn.Propose(data); err != nil {
			delete(n.waiters, id)
			answer <- n.notLeading()
		}
	}
	select {
	case n.work <- propose:
	case <-n.done:
		return n.ended() // it was not proposed
	}
	select {
	case err := <-answer:
		return err
	case <-n.done:
		select {
		case err := <-answer:
			return err
		default:
			return fmt.Errorf("%w: %w", drivers.ErrUncertain, n.ended())
		}
	}
}

func (n *node) notLeading() error {
	if err := n.failure.Load(); err != nil {
		return *err
	}
	return drivers.ErrNotLeader
}
