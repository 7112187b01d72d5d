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
	if _, err := n.log.fetchCopy(t.Context(), n.net, 1, snap); err != nil {
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

// TestCopyOfAnEarlierState: a copy that ends before the member's own log, though not before the marker, is neither fetched nor installed.
func TestCopyOfAnEarlierState(t *testing.T) {
	c, n, snap := joining(t)
	end := c.log(1).Known().End
	ahead := drivers.End{Position: end.Position + 1, Batch: drivers.BatchID{1}}
	if err := n.do(t.Context(), func() {
		n.log.tail.reset(ahead, 0)
		_, mark := c.log(1).fileEnd()
		n.fetched = &fetched{snap: snap, stand: &Stand{End: end, Mark: mark}}
	}); err != nil {
		t.Fatal(err)
	}
	for kept := true; kept; {
		if err := n.do(t.Context(), func() { kept = n.fetched != nil }); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.log.Known().End; got != ahead {
		t.Errorf("it ends at %v, want %v", got, ahead)
	}
	if _, err := n.log.fetchCopy(t.Context(), n.net, 1, snap); err == nil {
		t.Error("it is fetched")
	}
}

// TestCopyIsRemoved: a copy that is of no use does not stay on the disk, nor does one that a start finds.
func TestCopyIsRemoved(t *testing.T) {
	c, n, snap := joining(t)
	path := n.log.opts.Database.Path + copySuffix
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, mark := c.log(1).fileEnd()
	if err := n.do(t.Context(), func() {
		// What it has is ahead of the copy.
		n.log.tail.reset(drivers.End{Position: c.log(1).Known().End.Position + 1}, 0)
		n.fetched = &fetched{snap: snap, stand: &Stand{End: c.log(1).Known().End, Mark: mark}}
	}); err != nil {
		t.Fatal(err)
	}
	for kept := true; kept; {
		if err := n.do(t.Context(), func() { kept = n.fetched != nil }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("passed over, it is there: %v", err)
	}
	c.close(2)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.open(2)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a start, it is there: %v", err)
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
	_, err := l.Load(t.Context(), false, func([]drivers.Entry) error {
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
	err := l.ServeCopy(t.Context(), 2, func(p Part) error {
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
				_ = to.Deliver(proto.Clone(m).(*raftpb.Message))
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

// fill appends more than a Raft log keeps, and has that of the leader cut.
func (c *cluster) fill(leader *Log) (end drivers.End) {
	c.t.Helper()
	for range 150 {
		end = c.put(100)
	}
	c.cut(leader)
	return end
}

// cut has a member's Raft log cut behind all that it has applied.
func (c *cluster) cut(l *Log) {
	c.t.Helper()
	if err := l.flush(c.t.Context()); err != nil {
		c.t.Error(err)
	}
	n := l.node.Load()
	if err := n.do(c.t.Context(), n.cut); err != nil {
		c.t.Error(err)
	}
}

// await waits until a leader sees a member so.
func (c *cluster) await(leader *Log, id uint64, so func(Progress) bool) {
	c.t.Helper()
	for {
		s, err := leader.Status(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		if p, known := s.Progress[id]; known && so(p) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// held has the first copy wait: begun is closed when it begins, and it goes on when hold is closed. It counts the copies.
func (c *cluster) held() (begun, hold chan struct{}, copies *atomic.Int64) {
	begun, hold, copies = make(chan struct{}), make(chan struct{}), new(atomic.Int64)
	c.fabric.copying = func(ctx context.Context) {
		if copies.Add(1) == 1 {
			close(begun)
			select {
			case <-hold:
			case <-ctx.Done():
			}
		}
	}
	return begun, hold, copies
}

// behind has a member of three be too far behind to get the log of any other one, and waits until it begins to fetch a copy.
func (c *cluster) behind(begun chan struct{}) (leader, behind uint64) {
	c.t.Helper()
	leader, l := c.leader(0)
	behind = leader%3 + 1
	c.await(l, behind, func(p Progress) bool { return p.Active })
	c.fabric.isolate(behind, true)
	// As long as the leader takes it for active it keeps what it lacks.
	c.await(l, behind, func(p Progress) bool { return !p.Active })
	end := c.fill(l)
	other := 6 - leader - behind
	c.same(leader, other, end)
	c.cut(c.log(other))
	c.fabric.isolate(behind, false)
	<-begun
	return leader, behind
}

// TestCopyTakesLong: who has fetched a copy gets the rest from the log, however much that has grown meanwhile.
func TestCopyTakesLong(t *testing.T) {
	c := newCluster(t)
	begun, hold, copies := c.held()
	c.found(3)
	id, behind := c.behind(begun)
	c.fill(c.log(id))
	end := c.fill(c.log(id))
	close(hold)
	c.same(id, behind, end)
	if n := copies.Load(); n != 1 {
		t.Errorf("%d copies were made", n)
	}
}

// TestCopyOutlivesLead: a copy is of use though another member leads when it is whole, and has offered markers since that it does not cover.
func TestCopyOutlivesLead(t *testing.T) {
	c := newCluster(t)
	begun, hold, copies := c.held()
	c.found(3)
	id, behind := c.behind(begun)
	next := 6 - id - behind
	if err := c.log(id).Transfer(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	l := c.log(next)
	var end drivers.End
	for range 2 {
		c.await(l, behind, func(p Progress) bool { return p.Copying })
		end = c.fill(l)
		l.SnapshotLost(behind)
	}
	close(hold)
	c.same(next, behind, end)
	if n := copies.Load(); n != 1 {
		t.Errorf("%d copies were made", n)
	}
}

// TestSnapshotLostWhileFetched: a connection that breaks while a member fetches a copy does not make the copy useless.
func TestSnapshotLostWhileFetched(t *testing.T) {
	c := newCluster(t)
	begun, hold, copies := c.held()
	c.found(3)
	id, behind := c.behind(begun)
	l := c.log(id)
	var end drivers.End
	for range 3 {
		c.await(l, behind, func(p Progress) bool { return p.Copying })
		end = c.fill(l)
		l.SnapshotLost(behind)
	}
	close(hold)
	c.same(id, behind, end)
	if n := copies.Load(); n != 1 {
		t.Errorf("%d copies were made", n)
	}
}

// TestAnswerLost: that a copy was installed does not come through to the leader. It is told when it offers another one, and that is not made.
func TestAnswerLost(t *testing.T) {
	c := newCluster(t)
	begun, hold, copies := c.held()
	var who, lost atomic.Uint64
	c.fabric.loses = func(m *raftpb.Message) bool {
		return m.GetFrom() == who.Load() && m.GetType() == raftpb.MsgAppResp && !m.GetReject() && lost.CompareAndSwap(0, m.GetIndex())
	}
	c.found(3)
	id, behind := c.behind(begun)
	c.fill(c.log(id))
	end := c.fill(c.log(id))
	who.Store(behind)
	close(hold)
	c.same(id, behind, end)
	if n := copies.Load(); n != 1 || lost.Load() == 0 {
		t.Errorf("%d copies were made, and the answer %d was lost", n, lost.Load())
	}
}

// TestCopyWithoutLead: a copy that is whole while nobody leads waits for who will.
func TestCopyWithoutLead(t *testing.T) {
	c := newCluster(t)
	begun, hold, copies := c.held()
	c.found(3)
	id, behind := c.behind(begun)
	n := c.log(behind).node.Load()
	c.fabric.isolate(behind, true)
	for _, _, _, changed := c.log(behind).Leader(); n.lead.Load() != 0; _, _, _, changed = c.log(behind).Leader() {
		<-changed
	}
	close(hold)
	for whole := false; !whole; {
		if err := n.do(t.Context(), func() { whole = n.fetched != nil && n.fetched.stand != nil }); err != nil {
			t.Fatal(err)
		}
	}
	c.fabric.isolate(behind, false)
	c.same(id, behind, c.put(100))
	if n := copies.Load(); n != 1 {
		t.Errorf("%d copies were made", n)
	}
}

// TestCopyBesideAnother: a member that has not heard that it needs a copy is asked again while another one takes its time to fetch one.
func TestCopyBesideAnother(t *testing.T) {
	c := newCluster(t)
	begun, hold, _ := c.held()
	defer close(hold)
	var lost atomic.Bool
	c.fabric.loses = func(m *raftpb.Message) bool {
		return m.GetType() == raftpb.MsgSnap && m.GetTo() == 4 && lost.CompareAndSwap(false, true)
	}
	c.found(3)
	id, _ := c.behind(begun)
	if err := Join(c.options(4), Identity{Cluster: 7, Member: 4}); err != nil {
		t.Fatal(err)
	}
	c.open(4)
	if err := c.log(id).Configure(t.Context(), []Member{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4, Learner: true}}); err != nil {
		t.Fatal(err)
	}
	c.same(id, 4, c.put(100))
	if !lost.Load() {
		t.Error("nothing was lost")
	}
}

// TestCopyFromAHungSource: a copy of which nothing comes is broken off, and another member's is fetched.
func TestCopyFromAHungSource(t *testing.T) {
	c := newCluster(t)
	c.copyTimeout = 500 * time.Millisecond
	begun, hold, copies := c.held()
	defer close(hold)
	c.found(3)
	id, behind := c.behind(begun)
	next := 6 - id - behind
	if err := c.log(id).Transfer(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	c.same(next, behind, c.put(10))
	if n := copies.Load(); n < 2 {
		t.Errorf("%d copies were made", n)
	}
}

// TestCopyToAHungMember: a copy of which nothing is taken is broken off. A scrub that waits for it keeps nobody else from the file.
func TestCopyToAHungMember(t *testing.T) {
	c := newCluster(t)
	c.copyTimeout = time.Second
	c.found(1)
	c.put(10)
	c.put(10)
	_, l := c.leader(0)
	if err := l.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	hung, scrubbed := make(chan error, 1), make(chan error, 1)
	begun, hold := make(chan struct{}), make(chan struct{})
	defer close(hold)
	go func() {
		hung <- l.ServeCopy(t.Context(), 2, func(Part) error {
			close(begun)
			<-hold
			return nil
		})
	}()
	<-begun
	go func() { scrubbed <- l.Scrub(t.Context(), []int64{1}) }()
	for range 10 { // of which the scrub comes before some
		if err := l.ServeCopy(t.Context(), 3, func(Part) error { return nil }); err != nil {
			t.Errorf("another member's copy: %v", err)
		}
		if _, err := l.Load(t.Context(), false, func([]drivers.Entry) error { return nil }); err != nil {
			t.Errorf("loading: %v", err)
		}
	}
	if err := <-hung; !errors.Is(err, errStalled) {
		t.Errorf("the copy that stands still: %v", err)
	}
	if err := <-scrubbed; err != nil {
		t.Errorf("the scrub: %v", err)
	}
	if l.copies.fetches(2) {
		t.Error("it counts as fetched")
	}
}

// TestCovers: what a copy is of use for.
func TestCovers(t *testing.T) {
	at := func(position int64) drivers.End {
		return drivers.End{Position: position, Batch: drivers.BatchID{byte(position)}}
	}
	stand := Stand{End: at(20), Mark: encodeMark(entryID{7, 3}, 99)}
	for name, test := range map[string]struct {
		marker *raftpb.Snapshot
		covers bool
	}{
		"its own":                    {marker(entryID{7, 3}, nil, at(20), 99), true},
		"entries without a batch":    {marker(entryID{9, 4}, nil, at(20), 99), true},
		"another hash":               {marker(entryID{7, 3}, nil, at(20), 98), false},
		"before its last batch came": {marker(entryID{6, 3}, nil, at(20), 99), false},
		"an earlier end":             {marker(entryID{6, 3}, nil, at(10), 50), true},
		"an earlier end, later":      {marker(entryID{8, 3}, nil, at(10), 50), false},
		"an earlier end, later term": {marker(entryID{6, 4}, nil, at(10), 50), false},
		"a later end":                {marker(entryID{9, 3}, nil, at(30), 50), false},
		"another batch there":        {marker(entryID{7, 3}, nil, drivers.End{Position: 20}, 99), false},
	} {
		if stand.covers(test.marker) != test.covers {
			t.Errorf("%s: covered: %v", name, !test.covers)
		}
	}
}
