package watch

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// scriptedStore is a store whose log was scrubbed while it was read.
type scriptedStore struct {
	ix     *mvcc.Index
	during func()
}

func (s *scriptedStore) Index() *mvcc.Index { return s.ix }

func (s *scriptedStore) History(context.Context, *mvcc.Index, int64, func([]*mvcc.Event) bool) error {
	s.during()
	return nil
}

func (s *scriptedStore) Values(context.Context, []int64) ([][]byte, error) { return nil, nil }

// do evaluates requests on the store's index, and publishes.
func (s *scriptedStore) do(t *testing.T, h *Hub, requests ...any) {
	t.Helper()
	b, results := mvcc.Evaluate(s.ix, mvcc.Env{}, requests)
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	end := s.ix.End
	end.Position += int64(len(b.Entries()))
	s.ix = b.Index(end)
	if len(b.Events()) > 0 {
		h.Publish(s.ix, b.Events())
	}
}

func put(k string) any { return &pb.PutRequest{Key: []byte(k), Value: []byte("v")} }

func next(t *testing.T, s *Stream) []Response {
	t.Helper()
	got, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestWatchBelowCompact: also when the events are still among the recent ones.
func TestWatchBelowCompact(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{})
	h.Attach(store)
	store.do(t, h, put("a"), put("a"), put("a"), &pb.CompactionRequest{Revision: 3})
	s := h.NewStream()
	defer s.Close()
	s.Watch(Request{Range: mvcc.Everything, Start: 2})
	for range h.pick() {
		t.Error("the watcher waits to be caught up")
	}
	got := next(t, s)
	if len(got) != 2 || !got[0].Created || !got[1].Canceled || got[1].Compact != 3 {
		t.Errorf("%+v", got)
	}
}

// TestCompactedWhileReading: a watcher whose events were scrubbed during the
// reading of history is told so, and does not go on as if there had been none.
func TestCompactedWhileReading(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{RecentBytes: 1})
	h.Attach(store)
	store.do(t, h, put("a"), put("a"), put("a"))
	store.during = func() { store.do(t, h, &pb.CompactionRequest{Revision: 4}) }
	s := h.NewStream()
	defer s.Close()
	s.Watch(Request{Range: mvcc.Everything, Start: 2})
	if err := h.catchUp(t.Context(), h.pick()); err != nil {
		t.Fatal(err)
	}
	got := next(t, s)
	if len(got) != 2 || !got[1].Canceled || got[1].Compact != 4 {
		t.Errorf("%+v", got)
	}
}

// TestWatchAfterRead: a watcher of what comes next, made by a client that has read a commit
// which is not published yet, is not given that commit, nor told of an earlier revision.
func TestWatchAfterRead(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{})
	h.Attach(store)
	b, _ := mvcc.Evaluate(store.ix, mvcc.Env{}, []any{put("a")})
	store.ix = b.Index(store.ix.End)
	s := h.NewStream()
	defer s.Close()
	s.Watch(Request{Range: mvcc.Everything})
	s.RequestProgress()
	for _, r := range next(t, s) {
		if r.Revision != 2 || r.ID == NoID {
			t.Errorf("told %+v after a read at revision 2", r)
		}
	}
	h.Publish(store.ix, b.Events())
	for _, r := range next(t, s) {
		if r.Revision != 2 || len(r.Events) > 0 {
			t.Errorf("told %+v after a read at revision 2", r)
		}
	}
}
