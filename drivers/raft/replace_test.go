package raft

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// joining gives a cluster of one that has something, and a member that has a whole copy of it beside its empty database, and the marker that it is to be
// installed with.
func joining(t *testing.T) (c *cluster, n *node, snap *raftpb.Snapshot) {
	c = newCluster(t)
	c.found(1)
	for range 10 {
		c.put(100)
	}
	from := c.log(1)
	if err := from.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	end, mark := from.fileEnd()
	entry, hash := decodeMark(mark)
	snap = marker(entry, &raftpb.ConfState{Voters: []uint64{1, 2}}, end, hash)
	if err := Join(c.options(2), Identity{Cluster: 7, Member: 2}); err != nil {
		t.Fatal(err)
	}
	n = c.open(2).node.Load()
	if err := n.log.fetchCopy(t.Context(), n.net, 1); err != nil {
		t.Fatal(err)
	}
	return c, n, snap
}

// TestInstallAgain: a copy that has taken the database's place when the Raft log cannot be written, as on a full disk, is installed when that can be again.
func TestInstallAgain(t *testing.T) {
	c, n, snap := joining(t)
	dir := c.options(2).Dir
	try := func() (err error) {
		if derr := n.do(t.Context(), func() { err = n.install(snap) }); derr != nil {
			t.Fatal(derr)
		}
		return err
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := try(); err == nil {
		t.Fatal("it is installed without a Raft log")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := try(); err != nil {
		t.Fatal(err)
	}
	if b := n.log.Known(); b.End != c.log(1).Known().End {
		t.Errorf("it ends at %v", b.End)
	}
}

// TestInstallWithEntries: entries that come after a copy in one go with it may be agreed on already.
func TestInstallWithEntries(t *testing.T) {
	_, n, snap := joining(t)
	var err error
	derr := n.do(t.Context(), func() {
		index := snap.GetMetadata().GetIndex()
		n.hard = &raftpb.HardState{Term: new(uint64(9)), Vote: new(uint64(0)), Commit: new(index + 1)}
		if err = n.install(snap); err == nil && n.unsaved {
			err = n.wal.Save(n.hard, []*raftpb.Entry{{Index: new(index + 1), Term: new(uint64(9))}}, true)
		}
		n.unsaved = false
	})
	if err != nil || derr != nil {
		t.Error(err, derr)
	}
}

// replacedBySame has it look as if a newer copy came in the file's place. The file must not be in use, but by who calls.
func (l *Log) replacedBySame() {
	l.fileEnds()
	l.fileCtx, l.fileEnds = context.WithCancel(l.ctx)
	l.epoch.Add(1)
}

// TestFollowEndsWhenReplaced: who ends following is not called again, though the file is replaced then.
func TestFollowEndsWhenReplaced(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	_, l := c.leader(0)
	if err := l.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.tail.cut()
	for range 100 {
		calls := 0
		err := l.Follow(t.Context(), drivers.End{}, func(*drivers.Batch) error {
			if calls++; calls == 1 {
				l.replacedBySame()
				runtime.Gosched()
			}
			return errSeen
		})
		if !errors.Is(err, errSeen) || calls != 1 {
			t.Fatalf("%v after %d calls", err, calls)
		}
	}
}

// TestLoadOfTwoEpochs: what was read of two files is no log as it was at one moment.
func TestLoadOfTwoEpochs(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	_, l := c.leader(0)
	_, err := l.Load(t.Context(), func([]drivers.Entry) error {
		l.epoch.Add(1)
		return nil
	})
	if !errors.Is(err, drivers.ErrEpoch) {
		t.Error(err)
	}
}

// TestSlowCopy: a member that takes its time to fetch a copy keeps nobody from replacing the file, and a scrub waits for it no longer than it is told to.
func TestSlowCopy(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	_, l := c.leader(0)
	if err := l.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := l.ServeCopy(t.Context(), func(p Part) error {
		if p.Rows == nil {
			return nil
		}
		if !l.fileMu.TryLock() {
			t.Fatal("the file is held while rows are sent")
		}
		l.replacedBySame()
		l.fileMu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Scrub(ctx, []int64{1}); !errors.Is(err, context.Canceled) {
			t.Errorf("a scrub beside a copy: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := l.rows(t.Context(), l.Epoch()-1, 0, 3); !errors.Is(err, errReplaced) {
		t.Errorf("rows of a file that was replaced: %v", err)
	}
}

// TestSnapshotsInDisorder: the leader says again and again that a member is too far behind. The copy that is being installed stays.
func TestSnapshotsInDisorder(t *testing.T) {
	c := newCluster(t)
	var again sync.WaitGroup
	t.Cleanup(again.Wait)
	c.fabric.snoop = func(m *raftpb.Message) {
		to := c.log(m.GetTo())
		if m.GetType() != raftpb.MsgSnap || to == nil {
			return
		}
		index := m.GetSnapshot().GetMetadata().GetIndex()
		again.Go(func() {
			for to.node.Load().applied.Load() < index && to.Failure() == nil && t.Context().Err() == nil {
				_ = to.Deliver(t.Context(), proto.Clone(m).(*raftpb.Message))
				runtime.Gosched()
			}
		})
	}
	c.found(3)
	id, _ := c.leader(0)
	behind := id%3 + 1
	for range 5 {
		c.fabric.isolate(behind, true)
		var end drivers.End
		for range 150 {
			end = c.put(100)
		}
		c.fabric.isolate(behind, false)
		c.same(id, behind, end)
		if err := c.log(behind).Failure(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCopyTakesLong: who has fetched a copy gets the rest from the log, however much that has grown meanwhile.
func TestCopyTakesLong(t *testing.T) {
	c := newCluster(t)
	var copies atomic.Int64
	begun, hold := make(chan struct{}), make(chan struct{})
	c.fabric.copying = func() {
		if copies.Add(1) == 1 {
			close(begun)
			<-hold
		}
	}
	c.found(3)
	id, _ := c.leader(0)
	behind := id%3 + 1
	c.fabric.isolate(behind, true)
	leader := c.log(id)
	fill := func() (end drivers.End) {
		for range 150 {
			end = c.put(100)
		}
		n := leader.node.Load()
		if err := leader.flush(t.Context()); err != nil {
			t.Error(err)
		}
		leader.cutWAL(n)
		if err := n.do(t.Context(), func() {}); err != nil {
			t.Error(err)
		}
		return end
	}
	// As long as the leader takes it for active it keeps what it lacks.
	for {
		s, err := leader.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !s.Progress[behind].Active {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fill()
	c.fabric.isolate(behind, false)
	<-begun
	fill()
	end := fill()
	close(hold)
	c.same(id, behind, end)
	if n := copies.Load(); n != 1 {
		t.Errorf("%d copies were made", n)
	}
}
