package watch

import (
	"context"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// scriptedStore is a store whose log, if there is something to do during the reading of it, was scrubbed by then.
type scriptedStore struct {
	ix       *mvcc.Index
	log      []*mvcc.Event
	during   func()
	scrubbed bool
}

func (s *scriptedStore) Index() *mvcc.Index { return s.ix }

func (s *scriptedStore) History(_ context.Context, _ *mvcc.Index, from int64, fn func([]*mvcc.Event) bool) error {
	if s.during != nil {
		s.during()
		return nil
	}
	fn(slices.DeleteFunc(slices.Clone(s.log), func(e *mvcc.Event) bool { return e.Main < from }))
	return nil
}

func (s *scriptedStore) Values(_ context.Context, positions []int64) ([][]byte, error) {
	if s.scrubbed {
		return nil, drivers.ErrScrubbed
	}
	return slices.Repeat([][]byte{[]byte("v")}, len(positions)), nil
}

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
	s.log = append(s.log, b.Events()...)
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

// giveUp makes a stream with a watcher of a whose events were taken, and whose prev_kv is gone
// by then. It gives all that was taken, from the events on; it ends with progress.
func giveUp(t *testing.T, store *scriptedStore, h *Hub) (*Stream, []Response) {
	t.Helper()
	s := h.NewStream()
	t.Cleanup(s.Close)
	s.Watch(Request{ID: 1, Range: mvcc.NewRange([]byte("a"), nil), PrevKV: true, Progress: true})
	s.Watch(Request{ID: 2, Range: mvcc.NewRange([]byte("b"), nil), Progress: true})
	next(t, s)
	store.do(t, h, put("a"), put("a"), put("a"))
	s.Notify() // those that were told something are active
	s.Notify()
	s.RequestProgress()
	got := next(t, s)
	store.do(t, h, &pb.CompactionRequest{Revision: 4})
	store.scrubbed = true
	_, err := got[0].Events[1].Encode(func() ([]byte, bool, error) { return s.PrevValue(t.Context(), got[0].Events[1]) })
	if len(got) < 3 || got[len(got)-1].ID != NoID || !IsScrubbed(err) {
		t.Fatalf("%v, %+v", err, got)
	}
	return s, got
}

// TestNoProgressPastWhatWasGivenUp: a client is not told that it has everything when the events before
// could not be given to it. It is told again after the watcher's end.
func TestNoProgressPastWhatWasGivenUp(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{})
	h.Attach(store)
	s, got := giveUp(t, store, h)
	if rest := s.Compacted(&got[0], got[1:]); len(rest) != 0 {
		t.Errorf("still to be told: %+v", rest)
	}
	got = next(t, s)
	if len(got) != 3 || !got[0].Canceled || got[0].Compact != 4 || got[1].ID != 2 || got[2].ID != NoID || got[2].Revision != 4 {
		t.Errorf("%+v", got)
	}
}

// TestGivenUpAfterCancel: a watcher that took the id of one given up meanwhile stays.
func TestGivenUpAfterCancel(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{})
	h.Attach(store)
	s, got := giveUp(t, store, h)
	if err := s.Cancel(1); err != nil {
		t.Fatal(err)
	}
	s.Watch(Request{ID: 1, Range: mvcc.NewRange([]byte("a"), nil)})
	s.Compacted(&got[0], nil)
	store.do(t, h, put("a"))
	got = next(t, s)
	if len(got) != 3 || !got[0].Canceled || !got[1].Created || len(got[2].Events) != 1 || got[2].Events[0].Main != 5 {
		t.Errorf("%+v", got)
	}
}

// TestHeaderOfThePast: the header of events of the past has the current revision, whether they are found
// among the recent ones or in the log, and that of what comes next has its own.
func TestHeaderOfThePast(t *testing.T) {
	for _, recent := range []int{1, 1 << 20} {
		store := &scriptedStore{ix: mvcc.NewIndex()}
		h := NewHub(Options{RecentBytes: recent})
		h.Attach(store)
		store.do(t, h, put("a"), put("b"), put("b"))
		s := h.NewStream()
		defer s.Close()
		s.Watch(Request{Range: mvcc.NewRange([]byte("a"), nil), Start: 2})
		for _, want := range []int64{4, 5} {
			for group := h.pick(); len(group) > 0; group = h.pick() {
				if err := h.catchUp(t.Context(), group); err != nil {
					t.Fatal(err)
				}
			}
			got := next(t, s)
			if last := got[len(got)-1]; len(last.Events) != 1 || last.Revision != want {
				t.Errorf("with %d bytes of recent events: %d events with the revision %d in their header, want %d", recent, len(last.Events), last.Revision, want)
			}
			store.do(t, h, put("a"), put("b"))
		}
	}
}

// TestNowBesidePrevKV: a watcher of what comes next, opened while another one with prev_kv is on the stream,
// gets what comes next, and each gets prev_kv if it asked for it.
func TestNowBesidePrevKV(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{})
	h.Attach(store)
	s := h.NewStream()
	defer s.Close()
	rng := mvcc.NewRange([]byte("a"), nil)
	s.Watch(Request{ID: 1, Range: rng, PrevKV: true})
	store.do(t, h, put("a"))
	s.Watch(Request{ID: 2, Range: rng})
	s.Watch(Request{ID: 3, Range: rng, Start: 3})
	s.Watch(Request{ID: 4, Range: rng, PrevKV: true})
	store.do(t, h, put("a"), put("a"))
	got := map[int64][]*mvccpb.Event{}
	for _, r := range next(t, s) {
		for _, e := range r.Events {
			prev := func() ([]byte, bool, error) { return s.PrevValue(t.Context(), e) }
			if !r.PrevKV {
				prev = nil
			}
			b, err := e.Encode(prev)
			var m pb.WatchResponse
			if err == nil {
				err = proto.Unmarshal(b, &m)
			}
			if err != nil {
				t.Fatal(err)
			}
			got[r.ID] = append(got[r.ID], m.Events...)
		}
	}
	for id, first := range map[int64]int64{1: 2, 2: 3, 3: 3, 4: 3} {
		var want []*mvccpb.Event
		for rev := first; rev <= 4; rev++ {
			kv := func(rev int64) *mvccpb.KeyValue {
				return &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("v"), CreateRevision: 2, ModRevision: rev, Version: rev - 1}
			}
			e := &mvccpb.Event{Kv: kv(rev)}
			if rev > 2 && (id == 1 || id == 4) {
				e.PrevKv = kv(rev - 1)
			}
			want = append(want, e)
		}
		if !slices.EqualFunc(got[id], want, func(a, b *mvccpb.Event) bool { return proto.Equal(a, b) }) {
			t.Errorf("watcher %d got %v instead of %v", id, got[id], want)
		}
	}
}

// TestNoProgressInTheFuture: as in etcd, a stream with a watcher that starts in the future is not told its progress.
func TestNoProgressInTheFuture(t *testing.T) {
	store := &scriptedStore{ix: mvcc.NewIndex()}
	h := NewHub(Options{})
	h.Attach(store)
	s := h.NewStream()
	defer s.Close()
	s.Watch(Request{ID: 1, Range: mvcc.Everything, Start: 3})
	s.RequestProgress()
	if got := next(t, s); len(got) != 1 || !got[0].Created {
		t.Errorf("%+v", got)
	}
	store.do(t, h, put("a"), put("b"))
	if got := next(t, s); len(got) != 1 || len(got[0].Events) != 1 {
		t.Errorf("%+v", got)
	}
}
