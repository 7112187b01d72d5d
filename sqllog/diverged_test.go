package sqllog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/sqllog/verify"
)

// refusesAll checks that nothing is answered any more.
func (s *server) refusesAll() {
	s.t.Helper()
	ctx := context.Background()
	r := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}
	serializable := &pb.RangeRequest{Key: r.Key, RangeEnd: r.RangeEnd, Serializable: true}
	stream := func(r *pb.RangeRequest) error {
		return s.RangeStream(ctx, r, 1000, func(*pb.RangeResponse) error { s.t.Error("a chunk was sent"); return nil })
	}
	for name, ask := range map[string]func() error{
		"put":                func() error { _, err := s.do(put("k", "v")); return err },
		"refused lease":      func() error { _, err := s.do(&pb.LeaseRevokeRequest{ID: 99}); return err },
		"range":              func() error { _, _, err := s.Range(ctx, r); return err },
		"serializable range": func() error { _, _, err := s.Range(ctx, serializable); return err },
		"stream":             func() error { return stream(r) },
		"serializable stream": func() error {
			return stream(serializable)
		},
		"transaction": func() error {
			_, err := s.ReadTxn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: serializable}}}})
			return err
		},
		"linearizable": func() error { _, err := s.Linearizable(ctx); return err },
		"hash":         func() error { _, err := s.HashKV(ctx, 0); return err },
		"history": func() error {
			return s.History(ctx, s.Index(), 2, func([]*mvcc.Event) bool { s.t.Error("events are told"); return false })
		},
		"prune": func() error { _, err := s.Prune(ctx, func(context.Context) error { return nil }); return err },
		"probe": func() error { return s.Probe(ctx) },
		"edit":  func() error { return s.edit(ctx, edit{fn: func(*mvcc.Builder) {}}) },
	} {
		if err := ask(); !errors.Is(err, drivers.ErrDiverged) || !errors.Is(err, ErrStorage) {
			s.t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Failure(); !errors.Is(err, drivers.ErrDiverged) {
		s.t.Errorf("the failure is %v", err)
	}
}

// TestDiverged: however a server finds that the log has another history, it tells so once and answers nothing from then on.
func TestDiverged(t *testing.T) {
	for name, find := range map[string]func(*server){
		"write":     func(s *server) { _, _ = s.do(put("k", "v")) },
		"no append": func(s *server) { _, _ = s.do(&pb.LeaseRevokeRequest{ID: 99}) },
		"read":      func(s *server) { _, _ = s.Linearizable(context.Background()) },
		"prune":     func(s *server) { _, _ = s.Prune(context.Background(), func(context.Context) error { return nil }) },
		"in a turn": func(s *server) { s.contended = 5; _, _ = s.do(put("k", "v")) },
		"in doubt": func(s *server) {
			s.log.Inject(memory.OpAppend, memory.Fault{Err: drivers.ErrUncertain})
			_, _ = s.do(put("k", "v"))
		},
		"many at once": func(s *server) {
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					if i%2 == 0 {
						_, _ = s.do(put("k", "v"))
					} else {
						_, _ = s.Linearizable(context.Background())
					}
				})
			}
			wg.Wait()
		},
	} {
		for _, others := range []int{0, 1, 2, 3, 9} { // what the log has in place of what it lost
			t.Run(fmt.Sprintf("%s, %d others", name, others), func(t *testing.T) {
				mem := memory.NewStore()
				var told atomic.Int64
				s := start(t, mem, func(o *Options) { o.Diverged = func(error) { told.Add(1) } })
				for i := range 4 {
					s.must(put("k", fmt.Sprint(i)))
				}
				s.must(&pb.CompactionRequest{Revision: 4})
				if err := mem.Rewind(2); err != nil {
					t.Fatal(err)
				}
				for i := range others {
					foreign(t, mem, put("other", fmt.Sprint(i)))
				}
				before := mem.Bounds()
				find(s)
				if told.Load() != 1 {
					t.Errorf("told %d times", told.Load())
				}
				s.refusesAll()
				if told.Load() != 1 || mem.Bounds() != before {
					t.Errorf("told %d times, the log is at %v and was at %v", told.Load(), mem.Bounds(), before)
				}
			})
		}
	}
}

// TestReloadShowsLess: a log that is scrubbed beyond what was seen, and has less, is another one.
func TestReloadShowsLess(t *testing.T) {
	mem := memory.NewStore()
	var told atomic.Int64
	s := start(t, mem, func(o *Options) { o.Diverged = func(error) { told.Add(1) } })
	for range 5 {
		s.must(put("k", "v"))
	}
	if err := mem.Rewind(1); err != nil {
		t.Fatal(err)
	}
	other := start(t, mem)
	for range 10 {
		other.must(&mvcc.Barrier{})
	}
	other.prune()
	if got := mem.Bounds().Scrubbed; got < 5 {
		t.Fatalf("scrubbed up to %d", got)
	}
	if _, err := s.Linearizable(t.Context()); !errors.Is(err, drivers.ErrDiverged) {
		t.Error(err)
	}
	s.refusesAll()
	if told.Load() != 1 {
		t.Errorf("told %d times", told.Load())
	}
}

// TestDivergedForGood: also if the log shows what was seen again, nothing is answered: not to those either who were waiting.
func TestDivergedForGood(t *testing.T) {
	mem, r := memory.NewStore(), new(rigged)
	s := start(t, mem, rig(r))
	s.must(put("k", "0"))
	old := mem.Bounds()
	s.must(put("k", "1"))
	waiting := make(chan error, 3)
	questions := 0
	r.readIndex = func(ctx context.Context) (drivers.Bounds, error) {
		if questions++; questions == 2 { // in the loop
			go func() { _, err := s.do(put("k", "2")); waiting <- err }()
			go func() { _, err := s.do(&pb.LeaseRevokeRequest{ID: 99}); waiting <- err }()
			go func() { waiting <- s.edit(context.Background(), edit{fn: func(*mvcc.Builder) {}}) }()
			for len(s.calls) < 2 {
				runtime.Gosched()
			}
			r.readIndex = nil
		}
		return old, nil
	}
	if _, err := s.Linearizable(t.Context()); !errors.Is(err, drivers.ErrDiverged) {
		t.Error(err)
	}
	for range cap(waiting) {
		if err := <-waiting; !errors.Is(err, drivers.ErrDiverged) {
			t.Errorf("who was waiting: %v", err)
		}
	}
	s.refusesAll()
}

// TestScrubsNoOtherHistory: what a server has found superseded in one history lives in another one.
func TestScrubsNoOtherHistory(t *testing.T) {
	mem := memory.NewStore()
	p := &peers{keeper: true}
	s := start(t, mem, func(o *Options) { o.Peers = p })
	s.must(put("k", "first"))
	for range 5 {
		s.must(put("k", "x"))
	}
	s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
	s.must(put("j", "x"))
	p.reached = func(context.Context, int64) error {
		if err := mem.Rewind(1); err != nil {
			t.Error(err)
		}
		for i := range 20 {
			foreign(t, mem, put(fmt.Sprint("other", i), "x"))
		}
		return nil
	}
	if n, err := s.Prune(t.Context(), func(context.Context) error { return nil }); !errors.Is(err, drivers.ErrDiverged) {
		t.Errorf("%d entries of another history were scrubbed, %v", n, err)
	}
	checkLog(t, mem)
	if n := start(t, mem).Index().Keys(); n != 21 {
		t.Errorf("%d keys", n)
	}
}

// peers is what a server hears of the others.
type peers struct {
	mu      sync.Mutex
	keeper  bool
	reached func(context.Context, int64) error
}

func (p *peers) Keeper() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keeper
}

func (p *peers) Reached(ctx context.Context, position int64) error {
	if p.reached == nil {
		return nil
	}
	return p.reached(ctx, position)
}

// checkLog walks the log for what must not be.
func checkLog(t *testing.T, mem *memory.Store) {
	t.Helper()
	_, err := verify.Walk(context.Background(), mem.Open(), verify.Options{Report: func(f verify.Finding) { t.Errorf("the log: %v", f) }})
	if err != nil {
		t.Error(err)
	}
}
