package peer

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tally counts for a member.
type tally struct {
	sent, received, sendFailed, receiveFailed, disconnected, trips atomic.Int64
}

func (c *tally) Sent(bytes int)          { c.sent.Add(int64(bytes)) }
func (c *tally) Received(bytes int)      { c.received.Add(int64(bytes)) }
func (c *tally) SendFailed(messages int) { c.sendFailed.Add(int64(messages)) }
func (c *tally) ReceiveFailed()          { c.receiveFailed.Add(1) }
func (c *tally) Disconnected()           { c.disconnected.Add(1) }
func (c *tally) RoundTrip(time.Duration) { c.trips.Add(1) }

// until waits until something is so, or fails the test.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestTraffic: both ends of the connections count the same bytes, what cannot be sent is counted by the message, and a break, too.
func TestTraffic(t *testing.T) {
	var here, there tally
	m := start(t, memberOptions{GuardOptions: GuardOptions{Count: func(id uint64) Counter {
		if id != self {
			t.Errorf("a call of member %x", id)
		}
		return &there
	}}})
	n := NewNetwork(NetworkOptions{Cluster: testCluster, Self: self, Count: func(id uint64) Counter {
		if id != other {
			t.Errorf("traffic with member %x", id)
		}
		return &here
	}})
	t.Cleanup(n.Close)
	n.SetPeers(map[uint64][]string{other: {m.url}})
	reach(t, n, m, 1)
	const size = 1 << 20
	n.Send([]*raftpb.Message{appendOf(1, size)})
	for await(t, m.got, "the message").GetType() != raftpb.MsgApp {
	}
	until(t, "a round trip and the connection for calls", func() bool { return here.trips.Load() > 0 && !n.ActiveSince(other).IsZero() })
	if here.sent.Load() < size || here.received.Load() == 0 {
		t.Errorf("%d bytes sent and %d received", here.sent.Load(), here.received.Load())
	}
	failed := here.sendFailed.Load()
	m.stop()
	until(t, "the break", func() bool { return n.ActiveSince(other).IsZero() })
	until(t, "its count", func() bool { return here.disconnected.Load() > 0 })
	// With the connections closed all that was written was read, but for what went to one that was closed already.
	if there.received.Load() > here.sent.Load() || there.received.Load() < size || there.sent.Load() < here.received.Load() {
		t.Errorf("%d bytes sent, of which %d came; %d sent there, of which %d came", here.sent.Load(), there.received.Load(), there.sent.Load(), here.received.Load())
	}
	until(t, "messages that are dropped", func() bool {
		n.Send([]*raftpb.Message{heartbeat(2)})
		return here.sendFailed.Load() > failed
	})
	if there.disconnected.Load() != 0 || here.receiveFailed.Load() != 0 {
		t.Errorf("%d breaks there, %d messages not taken in here", there.disconnected.Load(), here.receiveFailed.Load())
	}
}

// busy takes in nothing.
type busy struct{ *service }

func (busy) Deliver(context.Context, *raftpb.Message) error {
	return status.Error(codes.ResourceExhausted, "busy")
}

// TestReceiveFailed: a message that is not taken in counts, and one that is refused since it is no message between members, too.
func TestReceiveFailed(t *testing.T) {
	var there tally
	m := start(t, memberOptions{GuardOptions: GuardOptions{Count: func(uint64) Counter { return &there }}, busy: true})
	n, _ := network(t, nil, m.url)
	until(t, "a message that fails", func() bool {
		n.Send([]*raftpb.Message{heartbeat(1)})
		return there.receiveFailed.Load() > 0
	})
}

// TestQueueCounts: every message that is lost is counted, reported or not.
func TestQueueCounts(t *testing.T) {
	q := newQueue()
	lost := 0
	q.dropped = func(n int) { lost += n }
	for range 3 {
		q.push(heartbeat(1))
	}
	if q.take(nil); lost != 0 {
		t.Errorf("%d of those that were taken are lost", lost)
	}
	q.push(heartbeat(1))
	q.push(heartbeat(1))
	if q.drop(); lost != 2 {
		t.Errorf("%d of two are lost", lost)
	}
	for range 3 {
		q.push(heartbeat(1))
	}
	if lost != 5 {
		t.Errorf("%d of five are lost", lost)
	}
	q.accept()
	if q.push(heartbeat(1)); lost != 5 {
		t.Error("a message that was let in is lost")
	}
}
