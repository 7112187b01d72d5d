package raft

import (
	"errors"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// restored makes the founding members of a cluster whose log begins with a batch.
func (c *cluster) restored(n int) (end drivers.End) {
	c.t.Helper()
	var voters []uint64
	for id := range n {
		voters = append(voters, uint64(id+1))
	}
	b := newBatch(3, 10)
	end = drivers.End{Position: 3, Batch: b.ID}
	for _, id := range voters {
		file, err := sqlite.Open(c.t.Context(), c.options(id).Database)
		if err != nil {
			c.t.Fatal(err)
		}
		err = errors.Join(file.Append(c.t.Context(), drivers.End{}, b), file.Close(), Bootstrap(c.options(id), Identity{Cluster: 7, Member: id}, voters, end))
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return end
}

// unbegun starts a member whose network is asked for, and gives what the Log says then.
func (c *cluster) unbegun(id uint64) (unbegun bool) {
	c.t.Helper()
	l, err := Open(c.t.Context(), c.options(id))
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	err = l.Start(func(Identity) (Network, error) {
		unbegun = l.Unbegun()
		return nil, errSeen
	})
	if !errors.Is(err, errSeen) {
		c.t.Fatal(err)
	}
	return unbegun
}

// TestUnbegun: a founder has not begun until it has an entry on disk, however often it was started, and if it has voted too. Who has joined, or has always been alone, is no founder.
func TestUnbegun(t *testing.T) {
	c := newCluster(t)
	c.restored(3)
	for range 2 {
		if !c.unbegun(1) {
			t.Fatal("it was never started, and has begun")
		}
	}
	// It stands for election, and nobody hears it.
	o := c.options(1)
	o.PreVote = false
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	net, stop := c.network(l)
	if err := l.Start(net); err != nil {
		t.Fatal(err)
	}
	for term := uint64(0); term < 2; {
		_, now, _, changed := l.Leader()
		if term = now; term < 2 {
			<-changed
		}
	}
	if !l.Unbegun() {
		t.Error("it runs, and has begun without the others")
	}
	stop()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !c.unbegun(1) {
		t.Error("it has voted for itself, and has begun")
	}
	for id := range uint64(3) {
		c.open(id + 1)
	}
	c.put(10)
	for id := range uint64(3) {
		if l := c.log(id + 1); l.Applied() > 1 && l.Unbegun() {
			t.Errorf("member %d has an entry, and has not begun", id+1)
		}
	}
	_, leader := c.leader(0)
	if leader.Unbegun() {
		t.Error("the leader has not begun")
	}
	who, _ := c.leader(0)
	c.close(who)
	if c.unbegun(who) {
		t.Error("the leader was stopped, and has not begun")
	}
	if err := Join(c.options(4), Identity{Cluster: 7, Member: 4}); err != nil {
		t.Fatal(err)
	}
	if c.unbegun(4) {
		t.Error("who joins counts as a founder")
	}
	alone := newCluster(t)
	alone.found(1)
	if alone.log(1).Unbegun() {
		t.Error("it is alone, and has not begun")
	}
}

// TestOrigin: what a cluster began with stays known, when the Raft log is cut, when a copy is installed, and when a new cluster is forced.
func TestOrigin(t *testing.T) {
	c := newCluster(t)
	end := c.restored(3)
	want := origin(end)
	if want == 0 || want == origin(drivers.End{Position: 3, Batch: newBatch(3, 10).ID}) || origin(drivers.End{}) != 0 || origin(drivers.End{Position: 1}) == 0 {
		t.Fatalf("the origin is %x", want)
	}
	is := func(what string, l *Log) {
		t.Helper()
		if id, _ := l.Clustered(); id.Origin != want {
			t.Errorf("%s: the origin is %x, and was %x", what, id.Origin, want)
		}
	}
	for id := range uint64(3) {
		is("founded", c.open(id+1))
	}
	away, _ := c.leader(0)
	c.close(away)
	for range 120 { // which cuts the Raft log twice
		end = c.putWithout(away, 10)
	}
	is("after an absence", c.open(away))
	other := away%3 + 1
	c.same(away, other, end)
	is("with a copy", c.log(away))
	c.close(other)
	is("opened again", c.open(other))
	for id := range uint64(3) {
		c.close(id + 1)
	}
	l, err := Open(t.Context(), c.options(away))
	if err != nil {
		t.Fatal(err)
	}
	err = l.ForceNew(t.Context(), func(Identity) error { return nil })
	if err := errors.Join(err, l.EndForcing(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if c.unbegun(away) {
		t.Error("a new cluster was forced, and has not begun")
	}
	is("forced", c.open(away))
}
