package raft

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// TestReadOfAHungMember: a read is refused after its time, also if the member's loop is not there even to be asked.
func TestReadOfAHungMember(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	_, l := c.leader(0)
	n := l.node.Load()
	hung := make(chan struct{})
	hang := func() { <-hung }
	defer close(hung)
	n.work <- hang
	for full := false; !full; {
		select {
		case n.work <- hang:
		default:
			full = len(n.work) == cap(n.work)
		}
	}
	l.opts.Timeout = time.Millisecond
	if _, err := l.ReadIndex(context.Background()); !errors.Is(err, drivers.ErrNoQuorum) {
		t.Error(err)
	}
}

// TestFollowersRead: one message to the leader and one back is all that a read on a follower takes in a cluster of three, and it needs the third member for nothing.
func TestFollowersRead(t *testing.T) {
	c := newCluster(t)
	var rounds, questions atomic.Int64
	var seen sync.Map
	c.fabric.snoop = func(m *raftpb.Message) {
		switch {
		case m.GetType() == raftpb.MsgHeartbeat && len(m.GetContext()) > 0:
			if _, again := seen.LoadOrStore(string(m.GetContext()), true); !again {
				rounds.Add(1)
			}
		case m.GetType() == raftpb.MsgReadIndex:
			questions.Add(1)
		}
	}
	c.found(3)
	end := c.put(10)
	for asked := false; !asked; {
		lead, l := c.leader(0)
		_, term, _, _ := l.Leader()
		follower, third := lead%3+1, (lead+1)%3+1
		c.fabric.isolate(third, true)
		before, came := rounds.Load(), questions.Load()
		b, err := c.log(follower).ReadIndex(t.Context())
		during, asks := rounds.Load()-before, questions.Load()-came
		c.fabric.isolate(third, false)
		if at, after, _, _ := c.log(follower).Leader(); at != lead || after != term {
			continue // the lead has changed meanwhile
		}
		asked = true
		if err != nil || b.End != end {
			t.Fatalf("the log ends at %v, %v, want %v", b.End, err, end)
		}
		if asks == 0 || during > 0 {
			t.Errorf("%d questions took %d rounds of heartbeats", asks, during)
		}
	}
}

// TestVouched: only a voter's question of the leader's own term is answered without the others.
func TestVouched(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	c.put(10)
	id := func(parts ...uint64) []byte {
		var b []byte
		for _, p := range parts {
			b = binary.BigEndian.AppendUint64(b, p)
		}
		return b
	}
	for led := false; !led; {
		lead, l := c.leader(0)
		n := l.node.Load()
		vouched := func(from uint64, id []byte) bool {
			return n.vouched(&raftpb.Message{Type: raftpb.MsgReadIndex.Enum(), From: &from, To: &n.id, Entries: []*raftpb.Entry{{Data: id}}})
		}
		err := n.do(t.Context(), func() {
			term, other := n.rn.BasicStatus().GetTerm(), lead%3+1
			if led = n.state == raft.StateLeader && n.appliedTerm == term; !led {
				return
			}
			for what, c := range map[string]struct {
				from uint64
				id   []byte
				want bool
			}{
				"of this term":        {other, id(1, 2, term), true},
				"of an earlier term":  {other, id(1, 2, term-1), false},
				"of a later term":     {other, id(1, 2, term+1), false},
				"of no term":          {other, id(1, 2), false},
				"of too many numbers": {other, id(1, 2, 3, term), false},
				"of a stranger":       {99, id(1, 2, term), false},
			} {
				if got := vouched(c.from, c.id); got != c.want {
					t.Errorf("a question %s: %v", what, got)
				}
			}
			n.appliedTerm--
			if vouched(other, id(1, 2, term)) {
				t.Error("a leader vouches before an entry of its term is committed")
			}
			n.appliedTerm++
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestIsMajority(t *testing.T) {
	for _, c := range []struct {
		voters, outgoing, learners, ids []uint64
		want                            bool
	}{
		{voters: []uint64{1}, ids: []uint64{1, 2}, want: true},
		{voters: []uint64{1, 2}, ids: []uint64{1, 2}, want: true},
		{voters: []uint64{1, 2, 3}, ids: []uint64{1, 3}, want: true},
		{voters: []uint64{1, 2, 3}, ids: []uint64{1, 4}},
		{voters: []uint64{1, 2}, learners: []uint64{3}, ids: []uint64{1, 3}},
		{voters: []uint64{1, 2, 3, 4}, ids: []uint64{1, 3}},
		{voters: []uint64{1, 2, 3, 4, 5}, ids: []uint64{1, 3}},
		{voters: []uint64{1, 2, 3}, outgoing: []uint64{1, 2, 4}, ids: []uint64{1, 2}},
		{ids: []uint64{1, 2}},
	} {
		conf := &raftpb.ConfState{Voters: c.voters, VotersOutgoing: c.outgoing, Learners: c.learners}
		if got := isMajority(conf, c.ids...); got != c.want {
			t.Errorf("%v of %v: %v", c.ids, conf, got)
		}
	}
}
