package peer

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func TestQueueBounds(t *testing.T) {
	q := newQueue()
	if l := q.push(appendOf(0, maxQueuedBytes+1)); l != (loss{}) {
		t.Error("one message is always let in")
	}
	if l := q.push(heartbeat(1)); !l.unreachable {
		t.Error("let in beyond the bound on bytes")
	}
	if l := q.push(heartbeat(1)); l != (loss{}) {
		t.Error("a loss was reported twice")
	}
	if batch := q.take(nil); len(batch) != 1 || q.bytes != 0 {
		t.Errorf("%d messages, %d bytes left", len(batch), q.bytes)
	}
	q.sent()
	for i := range maxQueued {
		if l := q.push(appendOf(uint64(i), 0)); l != (loss{}) {
			t.Fatalf("message %d was dropped", i)
		}
	}
	if l := q.push(heartbeat(1)); !l.unreachable {
		t.Error("let in beyond the bound on messages, or not told")
	}
	next := uint64(0)
	for batch := q.take(nil); len(batch) > 0; batch = q.take(batch[:0]) {
		if len(batch) > maxBatch {
			t.Errorf("%d messages in a batch", len(batch))
		}
		for _, m := range batch {
			if m.GetIndex() != next {
				t.Fatalf("index %d, want %d", m.GetIndex(), next)
			}
			next++
		}
	}
	if next != maxQueued || q.bytes != 0 {
		t.Errorf("%d messages, %d bytes left", next, q.bytes)
	}
}

func TestQueueBatchBytes(t *testing.T) {
	q := newQueue()
	for range 4 {
		q.push(appendOf(1, maxBatchBytes/2))
	}
	if got := len(q.take(nil)); got != 1 {
		t.Errorf("%d messages in a batch, want 1: two with what surrounds them are too much", got)
	}
}

func TestQueueBreak(t *testing.T) {
	q := newQueue()
	q.push(&raftpb.Message{Type: raftpb.MsgSnap.Enum()})
	q.take(nil)
	q.sent()
	if l := q.drop(); l != (loss{unreachable: true, snapshot: true}) {
		t.Errorf("%+v", l)
	}
	if l := q.push(&raftpb.Message{Type: raftpb.MsgSnap.Enum()}); l != (loss{snapshot: true}) {
		t.Errorf("%+v while there is no stream", l)
	}
	if l := q.drop(); l != (loss{}) {
		t.Errorf("%+v at the second failure", l)
	}
	q.accept()
	if l := q.push(heartbeat(1)); l != (loss{}) || len(q.take(nil)) != 1 {
		t.Errorf("%+v", l)
	}
}
