package etcdv3

import (
	"context"
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/watch"
)

// sent is a client's stream that keeps what is sent.
type sent struct {
	pb.Watch_WatchServer
	messages []*encoded
	sent     func() // is called after each; optional
}

func (s *sent) SendMsg(m any) error {
	s.messages = append(s.messages, m.(*encoded))
	if s.sent != nil {
		s.sent()
	}
	return nil
}

// watched is the stream of a client that watches a history.
type watched struct {
	*history
	ws     watchStream
	sent   *sent
	events []*watch.Event
}

func watchHistory(h *history) *watched {
	hub := watch.NewHub(watch.Options{})
	hub.Attach(h)
	w := &watched{history: h, sent: &sent{}}
	w.ws = watchStream{Server: h.cluster(), grpc: w.sent, watches: hub.NewStream()}
	for _, e := range h.events {
		w.events = append(w.events, &watch.Event{Event: e})
	}
	return w
}

// response makes a random response, and the message that it is.
func (w *watched) response() (*watch.Response, *pb.WatchResponse) {
	r := &watch.Response{ID: w.Int64N(300) - 1, Revision: w.Int64N(1 << w.IntN(63)), PrevKV: w.IntN(2) == 0, Fragment: w.IntN(2) == 0}
	switch w.IntN(6) {
	case 0:
		r.Created = true
	case 1:
		r.Created, r.Canceled, r.Reason = true, true, string(make([]byte, w.IntN(300)))
	case 2:
		r.Canceled, r.Compact = true, w.Int64N(1000)
	}
	want := &pb.WatchResponse{
		Header: header(w.ws.Server, r.Revision), WatchId: r.ID, Created: r.Created,
		Canceled: r.Canceled, CancelReason: r.Reason, CompactRevision: r.Compact,
	}
	from := w.IntN(len(w.events))
	to := min(len(w.events), from+w.IntN(20))
	r.Events = w.events[from:to]
	for _, e := range w.told[from:to] {
		e := &mvccpb.Event{Type: e.Type, Kv: e.Kv, PrevKv: e.PrevKv}
		if !r.PrevKV {
			e.PrevKv = nil
		}
		want.Events = append(want.Events, e)
	}
	return r, want
}

// tell sends a response to a client that takes messages below limit, and gives the messages.
func (w *watched) tell(r *watch.Response, limit int) []*encoded {
	w.t.Helper()
	w.sent.messages = nil
	w.ws.opts.MaxRequestBytes = limit - grpcOverhead
	if err := w.ws.tell(w.t.Context(), r); err != nil {
		w.t.Fatal(err)
	}
	return w.sent.messages
}

// fragmented splits a message as etcd does: a fragment takes events as long as it stays below limit, one at least.
func fragmented(m *pb.WatchResponse, limit int) (parts []*pb.WatchResponse) {
	events := m.Events
	for {
		part := proto.CloneOf(m)
		part.Fragment, part.Events = true, nil
		for len(events) > 0 {
			part.Events = append(part.Events, events[0])
			if len(part.Events) > 1 && proto.Size(part) >= limit {
				part.Events = part.Events[:len(part.Events)-1]
				break
			}
			events = events[1:]
		}
		parts = append(parts, part)
		if len(events) == 0 {
			part.Fragment = false
			return parts
		}
	}
}

// TestWatchEncoding: what watchers are told is what generated code makes of it, with prev_kv and
// without, also of an event that was encoded for another watcher, and in fragments.
func TestWatchEncoding(t *testing.T) {
	most := 0
	for seed := range uint64(25) {
		h := newHistory(t, seed)
		h.fill(60)
		if len(h.told) != len(h.events) {
			t.Fatalf("%d events, %d are told", len(h.events), len(h.told))
		}
		w := watchHistory(h)
		for range 40 {
			r, want := w.response()
			limit := 1 + h.IntN(proto.Size(want)+200)
			got, parts := w.tell(r, limit), []*pb.WatchResponse{want}
			if r.Fragment {
				parts = fragmented(want, limit)
			}
			if len(got) != len(parts) {
				t.Fatalf("seed %d: %d messages instead of %d", seed, len(got), len(parts))
			}
			for i := range got {
				checkEncoded(t, got[i], parts[i])
			}
			most = max(most, len(got))
		}
	}
	if most < 5 {
		t.Errorf("no more than %d fragments", most)
	}
}

// TestFragmentsAtTheLimit: a message may be one byte below the limit, and not as long as it.
func TestFragmentsAtTheLimit(t *testing.T) {
	h := newHistory(t, 1)
	for range 3 {
		h.put("k", h.bytes(1000), 0)
	}
	w := watchHistory(h)
	r := &watch.Response{ID: 5, Revision: 4, Fragment: true, Events: w.events}
	want := &pb.WatchResponse{Header: header(w.ws.Server, 4), WatchId: 5}
	for _, e := range h.told {
		want.Events = append(want.Events, &mvccpb.Event{Kv: e.Kv})
	}
	two := proto.CloneOf(want)
	two.Fragment, two.Events = true, two.Events[:2]
	for limit := proto.Size(two) - 3; limit < proto.Size(two)+4; limit++ {
		messages := w.tell(r, limit)
		if parts := fragmented(want, limit); len(messages) != len(parts) {
			t.Errorf("limit %d: %d messages instead of %d", limit, len(messages), len(parts))
		}
		fits := proto.Size(two) < limit
		if got := len(messages) == 2; got != fits {
			t.Errorf("limit %d: %d messages, two events take %d", limit, len(messages), proto.Size(two))
		}
	}
}

// TestWatchGivenUp: when a prev_kv is gone, the watcher is cancelled as compacted; none of its events
// is sent, other watchers go on, and progress is told after the end.
func TestWatchGivenUp(t *testing.T) {
	h := newHistory(t, 1)
	h.put("a", []byte("1"), 0)
	h.put("b", []byte("1"), 0)
	w := watchHistory(h)
	hub, s := watch.NewHub(watch.Options{}), w.ws.Server
	hub.Attach(h)
	w.ws.watches = hub.NewStream()
	w.ws.watches.Watch(watch.Request{ID: 1, Range: mvcc.NewRange([]byte("a"), nil), PrevKV: true})
	w.ws.watches.Watch(watch.Request{ID: 2, Range: mvcc.NewRange([]byte("b"), nil)})
	h.events = nil
	h.put("a", []byte("2"), 0)
	h.put("a", []byte("3"), 0)
	h.put("b", []byte("2"), 0)
	hub.Publish(h.ix, h.events)
	h.do(&pb.CompactionRequest{Revision: 6})
	h.scrubbed = true
	w.ws.watches.RequestProgress()
	want := []*pb.WatchResponse{
		{Header: header(s, 3), WatchId: 1, Created: true},
		{Header: header(s, 3), WatchId: 2, Created: true},
		{Header: header(s, 6), WatchId: 2, Events: []*mvccpb.Event{{Kv: h.live["b"]}}},
		{Header: header(s, 0), WatchId: 1, Canceled: true, CompactRevision: 6},
		{Header: header(s, 6), WatchId: watch.NoID},
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.sent.sent = func() {
		if len(w.sent.messages) == len(want) {
			cancel()
		}
	}
	if err := w.ws.send(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i, m := range w.sent.messages {
		checkEncoded(t, m, want[i])
	}
}
