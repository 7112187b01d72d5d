package raft

import (
	"errors"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// ErrBusy says that more messages wait than are taken in, and that one was dropped that its sender's Raft counts on: it should be told that this member is unreachable.
var ErrBusy = errors.New("raft: messages come faster than they are taken in")

// The inbox is full when it has inboxSize messages, or about inboxBytes of them: twice what a leader lets be on the way to a member. One message is always let in.
const (
	inboxSize  = 4096
	inboxBytes = 2 * maxInflightBytes
)

// inbox holds the messages of other members until the loop takes them in. It never has anybody wait: what comes when it is full is dropped, which Raft is made for.
type inbox struct {
	wake chan struct{} // has a token when there may be something to take

	mu      sync.Mutex
	waiting []*raftpb.Message
	bytes   int
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// sizeOf is about what a message takes.
func sizeOf(m *raftpb.Message) int {
	size := 64 + len(m.GetContext()) + len(m.GetSnapshot().GetData())
	for _, e := range m.GetEntries() {
		size += 32 + len(e.GetData())
	}
	return size
}

// push lets a message in, or drops it: ErrBusy if its sender should know.
func (b *inbox) push(m *raftpb.Message) error {
	size := sizeOf(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) >= inboxSize || len(b.waiting) > 0 && b.bytes+size > inboxBytes {
		// A sender takes entries for arrived until it hears otherwise, and waits for a copy to be fetched. All else it sends again by itself.
		if len(m.GetEntries()) > 0 || m.GetType() == raftpb.MsgSnap {
			return ErrBusy
		}
		return nil
	}
	b.waiting = append(b.waiting, m)
	b.bytes += size
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return nil
}

// take empties the inbox.
func (b *inbox) take() []*raftpb.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.waiting
	b.waiting, b.bytes = nil, 0
	return all
}
