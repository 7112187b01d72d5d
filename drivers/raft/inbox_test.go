package raft

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestFlood: a member whose loop stands still takes in no more than it has memory for, and keeps nobody who brings it something. It goes on afterwards.
func TestFlood(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	id, _ := c.leader(0)
	slow := id%3 + 1
	l := c.log(slow)
	n := l.node.Load()
	hold, held := make(chan struct{}), make(chan struct{})
	n.work <- func() { close(held); <-hold }
	<-held
	message := func(kind raftpb.MessageType, entries ...*raftpb.Entry) *raftpb.Message {
		return &raftpb.Message{Type: &kind, From: new(id), To: new(slow), Term: new(uint64(1)), Entries: entries}
	}
	large := &raftpb.Entry{Data: make([]byte, maxMessage)}
	busy := 0
	for range 4 * inboxBytes / maxMessage {
		switch err := l.Deliver(message(raftpb.MsgApp, large)); {
		case errors.Is(err, ErrBusy):
			busy++
		case err != nil:
			t.Error(err)
		}
	}
	if busy < 3*inboxBytes/maxMessage {
		t.Errorf("%d messages were dropped", busy)
	}
	for range 2 * inboxSize {
		if err := l.Deliver(message(raftpb.MsgHeartbeat)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Deliver(message(raftpb.MsgSnap)); !errors.Is(err, ErrBusy) {
		t.Errorf("a snapshot: %v", err)
	}
	n.inbox.mu.Lock()
	if n.inbox.bytes > inboxBytes || len(n.inbox.waiting) > inboxSize {
		t.Errorf("%d messages of %d bytes wait", len(n.inbox.waiting), n.inbox.bytes)
	}
	n.inbox.mu.Unlock()
	close(hold)
	c.same(id, slow, c.put(10))
}

// TestInboxLarge: a message that is larger than the inbox comes alone.
func TestInboxLarge(t *testing.T) {
	b := newInbox()
	m := &raftpb.Message{Entries: []*raftpb.Entry{{Data: make([]byte, inboxBytes)}}}
	if err := b.push(m); err != nil {
		t.Error(err)
	}
	if err := b.push(m); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
	if got := b.take(); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
	if err := b.push(m); err != nil {
		t.Error(err)
	}
}
