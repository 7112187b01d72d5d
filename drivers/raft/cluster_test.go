package raft

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// TestThree: what is appended is on all members, also after the leader is gone and comes back.
func TestThree(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	for range 20 {
		c.put(100)
	}
	id, _ := c.leader(0)
	c.close(id)
	var end drivers.End
	for range 200 { // more than the Raft log keeps
		end = c.put(100)
	}
	c.open(id)
	other, _ := c.leader(id)
	c.same(other, id, end)
	end = c.put(10)
	for _, m := range []uint64{2, 3} {
		c.same(1, m, end)
	}
}

// TestAllStop: a cluster that stops as a whole comes back with everything.
func TestAllStop(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	var end drivers.End
	for range 3 {
		for range 70 {
			end = c.put(1000)
		}
		for id := range uint64(3) {
			c.close(id + 1)
		}
		for id := range uint64(3) {
			c.open(id + 1)
		}
		c.same(1, 2, end)
		c.same(2, 3, end)
	}
}

// TestGrow: a server that is alone becomes the first of three, which have all that it had.
func TestGrow(t *testing.T) {
	c := newCluster(t)
	alone := c.open(1)
	end := drivers.End{}
	for range 30 {
		b := newBatch(2, 50)
		if err := alone.Append(t.Context(), end, b); err != nil {
			t.Fatal(err)
		}
		end = drivers.End{Position: end.Position + 2, Batch: b.ID}
	}
	net, stopNet := c.network(alone)
	t.Cleanup(stopNet)
	if err := alone.Grow(t.Context(), Identity{Cluster: 7, Member: 1}, net); err != nil {
		t.Fatal(err)
	}
	end = c.put(10)
	for id := uint64(2); id <= 3; id++ {
		if err := Join(c.options(id), Identity{Cluster: 7, Member: id}); err != nil {
			t.Fatal(err)
		}
		c.open(id)
		want := []Member{{ID: 1}, {ID: 2}, {ID: 3, Learner: true}}[:id]
		want[id-1].Learner = true
		if err := alone.Configure(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		c.same(1, id, end)
		want[id-1].Learner = false
		if err := alone.Configure(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		end = c.put(10)
	}
	c.close(1)
	end = c.put(10)
	c.same(2, 3, end)
}

// TestStaleLeader: a leader that is cut off answers no read, and its append is not done, or is uncertain.
func TestStaleLeader(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	c.put(10)
	id, old := c.leader(0)
	seen, err := old.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.fabric.isolate(id, true)
	lost := make(chan error, 1)
	go func() { lost <- old.Append(context.Background(), seen.End, newBatch(1, 10)) }()
	next, _ := c.leader(id)
	end := c.putOn(next, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if b, err := old.ReadIndex(ctx); err == nil {
		t.Errorf("a leader that is cut off says that the log ends at %v, and it ends at %v", b.End, end)
	}
	if err := <-lost; !errors.Is(err, drivers.ErrUncertain) && !errors.Is(err, drivers.ErrNotLeader) {
		t.Errorf("its append gives %v", err)
	}
	c.fabric.isolate(id, false)
	if b, err := old.ReadIndex(t.Context()); err != nil || b.End.Position < end.Position {
		t.Errorf("healed, it reads up to %v: %v", b.End, err)
	}
	c.same(id, next, end)
}

// putOn is put by a certain leader.
func (c *cluster) putOn(id uint64, size int) drivers.End {
	c.t.Helper()
	for range 100 {
		l := c.log(id)
		b, err := l.ReadIndex(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		batch := newBatch(3, size)
		err = l.Append(c.t.Context(), b.End, batch)
		if err == nil {
			return drivers.End{Position: b.End.Position + 3, Batch: batch.ID}
		}
		if !errors.Is(err, drivers.ErrConflict) {
			c.t.Fatal(err)
		}
	}
	c.t.Fatal("nothing can be appended")
	return drivers.End{}
}

// TestForceNew: from one member's directory everything comes back that the cluster had acknowledged.
func TestForceNew(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	var end drivers.End
	for range 120 {
		end = c.put(100)
	}
	c.same(1, 2, end)
	for id := range uint64(3) {
		c.close(id + 1)
	}
	o := c.options(2)
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.ForceNew(t.Context(), anyway), l.EndForcing(), l.Close()); err != nil {
		t.Fatal(err)
	}
	c.open(2)
	end = c.put(10)
	s, err := c.log(2).Status(t.Context())
	if err != nil || len(s.Members) != 1 {
		t.Fatalf("status %+v, %v", s, err)
	}
	if err := Join(c.options(4), Identity{Cluster: 7, Member: 4}); err != nil {
		t.Fatal(err)
	}
	c.open(4)
	if err := c.log(2).Configure(t.Context(), []Member{{ID: 2}, {ID: 4}}); err != nil {
		t.Fatal(err)
	}
	c.same(2, 4, end)
}

// anyway lets a new cluster be forced.
func anyway(Identity) error { return nil }

// TestForceNewRefused: who may not become the only member of its cluster is what it was.
func TestForceNewRefused(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	end := c.put(10)
	c.close(1)
	l, err := Open(t.Context(), c.options(1))
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("others run")
	err = l.ForceNew(t.Context(), func(id Identity) error {
		if (id != Identity{Cluster: 7, Member: 1}) {
			t.Errorf("it is %+v", id)
		}
		return why
	})
	if !errors.Is(err, why) {
		t.Errorf("forced: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.open(1) // not broken off
	if _, l := c.leader(0); l.Known().End != end {
		t.Errorf("it ends at %v, want %v", l.Known().End, end)
	}
}

// TestForceNewBeside: a member that is made a cluster of its own while the others run is one, whatever their leader sends it, and they go on as if it were not there.
func TestForceNewBeside(t *testing.T) {
	c := newCluster(t)
	var forced, sent atomic.Int64 // sent: what the others send to the one that is forced
	c.fabric.loses = func(m *raftpb.Message) bool {
		if m.GetTo() == 2 {
			sent.Add(forced.Load())
		}
		return false
	}
	c.found(3)
	c.put(10)
	c.close(2)
	l, err := Open(t.Context(), c.options(2))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.ForceNew(t.Context(), anyway), l.EndForcing(), l.Close()); err != nil {
		t.Fatal(err)
	}
	c.put(10)
	forced.Store(1)
	l = c.open(2)
	for sent.Load() < 50 {
		c.putWithout(2, 10)
		if b, err := l.ReadIndex(t.Context()); err == nil {
			_ = l.Append(t.Context(), b.End, newBatch(3, 10)) // not before it leads
		}
	}
	s, err := l.Status(t.Context())
	if err != nil || s.Leader != 2 || len(s.Members) != 1 {
		t.Errorf("the one that is forced: %+v, %v", s, err)
	}
	c.same(1, 3, c.putWithout(2, 10))
}

// TestForceAnew: a database whose Raft log is lost says that there was one, and begins a cluster of one that grows again. One that never had any says nothing.
func TestForceAnew(t *testing.T) {
	c := newCluster(t)
	if c.open(2).HadRaftLog() {
		t.Error("a new database had a Raft log")
	}
	c.close(2)
	c.found(1)
	end := c.put(10)
	c.close(1)
	o := c.options(1)
	if err := errors.Join(os.RemoveAll(o.Dir), os.Mkdir(o.Dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if there, err := Clustered(o.Dir); there || err != nil {
		t.Errorf("there is a Raft log in an empty directory: %v", err)
	}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !l.HadRaftLog() {
		t.Error("it had no Raft log")
	}
	if err := errors.Join(l.ForceAnew(Identity{Cluster: 7, Member: 1}), l.EndForcing(), l.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.open(1)
		_, l = c.leader(0)
		if got := l.Known().End; got != end {
			t.Errorf("it ends at %v, want %v", got, end)
		}
		end = c.put(10)
		c.close(1)
	}
	c.open(1)
	if err := Join(c.options(4), Identity{Cluster: 7, Member: 4}); err != nil {
		t.Fatal(err)
	}
	c.open(4)
	_, l = c.leader(0)
	if err := l.Configure(t.Context(), []Member{{ID: 1}, {ID: 4, Learner: true}}); err != nil {
		t.Fatal(err)
	}
	c.same(1, 4, c.put(10))
}

// TestForceNewBrokenOff: a member that was to become the only one, and did not, takes part in nothing until it has: whether its Raft log was made anew or not, and whether from an
// old one or for want of one.
func TestForceNewBrokenOff(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	end := c.put(10)
	c.close(1)
	o := c.options(1)
	forced := func(force func(*Log) error) {
		t.Helper()
		l, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(force(l), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, begun := range []func(*Log) error{
		(*Log).noteForcing,
		func(l *Log) error { return l.ForceNew(t.Context(), anyway) },
		func(l *Log) error {
			return errors.Join(os.RemoveAll(o.Dir), l.ForceAnew(Identity{Cluster: 7, Member: 1}))
		},
	} {
		forced(begun)
		forced(func(l *Log) error {
			if err := l.Start(func(Identity) (Network, error) { return nowhere{}, nil }); !errors.Is(err, errForcing) {
				t.Errorf("it starts: %v", err)
			}
			return nil
		})
	}
	forced(func(l *Log) error { return errors.Join(l.ForceNew(t.Context(), anyway), l.EndForcing()) })
	c.open(1)
	if _, l := c.leader(0); l.Known().End != end {
		t.Errorf("it ends at %v, want %v", l.Known().End, end)
	}
}

// TestTransfer: the lead goes where it is sent, and a leader that is removed leaves it to another.
func TestTransfer(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	c.put(10)
	id, l := c.leader(0)
	to := id%3 + 1
	if err := l.Transfer(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	id, l = c.leader(0)
	if id != to {
		t.Fatalf("%d leads, want %d", id, to)
	}
	if err := l.Resign(t.Context(), func(uint64) bool { return true }); err != nil {
		t.Fatal(err)
	}
	id, _ = c.leader(0)
	if id == to {
		t.Fatalf("%d still leads", id)
	}
	var rest []Member
	for m := range uint64(3) {
		if m+1 != id {
			rest = append(rest, Member{ID: m + 1})
		}
	}
	// The one that left may not hear of it: once that is applied, nobody sends it anything.
	next := c.shrink(id, rest)
	c.putOn(next, 10)
	if c.log(next).Configured(id) {
		t.Errorf("%d is a member still", id)
	}
}

// TestHandOn: handed on by each that has it, the lead comes to all voters that are fit before it comes back, and passes over who does not take it.
func TestHandOn(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	all := func(uint64) bool { return true }
	first, l := c.leader(0)
	id := first
	for range 3 {
		if err := l.HandOn(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		next := id%3 + 1
		if id, l = c.leader(id); id != next {
			t.Fatalf("%d leads, want %d", id, next)
		}
	}
	if id != first {
		t.Errorf("%d leads, want %d", id, first)
	}
	after, before := id%3+1, (id+1)%3+1
	if err := l.HandOn(t.Context(), func(id uint64) bool { return id != after }); err != nil {
		t.Fatal(err)
	}
	if id, l = c.leader(id); id != before {
		t.Fatalf("%d leads, want %d: the other one is not fit", id, before)
	}
	gone, left := id%3+1, (id+1)%3+1
	c.close(gone)
	if err := l.HandOn(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if id, _ = c.leader(id); id != left {
		t.Errorf("%d leads, want %d: the other one is not there", id, left)
	}
}

// shrink has a leader leave, and gives the next one, when that has it so.
func (c *cluster) shrink(id uint64, rest []Member) (next uint64) {
	c.t.Helper()
	if err := c.log(id).Configure(c.t.Context(), rest); !errors.Is(err, drivers.ErrNotLeader) {
		c.t.Fatalf("the leader itself has it that it leaves: %v", err)
	}
	next, l := c.leader(id)
	if err := l.Configure(c.t.Context(), rest); err != nil {
		c.t.Fatal(err)
	}
	return next
}

// TestRemovedStays: a member that has applied that it was removed knows so after a restart, whether it was stopped or killed and however much of its Raft log is cut.
func TestRemovedStays(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	id, l := c.leader(0)
	gone := id%3 + 1
	old := c.log(gone)
	c.same(id, gone, c.put(10))
	if err := l.Configure(t.Context(), []Member{{ID: id}, {ID: 6 - id - gone}}); err != nil {
		t.Fatal(err)
	}
	<-old.Removed()
	killed := c.options(gone)
	killed.Dir = filepath.Join(t.TempDir(), "raft")
	if err := os.CopyFS(killed.Dir, os.DirFS(c.options(gone).Dir)); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, o Options) {
		l, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Start(func(Identity) (Network, error) { return nowhere{}, nil }); !errors.Is(err, ErrRemoved) {
			t.Errorf("%s: it starts: %v", name, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	c.cut(old)
	c.close(gone)
	refused("cut and stopped", c.options(gone))
	refused("killed", killed)
}

// TestLeaderLeaves: of six members two are down and the leader leaves. The three that are left are enough of five.
func TestLeaderLeaves(t *testing.T) {
	c := newCluster(t)
	c.found(6)
	c.put(10)
	id, _ := c.leader(0)
	others := slices.DeleteFunc([]uint64{1, 2, 3, 4, 5, 6}, func(m uint64) bool { return m == id })
	for _, down := range others[:2] {
		c.close(down)
	}
	var rest []Member
	for _, m := range others {
		rest = append(rest, Member{ID: m})
	}
	if next := c.shrink(id, rest); c.log(next).Configured(id) || !c.log(next).Configured(next) {
		t.Fatalf("%d leaves, and %d does not say so", id, next)
	}
	c.close(id)
	c.put(10)
}

// TestConfigureLate: who has found out in an earlier term who the members are changes nothing. A member may have been removed since.
func TestConfigureLate(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	_, old := c.leader(0)
	_, term, _, _ := old.Leader()
	if err := old.Resign(t.Context(), func(uint64) bool { return true }); err != nil {
		t.Fatal(err)
	}
	id, now := c.leader(0)
	if err := now.ConfigureIn(t.Context(), term, []Member{{ID: id}}); !errors.Is(err, drivers.ErrNotLeader) {
		t.Error(err)
	}
	if s, err := now.Status(t.Context()); err != nil || len(s.Members) != 3 {
		t.Errorf("%v, %v", s.Members, err)
	}
}

// TestAppendOfATerm: what was decided in one term is not appended in a later one, by the same leader neither.
func TestAppendOfATerm(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	end := c.put(10)
	_, l := c.leader(0)
	_, term, _, _ := l.Leader()
	batch := newBatch(1, 10)
	for _, other := range []uint64{term - 1, term + 1} {
		batch.Term = other
		if err := l.Append(t.Context(), end, batch); !errors.Is(err, drivers.ErrNotLeader) {
			t.Errorf("in term %d a batch of term %d: %v", term, other, err)
		}
	}
	batch.Term = term
	if err := l.Append(t.Context(), end, batch); err != nil {
		t.Error(err)
	}
}

// TestKilledAfterTheOtherLeft: of two members one is removed, and has heard of it. The other one is killed before it writes anything else. It comes back: it is alone, and does not wait
// for the vote of one that is gone.
func TestKilledAfterTheOtherLeft(t *testing.T) {
	c := newCluster(t)
	c.found(2)
	id, l := c.leader(0)
	gone := 3 - id
	old := c.log(gone)
	c.same(id, gone, c.put(10))
	if err := l.Configure(t.Context(), []Member{{ID: id}}); err != nil {
		t.Fatal(err)
	}
	<-old.Removed()
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(c.dirs[id])); err != nil {
		t.Fatal(err)
	}
	c.close(gone)
	c.close(id)
	c.dirs[id] = killed
	c.open(id)
	if lead, _ := c.leader(0); lead != id {
		t.Errorf("%d leads", lead)
	}
}
