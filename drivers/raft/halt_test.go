package raft

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// TestHaltedLeader: a leader whose disk hangs is followed by another one, says that it stands still, and refuses reads. When the disk answers it goes on.
func TestHaltedLeader(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	end := c.put(10)
	id, l := c.leader(0)
	n, hang := l.node.Load(), make(chan struct{})
	l.opts.Timeout = time.Hour // a read that is not refused waits
	if err := n.do(t.Context(), func() {
		n.save = func(hs *raftpb.HardState, entries []*raftpb.Entry, sync bool) error {
			<-hang
			return n.wal.Save(hs, entries, sync)
		}
	}); err != nil {
		t.Fatal(err)
	}
	batch, appended := newBatch(1, 10), make(chan error, 1)
	go func() { appended <- l.Append(context.Background(), end, batch) }()
	halted := l.Halted()
	waiting := make(chan error, 1)
	go func() {
		_, err := l.ReadIndex(context.Background())
		for err == nil { // asked before the disk hung
			_, err = l.ReadIndex(context.Background())
		}
		waiting <- err
	}()
	other, _ := c.leader(id)
	<-halted
	_, err := l.ReadIndex(t.Context())
	if waited := <-waiting; !errors.Is(err, drivers.ErrNoLeader) || !errors.Is(waited, drivers.ErrNoLeader) {
		t.Errorf("a read gives %v, and one that waited %v", err, waited)
	}
	n.reads.mu.Lock()
	kept := len(n.reads.next)
	n.reads.mu.Unlock()
	for range 100 {
		if _, err := l.ReadIndex(t.Context()); !errors.Is(err, drivers.ErrNoLeader) {
			t.Fatal(err)
		}
	}
	n.reads.mu.Lock()
	if more := len(n.reads.next); more > kept {
		t.Errorf("of 100 reads that were refused %d are kept", more-kept)
	}
	n.reads.mu.Unlock()
	if l.Halted() != halted {
		t.Error("it goes on, and its disk still hangs")
	}
	last := c.putOn(other, 10)
	_, _, _, changed := l.Leader()
	close(hang)
	for l.Halted() == halted {
		<-changed
		_, _, _, changed = l.Leader()
	}
	// Another leader had the first word, or the followers had this entry before.
	if err := <-appended; err != nil && !errors.Is(err, drivers.ErrUncertain) {
		t.Errorf("its append gives %v", err)
	}
	c.same(other, id, last)
	if _, err := l.ReadIndex(t.Context()); err != nil {
		t.Errorf("it reads: %v", err)
	}
}

// TestHaltTicks: a loop that stands still counts as halted after its time, if others can go on without this member; one that turns does not, however slowly.
func TestHaltTicks(t *testing.T) {
	for name, test := range map[string]struct {
		voters       int
		turns, halts bool
	}{
		"three voters":        {3, false, true},
		"two voters":          {2, false, false},
		"one voter":           {1, false, false},
		"three, and it turns": {3, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{}.withDefaults()
			conf := new(raftpb.ConfState)
			for id := range test.voters {
				conf.Voters = append(conf.Voters, uint64(id+1))
			}
			n := &node{log: &Log{opts: o}, logger: o.Logger, state: raft.StateLeader}
			n.conf.Store(conf)
			n.turns.limit = o.haltTicks()
			n.turns.closed.Store(new(make(chan struct{})))
			n.turned()
			var p lookout
			for i := range 3 * o.haltTicks() {
				if p.tick(n); i < o.haltTicks() && n.turns.halted.Load() {
					t.Fatalf("halted after %d ticks", i)
				}
				if test.turns && (i+1)%o.haltTicks() == 0 {
					n.turned()
				}
			}
			if got := n.turns.halted.Load(); got != test.halts {
				t.Errorf("halted: %v", got)
			}
			n.turned()
			if n.turns.halted.Load() {
				t.Error("it turns, and is halted")
			}
		})
	}
}
