package nullserver

import (
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	headerField  protowire.Number = 1  // WatchResponse.header
	watchIDField protowire.Number = 2  // WatchResponse.watch_id
	eventsField  protowire.Number = 11 // WatchResponse.events
)

// watcher is one watch of a stream: a prefix that ends in a slash.
type watcher struct {
	id     int64
	prevKV bool
	stream *stream
}

// stream is one Watch call. What its watchers are owed lies in pending, by watch id, until the sender takes it.
type stream struct {
	mu      sync.Mutex
	control []*pb.WatchResponse
	pending map[int64]pieces
	rev     int64
	wake    chan struct{} // holds one token when there is something to send
}

type watchServer struct {
	pb.UnimplementedWatchServer
	store *store
}

// Watch knows creation, with prev_kv, of a watch of a prefix that ends in a slash, from the next revision on.
func (s *watchServer) Watch(ws grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	st := &stream{pending: make(map[int64]pieces), wake: make(chan struct{}, 1)}
	defer s.store.drop(st)
	failed := make(chan error, 1)
	go func() { failed <- s.receive(ws, st) }()
	for {
		select {
		case err := <-failed:
			return err
		case <-ws.Context().Done():
			return ws.Context().Err()
		case <-st.wake:
			if err := st.send(ws); err != nil {
				return err
			}
		}
	}
}

func (s *watchServer) receive(ws grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse], st *stream) error {
	for next := int64(0); ; next++ {
		req, err := ws.Recv()
		if err != nil {
			return err
		}
		create := req.GetCreateRequest()
		if create == nil {
			continue // a cancel: the stream ends soon
		}
		if create.StartRevision > s.store.revision()+1 || !strings.HasSuffix(string(create.Key), "/") {
			return status.Error(codes.Unimplemented, "nullserver: only watches of a path from the next revision on")
		}
		s.store.watch(string(create.Key), &watcher{id: next, prevKV: create.PrevKv, stream: st})
	}
}

// watch adds a watcher and queues the answer that it is there.
func (s *store) watch(prefix string, w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[prefix] = append(s.watchers[prefix], w)
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	created := &pb.WatchResponse{Header: header(s.rev), WatchId: w.id, Created: true}
	w.stream.control = append(w.stream.control, created)
	w.stream.wakeLocked()
}

// drop takes a stream's watchers away.
func (s *store) drop(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for prefix, ws := range s.watchers {
		var kept []*watcher
		for _, w := range ws {
			if w.stream != st {
				kept = append(kept, w)
			}
		}
		s.watchers[prefix] = kept
	}
}

// publishLocked queues the event for every watcher of a path above key. It encodes the event at most twice.
func (s *store) publishLocked(key string, kv, prev *mvccpb.KeyValue) {
	if len(s.watchers) == 0 {
		return
	}
	var plain, withPrev []byte
	for i := range len(key) {
		if key[i] != '/' {
			continue
		}
		for _, w := range s.watchers[key[:i+1]] {
			encoded := &plain
			event := &mvccpb.Event{Kv: kv}
			if w.prevKV {
				encoded, event.PrevKv = &withPrev, prev
			}
			if *encoded == nil {
				*encoded = field(eventsField, event)
			}
			w.stream.queue(w.id, s.rev, *encoded)
		}
	}
}

func (st *stream) queue(id, rev int64, event []byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pending[id] = append(st.pending[id], event)
	st.rev = rev
	st.wakeLocked()
}

func (st *stream) wakeLocked() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// send sends everything queued, the events of each watcher in one response.
func (st *stream) send(ws grpc.ServerStream) error {
	st.mu.Lock()
	control, pending, rev := st.control, st.pending, st.rev
	st.control, st.pending = nil, make(map[int64]pieces, len(pending))
	st.mu.Unlock()
	for _, resp := range control {
		if err := ws.SendMsg(resp); err != nil {
			return err
		}
	}
	for id, events := range pending {
		head := field(headerField, header(rev))
		head = protowire.AppendTag(head, watchIDField, protowire.VarintType)
		head = protowire.AppendVarint(head, uint64(id))
		if err := ws.SendMsg(append(pieces{head}, events...)); err != nil {
			return err
		}
	}
	return nil
}
