package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// reads are the questions how far the log must be applied to have all that was acknowledged. One round of Raft's read index (thesis, 6.4) is under way
// at a time, for all who had come when it began; who comes later waits for the next.
type reads struct {
	mu sync.Mutex
	// next are those who wait for the next round. Who finds nobody there has the loop know; the others only come. Guarded by mu, and all else is the loop's.
	next []*reader

	seq     uint64
	current []*reader
	id      []byte // of the current round
	ticks   int    // for which it has lasted
	began   time.Time
	// paused is set while the next round waits for its time.
	paused bool
	// answered are rounds whose index has not been applied here yet, in order.
	answered []answeredRound
}

type answeredRound struct {
	index   uint64
	waiters []*reader
}

// reader is one who asks.
type reader struct {
	answer chan readAnswer // has room for one
	gone   atomic.Bool     // nobody waits any more
}

type readAnswer struct {
	bounds drivers.Bounds
	err    error
}

// askAgain is the number of ticks after which a round counts as lost.
const askAgain = 5

// join adds one who waits, and tells whether it is the first, who is to see to it that the loop calls asked.
func (r *reads) join(w *reader) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = append(r.next, w)
	return len(r.next) == 1
}

// take gives all who wait for the next round, of whom there is none then.
func (r *reads) take() []*reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.next
	r.next = nil
	return next
}

// asked begins a round, if none is under way.
func (r *reads) asked(n *node) {
	if len(r.current) == 0 && !r.paused {
		r.begin(n)
	}
}

// Under load rounds follow on each other no faster than roundPause for each roundCrowd who wait, and maxPause: each costs every member some messages, however
// many wait for it. A round that few waited for is followed at once.
const (
	roundPause = 500 * time.Microsecond
	roundCrowd = 8
	maxPause   = 2 * time.Millisecond
)

// follow begins the next round, after a pause if there is a crowd.
func (r *reads) follow(n *node, crowd int) {
	pause := min(time.Duration(crowd/roundCrowd)*roundPause, maxPause) - time.Since(r.began)
	if pause <= 0 {
		r.begin(n)
		return
	}
	r.paused = true
	time.AfterFunc(pause, func() { n.post(func() { r.resume(n) }) })
}

func (r *reads) resume(n *node) {
	r.paused = false
	r.asked(n)
}

func (r *reads) begin(n *node) {
	r.current = append(r.current, r.take()...)
	if len(r.current) > 0 {
		r.send(n)
	}
}

// send asks under a new name, which says in what term. Answers to old names are passed over.
func (r *reads) send(n *node) {
	r.seq++
	r.ticks, r.began = 0, time.Now()
	r.id = nil
	for _, part := range []uint64{n.id ^ uint64(n.log.born), r.seq, n.rn.BasicStatus().GetTerm()} {
		r.id = binary.BigEndian.AppendUint64(r.id, part)
	}
	n.rn.ReadIndex(r.id)
}

// termAsked gives the term in which a question was asked, and 0 for one that does not say so.
func termAsked(m *raftpb.Message) uint64 {
	if len(m.GetEntries()) != 1 || len(m.GetEntries()[0].GetData()) != 3*8 {
		return 0
	}
	return binary.BigEndian.Uint64(m.GetEntries()[0].GetData()[2*8:])
}

// vouched answers another member's question at once, if the question itself proves what a round of heartbeats would. A member that
// asks in the leader's term had voted in no later one when it asked. If it and the leader are a majority, as any two of three are, nobody can have been elected since
// whom this leader has not heard of: so what it has committed is all that was acknowledged before the question.
func (n *node) vouched(m *raftpb.Message) bool {
	status := n.rn.BasicStatus()
	term := status.GetTerm()
	// Of an earlier leader's commits this one knows only when an entry of its own term is committed.
	if status.RaftState != raft.StateLeader || n.appliedTerm != term || termAsked(m) != term || !isMajority(n.conf.Load(), n.id, m.GetFrom()) {
		return false
	}
	n.net.Send([]*raftpb.Message{{
		Type: raftpb.MsgReadIndexResp.Enum(), From: &n.id, To: m.From, Term: &term, Index: status.Commit, Entries: m.GetEntries(),
	}})
	return true
}

func (r *reads) tick(n *node) {
	if r.paused {
		r.resume(n) // if it was passed over
	}
	if len(r.current) == 0 {
		r.begin(n) // if the first has gone and has not said that there are others
		return
	}
	if r.ticks++; r.ticks >= askAgain {
		n.counts.slowReads.Add(1)
		r.again(n)
	}
}

// again asks once more, who waits for the next round along with it.
func (r *reads) again(n *node) {
	r.current = slices.DeleteFunc(append(r.current, r.take()...), func(w *reader) bool { return w.gone.Load() })
	if len(r.current) > 0 {
		r.send(n)
	}
}

func (r *reads) confirmed(n *node, rs raft.ReadState) {
	if len(r.current) == 0 || !bytes.Equal(rs.RequestCtx, r.id) {
		return
	}
	crowd := len(r.current)
	r.answered = append(r.answered, answeredRound{rs.Index, r.current})
	r.current = nil
	r.follow(n, crowd)
}

// applied answers those whose index has been applied.
func (r *reads) applied(n *node) {
	if len(r.answered) == 0 {
		return
	}
	at := n.applied.Load()
	i := 0
	for i < len(r.answered) && r.answered[i].index <= at {
		i++
	}
	if i == 0 {
		return
	}
	answer := readAnswer{bounds: n.log.bounds()}
	for _, round := range r.answered[:i] {
		for _, w := range round.waiters {
			w.answer <- answer
		}
	}
	r.answered = append(r.answered[:0], r.answered[i:]...)
}

func (r *reads) failAll(err error) {
	waiting := append(r.current, r.take()...)
	for _, round := range r.answered {
		waiting = append(waiting, round.waiters...)
	}
	for _, w := range waiting {
		w.answer <- readAnswer{err: err}
	}
	r.current, r.answered = nil, nil
}

// readIndex gives the bounds of the log as applied here, which has all that was acknowledged before the call.
func (n *node) readIndex(ctx context.Context) (drivers.Bounds, error) {
	halted := *n.turns.closed.Load()
	select {
	case <-halted: // nobody would take those away who wait no more
		return drivers.Bounds{}, fmt.Errorf("read index: %w", drivers.ErrNoLeader)
	default:
	}
	r := &reader{answer: make(chan readAnswer, 1)}
	defer r.gone.Store(true)
	limit := time.NewTimer(n.log.opts.Timeout)
	defer limit.Stop()
	if n.reads.join(r) {
		select {
		case n.work <- func() { n.reads.asked(n) }:
		case <-halted:
			return drivers.Bounds{}, fmt.Errorf("read index: %w", drivers.ErrNoLeader)
		case <-limit.C: // the loop waits for its disk
			return drivers.Bounds{}, fmt.Errorf("read index: %w", drivers.ErrNoQuorum)
		case <-ctx.Done():
			return drivers.Bounds{}, ctx.Err()
		case <-n.done:
			return drivers.Bounds{}, n.ended()
		}
	}
	select {
	case a := <-r.answer:
		return a.bounds, a.err
	case <-halted:
		return drivers.Bounds{}, fmt.Errorf("read index: %w", drivers.ErrNoLeader)
	case <-limit.C:
		return drivers.Bounds{}, fmt.Errorf("read index: %w", drivers.ErrNoQuorum)
	case <-ctx.Done():
		return drivers.Bounds{}, ctx.Err()
	case <-n.done:
		return drivers.Bounds{}, n.ended()
	}
}
