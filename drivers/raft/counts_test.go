package raft

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// TestCounts: every member sees the leaders that there are, and how far it is.
func TestCounts(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	c.put(10)
	first, l := c.leader(0)
	end := c.put(10)
	for id := range uint64(3) {
		c.same(first, id+1, end)
		counts, clustered := c.log(id + 1).Counts()
		if !clustered || counts.LeaderChanges == 0 || counts.Applied == 0 || counts.Committed < counts.Applied || counts.Installing {
			t.Errorf("member %d: %+v", id+1, counts)
		}
	}
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if counts, _ := l.Counts(); counts.Committed != s.Commit || counts.Applied != s.Applied {
		t.Errorf("%+v, and the status is %+v", counts, s)
	}
	follower := first%3 + 1
	before, _ := c.log(follower).Counts()
	c.close(first)
	c.put(10)
	if after, _ := c.log(follower).Counts(); after.LeaderChanges <= before.LeaderChanges {
		t.Errorf("%d leader changes, and after another one %d", before.LeaderChanges, after.LeaderChanges)
	}
}

// TestCountsAlone: a server that is alone has nothing to agree on. When it grows it has one leader change behind it, as it says alone.
func TestCountsAlone(t *testing.T) {
	c := newCluster(t)
	l := c.open(1)
	if _, clustered := l.Counts(); clustered {
		t.Error("it is clustered")
	}
	net, stopNet := c.network(l)
	t.Cleanup(stopNet)
	if err := l.Grow(t.Context(), Identity{Cluster: 7, Member: 1}, net); err != nil {
		t.Fatal(err)
	}
	if counts, clustered := l.Counts(); !clustered || counts.LeaderChanges < 1 {
		t.Errorf("%v %+v", clustered, counts)
	}
}

// TestSlowReads: a question that nobody answers is asked again, and counted.
func TestSlowReads(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	id, l := c.leader(0)
	c.fabric.isolate(id, true)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := l.ReadIndex(ctx)
		answered <- err
	}()
	for counts, _ := l.Counts(); counts.SlowReads == 0; counts, _ = l.Counts() {
		select {
		case err := <-answered:
			t.Fatalf("answered by a majority of one: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestLateHeartbeats: those of a leader's that went out more than an interval late, one for each other member. Who does not lead sends none.
func TestLateHeartbeats(t *testing.T) {
	const interval = 100 * time.Millisecond
	n := &node{log: &Log{opts: Options{HeartbeatInterval: interval}}}
	n.conf.Store(&raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}})
	now := time.Unix(1, 0)
	for _, c := range []struct {
		state raft.StateType
		after time.Duration
		want  uint64
	}{
		{raft.StateFollower, time.Hour, 0},
		{raft.StateLeader, time.Hour, 0}, // its first
		{raft.StateLeader, interval, 0},
		{raft.StateLeader, 2 * interval, 0},
		{raft.StateLeader, 2*interval + 1, 3},
		{raft.StateLeader, interval, 3},
		{raft.StateLeader, time.Second, 6},
		{raft.StateFollower, time.Second, 6},
		{raft.StateLeader, time.Second, 6},
	} {
		n.state, now = c.state, now.Add(c.after)
		if n.counts.tick(n, now); n.counts.late.Load() != c.want {
			t.Errorf("%v after %v: %d, want %d", c.state, c.after, n.counts.late.Load(), c.want)
		}
	}
}

// TestDisksCounted: each of the two disks tells how long it took, alone neither does.
func TestDisksCounted(t *testing.T) {
	c := newCluster(t)
	var synced, flushed atomic.Int64
	o := c.options(1)
	o.Synced, o.Flushed = func(time.Duration) { synced.Add(1) }, func(time.Duration) { flushed.Add(1) }
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	net, stopNet := c.network(l)
	defer stopNet()
	batch := newBatch(3, 10)
	if err := l.Append(t.Context(), drivers.End{}, batch); err != nil {
		t.Fatal(err)
	}
	if synced.Load() != 0 || flushed.Load() != 0 {
		t.Errorf("alone: %d and %d", synced.Load(), flushed.Load())
	}
	if err := l.Grow(t.Context(), Identity{Cluster: 1, Member: 1}, net); err != nil {
		t.Fatal(err)
	}
	before := synced.Load()
	if err := l.Append(t.Context(), drivers.End{Position: 3, Batch: batch.ID}, newBatch(3, 10)); err != nil {
		t.Fatal(err)
	}
	if synced.Load() <= before {
		t.Error("an append has not synced the Raft log")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if flushed.Load() == 0 {
		t.Error("nothing went to the database")
	}
}
