package peer

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	// A queue is full when it has maxQueued messages, or about this many bytes of them. One message is always let in.
	maxQueued      = 4096
	maxQueuedBytes = 64 << 20
	// As many messages go into one of gRPC's.
	maxBatch      = 64
	maxBatchBytes = 1 << 20
)

// queue holds the messages that wait for one stream. It never makes anybody wait.
type queue struct {
	wake    chan struct{}      // has a token when there may be something to take
	dropped func(messages int) // is told of what is lost; it must not wait

	mu      sync.Mutex
	waiting []sized
	bytes   int
	refuses bool // there is no stream, and none is about to be
	told    bool // a loss was reported, and nothing was sent since
	marker  bool // a snapshot was let in since the last break
}

type sized struct {
	message *raftpb.Message
	size    int
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1), dropped: func(int) {}} }

// sizeOf is about what a message takes. It is not the exact size, which is not worth its price here.
func sizeOf(m *raftpb.Message) int {
	size := 64 + len(m.GetContext()) + len(m.GetSnapshot().GetData())
	for _, e := range m.GetEntries() {
		size += 32 + len(e.GetData())
	}
	return size
}

// loss says what must be reported after messages were dropped.
type loss struct{ unreachable, snapshot bool }

// push lets a message in, or drops it.
func (q *queue) push(m *raftpb.Message) loss {
	s := sized{m, sizeOf(m)}
	snapshot := m.GetType() == raftpb.MsgSnap
	q.mu.Lock()
	defer q.mu.Unlock()
	full := len(q.waiting) >= maxQueued || len(q.waiting) > 0 && q.bytes+s.size > maxQueuedBytes
	if q.refuses || full {
		q.dropped(1)
		return loss{unreachable: q.tell(), snapshot: snapshot}
	}
	q.waiting = append(q.waiting, s)
	q.bytes += s.size
	q.marker = q.marker || snapshot
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return loss{}
}

// tell says whether a loss is to be reported. The mutex is held.
func (q *queue) tell() bool {
	first := !q.told
	q.told = true
	return first
}

// take moves the messages of the next batch to the end of batch.
func (q *queue) take(batch []*raftpb.Message) []*raftpb.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.waiting) && n < maxBatch && (n == 0 || bytes+q.waiting[n].size <= maxBatchBytes) {
		batch = append(batch, q.waiting[n].message)
		bytes += q.waiting[n].size
		n++
	}
	left := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[left:])
	q.waiting = q.waiting[:left]
	q.bytes -= bytes
	return batch
}

// sent notes that messages went out.
func (q *queue) sent() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told = false
}

// drop empties the queue after a break. Until accept nothing is let in.
func (q *queue) drop() loss {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped(len(q.waiting))
	q.waiting, q.bytes, q.refuses = nil, 0, true
	l := loss{unreachable: q.tell(), snapshot: q.marker}
	q.marker = false
	return l
}

func (q *queue) accept() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuses = false
}
