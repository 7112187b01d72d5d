package sqllog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// server is a store that runs on a log in memory.
type server struct {
	*Store
	t    *testing.T
	mem  *memory.Store
	log  *memory.Log
	stop func()
	// Guarded by mu: what was published.
	mu     sync.Mutex
	events []*mvcc.Event
}

func start(t *testing.T, mem *memory.Store, change ...func(*Options)) *server {
	t.Helper()
	s := &server{t: t, mem: mem, log: mem.Open()}
	opts := Options{Log: s.log, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Publish: s.publish}
	for _, c := range change {
		c(&opts)
	}
	var err error
	if s.Store, err = Open(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) publish(ix *mvcc.Index, events []*mvcc.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Index() != ix {
		s.t.Error("events were published before readers see the index")
	}
	s.events = append(s.events, events...)
	if last := events[len(events)-1]; last.Main != ix.Rev {
		s.t.Errorf("events up to %d with the index of %d", last.Main, ix.Rev)
	}
}

// checkPublished: every revision once, in order, whole.
func (s *server) checkPublished() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	rev, sub := int64(1), int32(0)
	for _, ev := range s.events {
		switch {
		case ev.Main == rev && ev.Sub == sub+1:
			sub++
		case ev.Main == rev+1 && ev.Sub == 0:
			rev, sub = ev.Main, 0
		default:
			s.t.Fatalf("revision %d.%d was published after %d.%d", ev.Main, ev.Sub, rev, sub)
		}
	}
	if now := s.Index().Rev; rev != now {
		s.t.Errorf("published up to %d, the index is at %d", rev, now)
	}
}

func put(k, v string) *pb.PutRequest { return &pb.PutRequest{Key: []byte(k), Value: []byte(v)} }

// create is the transaction that makes a key unless it is there.
func create(k, v string) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(k), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put(k, v)}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(k)}}}},
	}
}

func (s *server) do(request any) (any, error) { return s.Do(context.Background(), request, 0) }

func (s *server) must(request any) any {
	s.t.Helper()
	resp, err := s.do(request)
	if err != nil {
		s.t.Fatalf("%v: %v", request, err)
	}
	return resp
}

func (s *server) get(k string) string {
	s.t.Helper()
	_, resp, err := s.Range(context.Background(), &pb.RangeRequest{Key: []byte(k)})
	if err != nil {
		s.t.Fatalf("get %q: %v", k, err)
	}
	if len(resp) == 0 {
		return ""
	}
	return string(resp[0])
}

// foreign appends what another server would for these requests.
func foreign(t *testing.T, mem *memory.Store, requests ...any) {
	log := mem.Open()
	ix, err := (&Store{log: log, opts: Options{Logger: slog.New(slog.DiscardHandler)}}).loadFreed(context.Background(), func([]mvcc.Freed) {})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := mvcc.Evaluate(ix, mvcc.Env{}, requests)
	batch := &drivers.Batch{Entries: b.Entries()}
	rand.Read(batch.ID[:])
	if err := log.Append(context.Background(), ix.End, batch); err != nil {
		t.Fatal(err)
	}
}

func TestConflictIsDecidedAgain(t *testing.T) { bothWays(t, testConflictIsDecidedAgain) }

func testConflictIsDecidedAgain(t *testing.T, start starter) {
	mem := memory.NewStore()
	s := start(t, mem)
	s.log.Inject(memory.OpAppend, memory.Fault{Before: func() { foreign(t, mem, put("k", "theirs"), put("j", "theirs")) }})
	resp := s.must(create("k", "ours")).(*pb.TxnResponse)
	if resp.Succeeded || string(resp.Responses[0].GetResponseRange().Kvs[0].Value) != "theirs" {
		t.Errorf("the other server was first, but: %v", resp)
	}
	if got := s.get("k"); got != "theirs" {
		t.Errorf("k is %q", got)
	}
	s.checkPublished()
}

// TestAnswerWithoutAppendIsProven: a failed compare, a refused lease and a
// read-only transaction speak for the log's end, not for what this server last saw.
func TestAnswerWithoutAppendIsProven(t *testing.T) {
	mem := memory.NewStore()
	s := start(t, mem)
	s.must(put("k", "old"))
	foreign(t, mem, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	if _, err := s.do(&pb.LeaseRevokeRequest{ID: 7}); err != nil {
		t.Errorf("a lease that another server granted: %v", err)
	}
	foreign(t, mem, &pb.DeleteRangeRequest{Key: []byte("k")})
	if resp := s.must(create("k", "new")).(*pb.TxnResponse); !resp.Succeeded {
		t.Error("a compare failed on a key that another server had deleted")
	}
	foreign(t, mem, put("k", "newest"))
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}}}
	resp, err := s.ReadTxn(t.Context(), txn)
	if err != nil || string(resp.Responses[0].GetResponseRange().Kvs[0].Value) != "newest" {
		t.Errorf("a read-only transaction: %v, %v", resp, err)
	}
	// By a turn, while others have been met of late, and by a question otherwise.
	s.log.Inject(memory.OpHold, memory.Fault{Err: errors.New("no answer")})
	if _, err := s.do(&pb.LeaseRevokeRequest{ID: 7}); !errors.Is(err, ErrStorage) {
		t.Errorf("an answer that could not be proven: %v", err)
	}
	for range contendedBatches {
		s.must(put("k", "newest"))
	}
	s.log.Inject(memory.OpReadIndex, memory.Fault{Err: errors.New("no answer")})
	if _, err := s.do(&pb.LeaseRevokeRequest{ID: 7}); !errors.Is(err, ErrStorage) {
		t.Errorf("an answer that could not be proven: %v", err)
	}
	s.checkPublished()
}

// TestUncertain: the log is asked what became of an append, and the answer is the truth.
func TestUncertain(t *testing.T) { bothWays(t, testUncertain) }

func testUncertain(t *testing.T, start starter) {
	for name, fault := range map[string]memory.Fault{
		"applied":     {Apply: true, Err: drivers.ErrUncertain},
		"not applied": {Err: drivers.ErrUncertain},
		"late":        {Late: true, Err: drivers.ErrUncertain},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, memory.NewStore())
			s.must(put("k", "old"))
			s.log.Inject(memory.OpAppend, fault)
			p := put("k", "new")
			p.PrevKv = true
			if resp := s.must(p).(*pb.PutResponse); string(resp.PrevKv.GetValue()) != "old" || resp.Header.Revision != 3 {
				t.Errorf("the answer is %v", resp)
			}
			if s.Failure() != nil {
				t.Errorf("the failure %v shows still", s.Failure())
			}
			// Once, also if it was sent twice.
			ix := s.Index()
			if v := ix.Get("k", ix.Rev); s.get("k") != "new" || v.Count != 2 || ix.Rev != 3 {
				t.Errorf("k is %q, version %v, revision %d", s.get("k"), v, ix.Rev)
			}
			s.must(put("k", "last"))
			if got := s.get("k"); got != "last" {
				t.Errorf("k is %q", got)
			}
			s.checkPublished()
		})
	}
}

// TestUncertainAndUnreachable: after an unknown outcome, failing to find out must
// not keep the store from finding out later.
func TestUncertainAndUnreachable(t *testing.T) { bothWays(t, testUncertainAndUnreachable) }

func testUncertainAndUnreachable(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	s.must(put("k", "old"))
	s.log.Inject(memory.OpAppend, memory.Fault{Apply: true, Err: drivers.ErrUncertain})
	for range 2 {
		s.log.Inject(memory.OpReadIndex, memory.Fault{Err: errors.New("no answer")})
	}
	if _, err := s.do(put("k", "new")); !errors.Is(err, drivers.ErrUncertain) || s.Failure() == nil {
		t.Fatal(err, s.Failure())
	}
	if _, err := s.do(put("j", "1")); !errors.Is(err, ErrStorage) || errors.Is(err, drivers.ErrUncertain) {
		t.Fatalf("the log does not answer, the store says %v", err)
	}
	for range 3 {
		if _, err := s.do(put("j", "2")); err != nil {
			t.Errorf("the log answers again, the store says %v", err)
		}
	}
	if got := s.get("k"); got != "new" || s.Failure() != nil {
		t.Errorf("k is %q, failure %v", got, s.Failure())
	}
	s.checkPublished()
}

func TestNoSpace(t *testing.T) { bothWays(t, testNoSpace) }

func testNoSpace(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	s.must(put("k", "1"))
	s.log.Inject(memory.OpAppend, memory.Fault{Err: drivers.ErrNoSpace})
	if _, err := s.do(put("k", "2")); !errors.Is(err, drivers.ErrNoSpace) {
		t.Fatal(err)
	}
	// Reads and housekeeping go on, and do not hide that writing fails.
	if got := s.get("k"); got != "1" {
		t.Errorf("k is %q", got)
	}
	if err := s.edit(t.Context(), edit{fn: func(*mvcc.Builder) {}}); err != nil {
		t.Error(err)
	}
	if !errors.Is(s.Failure(), drivers.ErrNoSpace) {
		t.Errorf("the failure is %v", s.Failure())
	}
	s.must(put("k", "3"))
	if s.Failure() != nil || s.Index().Rev != 3 {
		t.Errorf("failure %v, revision %d", s.Failure(), s.Index().Rev)
	}
	s.checkPublished()
}

// TestRewoundLog: a log with another history is not taken for a continuation.
func TestRewoundLog(t *testing.T) { bothWays(t, testRewoundLog) }

func testRewoundLog(t *testing.T, start starter) {
	for _, writes := range []int{0, 1, 2, 5} {
		mem := memory.NewStore()
		s := start(t, mem)
		s.must(put("a", "1"))
		s.must(put("b", "2"))
		if err := mem.Rewind(1); err != nil {
			t.Fatal(err)
		}
		for i := range writes {
			foreign(t, mem, put("c", fmt.Sprint(i)))
		}
		if _, err := s.do(put("d", "4")); !errors.Is(err, drivers.ErrDiverged) {
			t.Errorf("%d other writes: %v", writes, err)
		}
		if ix := s.Index(); ix.Get("b", ix.Rev) == nil || ix.Rev != 3 {
			t.Errorf("%d other writes: the index mixes two histories", writes)
		}
	}
}

func TestCancelledWhileWaiting(t *testing.T) { bothWays(t, testCancelledWhileWaiting) }

func testCancelledWhileWaiting(t *testing.T, start starter) {
	s := start(t, memory.NewStore(), func(o *Options) { o.MaxWaiting = 1 })
	hold, entered := make(chan struct{}), make(chan struct{})
	s.log.Inject(memory.OpAppend, memory.Fault{Entered: entered, Hold: hold})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 4)
	for i := range 4 {
		go func() { _, err := s.Do(ctx, put(fmt.Sprint(i), "x"), 0); errs <- err }()
	}
	<-entered
	cancel()
	for range 4 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	close(hold)
	s.must(put("k", "1"))
	if _, err := s.Prune(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Errorf("the fence after cancelled calls: %v", err)
	}
	s.checkPublished()
}

// TestReadsBesidePrune: reads at pinned revisions and prev_kvs are whole while versions are freed under them.
func TestReadsBesidePrune(t *testing.T) { bothWays(t, testReadsBesidePrune) }

func testReadsBesidePrune(t *testing.T, start starter) {
	s := start(t, memory.NewStore(), func(o *Options) { o.CacheBytes = 1 })
	const keys = 40
	for i := range keys {
		s.must(put(fmt.Sprintf("k%02d", i), "0"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	all := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
	for i := range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r := &pb.RangeRequest{Key: all.Key, RangeEnd: all.RangeEnd, Serializable: i%2 == 0}
				if i >= 2 {
					r.Revision = max(s.Index().Rev-3, keys+1)
				}
				_, resp, err := s.Range(context.Background(), r)
				if errors.Is(err, mvcc.ErrCompacted) && i >= 2 {
					continue
				}
				if err != nil || len(resp) != keys {
					t.Errorf("%v: %d keys, %v", r, len(resp), err)
					return
				}
				for i, v := range resp {
					if len(v) == 0 {
						t.Errorf("key %d has no value", i)
					}
				}
			}
		})
	}
	for i := range 300 {
		p := put(fmt.Sprintf("k%02d", i%keys), fmt.Sprint(i))
		p.PrevKv = true
		if prev := s.must(p).(*pb.PutResponse).PrevKv; len(prev.GetValue()) == 0 {
			t.Fatalf("put %d: prev_kv %v", i, prev)
		}
		if i%5 == 4 {
			s.must(&pb.CompactionRequest{Revision: s.Index().Rev - 1})
			if _, err := s.Prune(t.Context(), func(context.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	wg.Wait()
	s.checkPublished()
}

// TestHistory: slices end where a revision ends, and together they are everything.
func TestHistory(t *testing.T) { bothWays(t, testHistory) }

func testHistory(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	for i := range 60 {
		txn := &pb.TxnRequest{}
		for j := range 70 {
			p := put(fmt.Sprintf("%d/%d", i%7, j), "value")
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
		}
		s.must(txn)
		if i%10 == 9 {
			s.must(&pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		}
	}
	for _, from := range []int64{1, 2, 3, 17, 40, s.Index().Rev, s.Index().Rev + 1} {
		var got []*mvcc.Event
		calls := 0
		err := s.History(t.Context(), s.Index(), from, func(events []*mvcc.Event) bool {
			calls++
			if len(got) > 0 && got[len(got)-1].Main == events[0].Main {
				t.Errorf("revision %d is split", events[0].Main)
			}
			got = append(got, events...)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(s.events, func(ev *mvcc.Event) bool { return ev.Main >= from })
		want := s.events[max(i, 0):]
		if i < 0 {
			want = nil
		}
		if len(got) != len(want) || from == 1 && calls < 3 {
			t.Fatalf("from %d: %d events in %d slices, want %d", from, len(got), calls, len(want))
		}
		for i := range got {
			if got[i].Key != want[i].Key || got[i].Version != want[i].Version || got[i].Prev != want[i].Prev || string(got[i].Value) != string(want[i].Value) {
				t.Fatalf("event %d: %+v, want %+v", i, got[i], want[i])
			}
		}
	}
}

// TestManyWriters: all acknowledged writes are there, in the order of their headers, also after a restart.
func TestManyWriters(t *testing.T) { bothWays(t, testManyWriters) }

func testManyWriters(t *testing.T, start starter) {
	mem := memory.NewStore()
	s := start(t, mem, func(o *Options) { o.MaxBatchRequests, o.MaxBatchBytes = 8, 100 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int64]string{}
	for w := range 16 {
		wg.Go(func() {
			for i := range 50 {
				k := fmt.Sprintf("%d/%d", w, i)
				resp, err := s.Do(t.Context(), put(k, k), 20)
				if err != nil {
					t.Error(err)
					return
				}
				rev := resp.(*pb.PutResponse).Header.Revision
				if got := s.get(k); got != k {
					t.Errorf("%q reads as %q after it was acknowledged", k, got)
				}
				mu.Lock()
				if other, twice := seen[rev]; twice {
					t.Errorf("revision %d was given to %q and %q", rev, other, k)
				}
				seen[rev] = k
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.checkPublished()
	for i, ev := range s.events {
		if seen[ev.Main] != ev.Key {
			t.Fatalf("event %d says %q at %d, the answer said %q", i, ev.Key, ev.Main, seen[ev.Main])
		}
	}
	s.stop()
	again := start(t, mem)
	for rev, k := range seen {
		if v := again.Index().Get(k, again.Index().Rev); v == nil || v.Main != rev {
			t.Fatalf("%q at %d is %+v after the restart", k, rev, v)
		}
	}
}

// TestWriteAfterUncertainScrub: housekeeping whose outcome is unknown does not
// make writes fail until somebody reads.
func TestWriteAfterUncertainScrub(t *testing.T) { bothWays(t, testWriteAfterUncertainScrub) }

func testWriteAfterUncertainScrub(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	for range 3 {
		s.must(put("a", "v"))
	}
	s.must(&pb.CompactionRequest{Revision: 4})
	s.must(put("a", "v"))
	s.log.Inject(memory.OpScrub, memory.Fault{Err: drivers.ErrUncertain})
	if _, err := s.Prune(t.Context(), func(context.Context) error { return nil }); !errors.Is(err, drivers.ErrUncertain) {
		t.Fatalf("prune: %v", err)
	}
	for range 2 {
		if _, err := s.do(put("a", "w")); err != nil {
			t.Error(err)
		}
	}
	s.checkPublished()
}

// TestFailureEnds: a log that could not be read and can be again is healthy, also if nobody reads what is
// not cached.
func TestFailureEnds(t *testing.T) { bothWays(t, testFailureEnds) }

func testFailureEnds(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	s.must(put("a", "v"))
	s.log.Inject(memory.OpReadIndex, memory.Fault{Err: errors.New("the disk is away")})
	if _, err := s.Linearizable(t.Context()); err == nil || s.Failure() == nil {
		t.Fatalf("%v, failure %v", err, s.Failure())
	}
	s.log.Inject(memory.OpValues, memory.Fault{Err: errors.New("the disk is still away")})
	if err := s.Probe(t.Context()); err == nil {
		t.Error("healthy, and cannot be read")
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}
