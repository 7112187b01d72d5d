package raft

import (
	"errors"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/keelson-io/keelson/drivers"
)

// TestNoFile: while a copy is not in place, what is to go to the file waits.
func TestNoFile(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	_, l := c.leader(0)
	l.fileMu.Lock()
	file := l.file
	l.file = nil
	l.fileMu.Unlock()
	b := newBatch(1, 10)
	if err := l.Append(t.Context(), drivers.End{}, b); err != nil {
		t.Error(err)
	}
	if err := l.flush(t.Context()); !errors.Is(err, drivers.ErrClosed) {
		t.Error(err)
	}
	l.fileMu.Lock()
	l.file = file
	l.fileMu.Unlock()
	if err := l.flush(t.Context()); err != nil || l.tail.pending() > 0 {
		t.Errorf("%v, %d bytes wait", err, l.tail.pending())
	}
}

// TestFlushAfterDoubt: a transaction has landed of which that could not be found out. What came meanwhile goes to the file all the same.
func TestFlushAfterDoubt(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	_, l := c.leader(0)
	l.flushing.Lock()
	c.put(10)
	first, _ := l.tail.unflushed(flushBytes)
	err := l.file.AppendAll(t.Context(), first[0].after, marked(first))
	end := c.put(10)
	l.flushing.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.flush(t.Context()); err != nil {
		t.Error(err)
	}
	if got, _ := l.fileEnd(); got != end {
		t.Errorf("the file ends at %v, want %v", got, end)
	}
}

// TestNoMarkerOfAFileAhead: while the state machine passes over what the file has, no marker says of an earlier entry that the log stood there.
func TestNoMarkerOfAFileAhead(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	c.put(10)
	_, l := c.leader(0)
	if err := l.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := l.node.Load()
	if err := n.do(t.Context(), func() {
		at := n.applied.Load()
		for _, test := range []struct{ applied, marked uint64 }{{at - 1, 0}, {at, at}} {
			n.applied.Store(test.applied)
			if marked, err := n.mark(); err != nil || marked != test.marked {
				t.Errorf("the file is at %d and the state machine at %d: a marker at %d, %v", at, test.applied, marked, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestKeptForActive: what an active member that is behind lacks is kept for it, also at the moment at which Raft begins to count anew who is active.
func TestKeptForActive(t *testing.T) {
	c := newCluster(t)
	var behind atomic.Uint64
	c.fabric.loses = func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgApp && m.GetTo() == behind.Load() }
	c.found(3)
	c.put(10)
	id, l := c.leader(0)
	behind.Store(id%3 + 1)
	for range 30 {
		c.put(10)
	}
	n := l.node.Load()
	progress := func() (match uint64, active bool) {
		active = true
		n.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
			if id == behind.Load() {
				match = pr.Match
			}
			active = active && pr.RecentActive
		})
		return match, active
	}
	for tried := false; !tried; {
		if err := n.do(t.Context(), func() {
			if _, tried = progress(); !tried {
				return
			}
			for {
				n.tick()
				match, active := progress()
				if active {
					continue
				}
				if from := n.keepFrom(n.applied.Load()); from > match {
					t.Errorf("the Raft log would go up to %d, and the member has it up to %d", from, match)
				}
				return
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStopWithoutRoom: a leader with a full disk can be stopped. The append in hand is uncertain, and there after another start or not at all.
func TestStopWithoutRoom(t *testing.T) {
	const raftLog, database = "for the Raft log", "for the database"
	for _, full := range []string{raftLog, database} {
		t.Run(full, func(t *testing.T) {
			c := newCluster(t)
			c.found(1)
			end := c.put(10)
			_, l := c.leader(0)
			n, saved := l.node.Load(), make(chan struct{}, 100)
			if err := n.do(t.Context(), func() {
				n.save = func(hs *raftpb.HardState, entries []*raftpb.Entry, sync bool) error {
					defer func() { saved <- struct{}{} }()
					if full == raftLog {
						return drivers.ErrNoSpace
					}
					return n.wal.Save(hs, entries, sync)
				}
			}); err != nil {
				t.Fatal(err)
			}
			l.flushing.Lock()
			if full == database {
				l.tail.fill(maxPending)
			}
			batch, appended := newBatch(1, 10), make(chan error, 1)
			go func() { appended <- l.Append(t.Context(), end, batch) }()
			<-saved
			l.lose() // as by the end of Run
			if err := <-appended; !errors.Is(err, drivers.ErrUncertain) {
				t.Errorf("the append gives %v", err)
			}
			if full == database {
				l.tail.fill(-maxPending)
			}
			l.flushing.Unlock()
			c.close(1)
			c.open(1)
			_, l = c.leader(0)
			if b, err := l.ReadIndex(t.Context()); err != nil || (b.End.Batch == batch.ID) != (full == database) {
				t.Errorf("it ends at %v: %v", b.End, err)
			}
		})
	}
}

// TestTwoDisks: that the database can be written does not hide that the Raft log cannot.
func TestTwoDisks(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	end := c.put(10)
	_, l := c.leader(0)
	n := l.node.Load()
	var room atomic.Bool
	if err := n.do(t.Context(), func() {
		n.save = func(hs *raftpb.HardState, entries []*raftpb.Entry, sync bool) error {
			if !room.Load() {
				return drivers.ErrNoSpace
			}
			return n.wal.Save(hs, entries, sync)
		}
	}); err != nil {
		t.Fatal(err)
	}
	appended := make(chan error, 1)
	go func() { appended <- l.Append(t.Context(), end, newBatch(1, 10)) }()
	for _, _, _, changed := l.Leader(); l.Failure() == nil; _, _, _, changed = l.Leader() {
		<-changed
	}
	for _, database := range []error{nil, errSeen, nil} {
		l.noted(&l.database, database)
		if err := l.Failure(); !errors.Is(err, drivers.ErrNoSpace) {
			t.Errorf("%v", err)
		}
	}
	room.Store(true)
	if err := <-appended; err != nil {
		t.Error(err)
	}
	if err := l.Failure(); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

// fill has it look as if so many bytes more waited for the file.
func (t *tail) fill(bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting += bytes
}
