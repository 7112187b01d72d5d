package sqllog

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// rigged is a shared log with some methods replaced, and calls counted.
type rigged struct {
	drivers.Shared
	hold      func(context.Context) (drivers.Turn, error)
	readIndex func(context.Context) (drivers.Bounds, error)
	scrub     func(context.Context, []int64) error
	between   func() // called after each slice of a scan
	holds     atomic.Int64
	questions atomic.Int64
	moves     atomic.Int64
}

func (r *rigged) Hold(ctx context.Context) (drivers.Turn, error) {
	r.holds.Add(1)
	if r.hold != nil {
		return r.hold(ctx)
	}
	return r.Shared.Hold(ctx)
}

func (r *rigged) ReadIndex(ctx context.Context) (drivers.Bounds, error) {
	r.questions.Add(1)
	if r.readIndex != nil {
		return r.readIndex(ctx)
	}
	return r.Shared.ReadIndex(ctx)
}

func (r *rigged) Moved(ctx context.Context, than drivers.End) error {
	r.moves.Add(1)
	return r.Shared.Moved(ctx, than)
}

func (r *rigged) Scrub(ctx context.Context, positions []int64) error {
	if r.scrub != nil {
		return r.scrub(ctx, positions)
	}
	return r.Shared.Scrub(ctx, positions)
}

func (r *rigged) ScrubIn(ctx context.Context, epoch uint64, positions []int64) error {
	if r.scrub != nil {
		return r.scrub(ctx, positions)
	}
	return r.Shared.ScrubIn(ctx, epoch, positions)
}

func (r *rigged) Scan(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	return r.Shared.Scan(ctx, opts, func(entries []drivers.Entry) error {
		err := fn(entries)
		if r.between != nil {
			r.between()
		}
		return err
	})
}

// rig has a server use a rigged log.
func rig(r *rigged) func(*Options) {
	return func(o *Options) {
		r.Shared = o.Log.(drivers.Shared)
		o.Log = r
	}
}

// overtake has another server write, compact and scrub so much that nobody finds its place in the log any more who was
// there before.
func overtake(other *server) {
	for range 5 {
		other.must(put("overtaken", "x"))
	}
	other.must(&pb.CompactionRequest{Revision: other.Index().Rev})
	other.must(put("last", "x"))
	other.prune()
}

func (s *server) prune() int {
	s.t.Helper()
	removed, err := s.Prune(context.Background(), func(ctx context.Context) error { return ctx.Err() })
	if err != nil {
		s.t.Errorf("prune: %v", err)
	}
	return removed
}

// TestUncertainAndOthers: whatever others append after a batch in doubt, or instead of it, the answer is the truth.
func TestUncertainAndOthers(t *testing.T) {
	for name, c := range map[string]struct {
		fault     memory.Fault
		before    bool // others append before the batch would have been, otherwise after it
		succeeded bool
	}{
		"landed, others after it":    {fault: memory.Fault{Apply: true}, succeeded: true},
		"late, others before it":     {fault: memory.Fault{Late: true}, before: true},
		"not landed, others instead": {before: true},
		"not landed, others later":   {},
		"late, others late":          {fault: memory.Fault{Late: true}},
	} {
		t.Run(name, func(t *testing.T) {
			mem := memory.NewStore()
			s := start(t, mem)
			s.must(put("before", "x"))
			others := func() { foreign(t, mem, put("j", "1"), put("k", "theirs")); foreign(t, mem, put("j", "2")) }
			c.fault.Err = drivers.ErrUncertain
			if c.before {
				c.fault.Before = others
			} else {
				s.log.Inject(memory.OpReadIndex, memory.Fault{Before: others})
			}
			s.log.Inject(memory.OpAppend, c.fault)
			resp := s.must(create("k", "ours")).(*pb.TxnResponse)
			if resp.Succeeded != c.succeeded {
				t.Errorf("succeeded %v", resp.Succeeded)
			}
			ix := s.Index()
			v := ix.Get("k", ix.Rev)
			if want := int64(3); c.succeeded && (resp.Header.Revision != want || v.Create != want || v.Count != 2) {
				t.Errorf("the answer is at revision %d, k is %+v", resp.Header.Revision, v)
			}
			if !c.succeeded && (s.get("k") != "theirs" || string(resp.Responses[0].GetResponseRange().Kvs[0].Value) != "theirs" || v.Count != 1) {
				t.Errorf("k is %q, the answer %v, %+v", s.get("k"), resp, v)
			}
			if s.Failure() != nil {
				t.Errorf("the failure %v shows still", s.Failure())
			}
			s.checkPublished()
			start(t, mem).checkSame(s)
		})
	}
}

// checkSame compares what two servers on one log show.
func (s *server) checkSame(other *server) {
	s.t.Helper()
	all := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}}}
	read := func(s *server) string {
		resp, err := s.ReadTxn(context.Background(), &pb.TxnRequest{Success: []*pb.RequestOp{all}})
		if err != nil {
			s.t.Fatal(err)
		}
		return resp.String()
	}
	if a, b := read(s), read(other); a != b {
		s.t.Errorf("one server shows\n%s\nanother\n%s", a, b)
	}
	if a, b := s.Index(), other.Index(); a.Rev != b.Rev || a.Compact != b.Compact || a.End != b.End {
		s.t.Errorf("revision %d, compacted at %d, end %v; another server: %d, %d, %v", a.Rev, a.Compact, a.End, b.Rev, b.Compact, b.End)
	}
}

// TestUncertainAndScrubbed: where the batch in doubt would stand, all has been scrubbed. Nobody knows what became of it, the
// client is told so, and all goes on.
func TestUncertainAndScrubbed(t *testing.T) {
	for name, fault := range map[string]memory.Fault{
		"landed":     {Apply: true, Err: drivers.ErrUncertain},
		"not landed": {Err: drivers.ErrUncertain},
	} {
		t.Run(name, func(t *testing.T) {
			mem := memory.NewStore()
			other := start(t, mem)
			var reloaded atomic.Pointer[mvcc.Index]
			s := start(t, mem, func(o *Options) { o.Reloaded = func(ix *mvcc.Index) { reloaded.Store(ix) } })
			s.must(put("k", "old"))
			s.log.Inject(memory.OpAppend, fault)
			s.log.Inject(memory.OpReadIndex, memory.Fault{Before: func() { overtake(other) }})
			if _, err := s.do(put("overtaken", "new")); !errors.Is(err, drivers.ErrUncertain) {
				t.Errorf("the answer is %v", err)
			}
			if ix := reloaded.Load(); ix == nil || ix != s.Index() {
				t.Errorf("reloaded to %p, the index is %p", ix, s.Index())
			}
			s.must(put("after", "x"))
			if s.get("last") != "x" || s.get("after") != "x" || s.get("overtaken") != "x" || s.get("k") != "old" || s.Failure() != nil {
				t.Errorf("afterwards: failure %v", s.Failure())
			}
			other.must(put("more", "x"))
			s.checkSame(other)
		})
	}
}

// TestUncertainAndReadMeanwhile: a reader may be the first to see a batch whose author could not find out. It is published once.
func TestUncertainAndReadMeanwhile(t *testing.T) {
	for name, fault := range map[string]memory.Fault{
		"landed":     {Apply: true, Err: drivers.ErrUncertain},
		"late":       {Late: true, Err: drivers.ErrUncertain},
		"not landed": {Err: drivers.ErrUncertain},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, memory.NewStore())
			s.must(put("k", "old"))
			s.log.Inject(memory.OpAppend, fault)
			s.log.Inject(memory.OpReadIndex, memory.Fault{Err: errors.New("no answer")})
			if _, err := s.do(put("k", "new")); !errors.Is(err, drivers.ErrUncertain) {
				t.Fatal(err)
			}
			want := "new"
			if name == "not landed" {
				want = "old"
			}
			for range 2 {
				if got := s.get("k"); got != want {
					t.Errorf("k is %q", got)
				}
			}
			p := put("k", "last")
			p.PrevKv = true
			if resp := s.must(p).(*pb.PutResponse); string(resp.PrevKv.Value) != want {
				t.Errorf("before the next write k was %q", resp.PrevKv.Value)
			}
			if s.Failure() != nil {
				t.Errorf("the failure %v shows still", s.Failure())
			}
			s.checkPublished()
		})
	}
}

// TestUncertainAgainAndAgain: an outcome may be unknown many times before it is known.
func TestUncertainAgainAndAgain(t *testing.T) {
	for _, last := range []memory.Fault{{}, {Apply: true, Err: drivers.ErrUncertain}, {Late: true, Err: drivers.ErrUncertain}} {
		s := start(t, memory.NewStore())
		s.must(put("k", "0"))
		for range 5 {
			s.log.Inject(memory.OpAppend, memory.Fault{Err: drivers.ErrUncertain})
		}
		s.log.Inject(memory.OpAppend, last)
		s.must(put("k", "1"))
		if ix := s.Index(); ix.Rev != 3 || s.get("k") != "1" {
			t.Errorf("revision %d, k is %q", ix.Rev, s.get("k"))
		}
		s.checkPublished()
	}
}

// TestUnresolved: what the log refuses until it has been asked is not refused to clients, whoever left it in doubt.
func TestUnresolved(t *testing.T) {
	for _, contended := range []bool{false, true} {
		mem := memory.NewStore()
		s := start(t, mem)
		for i := range 3 {
			s.must(put("k", "x"))
			if i == 1 && contended {
				foreign(t, mem, put("k", "theirs"))
			}
		}
		for range 3 {
			s.log.Inject(memory.OpScrub, memory.Fault{Err: drivers.ErrUncertain})
			if err := s.log.Scrub(t.Context(), []int64{1}); !errors.Is(err, drivers.ErrUncertain) {
				t.Fatal(err)
			}
			s.must(put("k", "y"))
			if err := s.log.Scrub(t.Context(), nil); err != nil {
				t.Errorf("after a write: %v", err)
			}
		}
		if contended != (s.contended > 0) {
			t.Errorf("contended %d", s.contended)
		}
		s.checkPublished()
	}
}

// TestStaleDecision: a request that compares a value decides on what the log has, not on an index that is behind it, also if
// another server has scrubbed the value meanwhile.
func TestStaleDecision(t *testing.T) {
	for _, n := range []int{1, 3} { // the second time with the place in the log lost
		mem := memory.NewStore()
		other := start(t, mem)
		s := start(t, mem, func(o *Options) { o.CacheBytes = 1 })
		other.must(put("k", "old"))
		s.get("k")
		for range n {
			other.must(put("k", "new"))
		}
		other.must(&pb.CompactionRequest{Revision: other.Index().Rev})
		other.must(put("j", "x"))
		other.prune()
		txn := create("k", "ours")
		txn.Compare = []*pb.Compare{{Key: []byte("k"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("new")}}}
		if resp := s.must(txn).(*pb.TxnResponse); !resp.Succeeded {
			t.Errorf("n %d: the compare failed", n)
		}
		if got := other.get("k"); got != "ours" {
			t.Errorf("n %d: k is %q", n, got)
		}
		s.checkSame(other)
	}
}

// TestValueGone: a value that is gone though nothing freed it is one request's failure. It holds up nobody else.
func TestValueGone(t *testing.T) {
	mem := memory.NewStore()
	s := start(t, mem, func(o *Options) { o.CacheBytes = 1 })
	s.must(put("k", "v"))
	s.must(put("j", "v"))
	if err := mem.Open().Scrub(t.Context(), []int64{1}); err != nil {
		t.Fatal(err)
	}
	keep := &pb.PutRequest{Key: []byte("k"), IgnoreValue: true}
	if _, err := s.do(keep); err == nil || errors.Is(err, ErrTimeout) {
		t.Errorf("a put that keeps a value that is gone: %v", err)
	}
	s.must(put("j", "w"))
	s.checkPublished()
}
