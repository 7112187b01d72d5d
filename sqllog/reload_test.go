package sqllog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestReload: a server that has fallen behind what was scrubbed loads the log anew, whatever makes it notice, tells so once, before
// anybody is answered, and goes on from there.
func TestReload(t *testing.T) {
	for name, notice := range map[string]func(*server){
		"write":     func(s *server) { s.must(put("own", "x")) },
		"no append": func(s *server) { _, _ = s.do(&pb.LeaseRevokeRequest{ID: 99}) },
		"in a turn": func(s *server) { s.contended = 5; s.must(put("own", "x")) },
		"read":      func(s *server) { s.get("k") },
		"edit": func(s *server) {
			if err := s.edit(context.Background(), edit{fn: func(*mvcc.Builder) {}}); err != nil {
				s.t.Error(err)
			}
		},
		"follow": func(s *server) { stop := s.follow(); synctest.Wait(); stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := memory.NewStore()
				var s *server
				var reloads []*mvcc.Index
				var compacted atomic.Int64
				s = start(t, mem, func(o *Options) {
					o.Compacted = func() { compacted.Add(1) }
					o.Reloaded = func(ix *mvcc.Index) {
						if s.Index() != ix {
							t.Error("reloaded before readers see the index")
						}
						reloads = append(reloads, ix)
					}
				})
				s.must(put("k", "old"))
				rev := s.Index().Rev
				other := start(t, mem)
				other.must(&pb.LeaseGrantRequest{ID: 7, TTL: 60})
				other.must(put("k", "new"))
				overtake(other)
				notice(s)
				if len(reloads) != 1 || reloads[0].Compact != other.Index().Compact || reloads[0].Lease(7) == nil || compacted.Load() == 0 {
					t.Fatalf("%d reloads, told %d times that there is something to free", len(reloads), compacted.Load())
				}
				if now := s.Index(); now.Rev <= rev || s.get("k") != "new" || s.Failure() != nil {
					t.Errorf("revision %d after %d, failure %v", now.Rev, rev, s.Failure())
				}
				if _, _, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Revision: rev}); !errors.Is(err, mvcc.ErrCompacted) {
					t.Errorf("what was compacted reads with %v", err)
				}
				s.must(put("after", "x"))
				if other.get("after") != "x" || len(reloads) != 1 {
					t.Errorf("after is %q, %d reloads", other.get("after"), len(reloads))
				}
				s.checkSame(other)
				s.stop()
				other.stop()
			})
		})
	}
}

// TestReloadFails: the log may not be there for that either. Until it is, nothing old is answered.
func TestReloadFails(t *testing.T) {
	mem := memory.NewStore()
	s, other := start(t, mem), start(t, mem)
	s.must(put("k", "old"))
	other.must(put("k", "new"))
	overtake(other)
	for range 3 {
		s.log.Inject(memory.OpScan, memory.Fault{Err: errors.New("no answer")})
		if _, err := s.do(put("own", "x")); !errors.Is(err, ErrStorage) {
			t.Errorf("a write: %v", err)
		}
		s.log.Inject(memory.OpScan, memory.Fault{Apply: true, Err: errors.New("no answer")})
		if _, _, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); !errors.Is(err, ErrStorage) {
			t.Errorf("a read: %v", err)
		}
	}
	s.must(put("own", "x"))
	if s.get("k") != "new" || s.Failure() != nil {
		t.Errorf("k is %q, failure %v", s.get("k"), s.Failure())
	}
	other.must(put("more", "x"))
	s.checkSame(other)
}

// copied is a log that is a replica, in whose place a copy of another one may come at any time.
type copied struct {
	drivers.Followed
	mem *memory.Store
}

var _ drivers.Replica = copied{}

func (c copied) Known() drivers.Bounds { return c.mem.Bounds() }

func (c copied) Halted() <-chan struct{} { return nil }

// rigCopied is rig, of a replica.
func rigCopied(r *rigged, mem *memory.Store) func(*Options) {
	return func(o *Options) {
		rig(r)(o)
		o.Log = copied{r, mem}
	}
}

// TestHistoryBesideCompaction: before events are given that a compaction on another server may have made holes in, the index knows
// of that compaction.
func TestHistoryBesideCompaction(t *testing.T) {
	for _, how := range []string{"shared", "replica"} {
		for _, when := range []string{"before the scan", "in the scan", "at its end"} {
			t.Run(how+" "+when, func(t *testing.T) { historyBesideCompaction(t, how == "replica", when) })
		}
	}
}

func historyBesideCompaction(t *testing.T, replica bool, when string) {
	mem, r := memory.NewStore(), new(rigged)
	change := rig(r)
	if replica {
		change = rigCopied(r, mem)
	}
	s, other := start(t, mem, change), start(t, mem)
	for i := range 700 {
		s.must(put(fmt.Sprint("k", i%5), "x"))
	}
	ix, compact := s.Index(), int64(0)
	interfere := func() {
		other.must(&pb.CompactionRequest{Revision: 600})
		other.must(put("j", "x"))
		other.prune()
		compact = 600
	}
	switch slices := 0; when {
	case "before the scan":
		s.log.Inject(memory.OpScan, memory.Fault{Before: interfere})
	default:
		r.between = func() {
			if slices++; when == "in the scan" && slices == 1 || slices == 3 && when == "at its end" {
				interfere()
			}
		}
	}
	next := int64(2)
	err := s.History(t.Context(), ix, 2, func(events []*mvcc.Event) bool {
		if s.Index().Compact < compact {
			t.Errorf("%s: compacted at %d, the index knows of %d", when, compact, s.Index().Compact)
		}
		for _, ev := range events {
			if ev.Main != next && s.Index().Compact <= next {
				t.Errorf("%s: revision %d comes after %d, and the index says compacted at %d", when, ev.Main, next-1, s.Index().Compact)
			}
			next = ev.Main + 1
		}
		return true
	})
	if err != nil || next != ix.Rev+1 || s.Index().Compact != compact || compact == 0 {
		t.Errorf("%s: %v, up to %d of %d, the index says compacted at %d of %d", when, err, next-1, ix.Rev, s.Index().Compact, compact)
	}
}

// TestHistoryOfNothing: an index that is empty has no history, whatever others have appended since: it does not know what their changes replaced.
func TestHistoryOfNothing(t *testing.T) {
	for _, how := range []string{"shared", "replica"} {
		t.Run(how, func(t *testing.T) {
			mem, r := memory.NewStore(), new(rigged)
			change := rig(r)
			if how == "replica" {
				change = rigCopied(r, mem)
			}
			s, other := start(t, mem, change), start(t, mem)
			ix := s.Index()
			other.must(put("k", "old"))
			other.must(put("k", "new"))
			err := s.History(t.Context(), ix, 1, func(events []*mvcc.Event) bool {
				t.Errorf("%d events, the last %+v", len(events), events[len(events)-1])
				return true
			})
			if err != nil || s.Index().Rev != 3 {
				t.Errorf("%v, and then the index is at revision %d", err, s.Index().Rev)
			}
		})
	}
}

// TestHashBesideCompaction: a hash is one that all servers have, for the compact revision that it names.
func TestHashBesideCompaction(t *testing.T) {
	for _, rev := range []int64{0, 650} {
		for slice := range 8 {
			mem, r := memory.NewStore(), new(rigged)
			change := rig(r)
			if slice >= 4 {
				slice -= 4
				change = rigCopied(r, mem)
			}
			s, other := start(t, mem, change), start(t, mem)
			for i := range 700 {
				s.must(put(fmt.Sprint("k", i%5), fmt.Sprint(i)))
			}
			slices := 0
			r.between = func() {
				if slices == slice {
					other.must(&pb.CompactionRequest{Revision: 600})
					other.must(put("j", "x"))
					other.prune()
				}
				slices++
			}
			sum, err := s.HashKV(t.Context(), rev)
			if err != nil {
				t.Fatal(err)
			}
			want, err := other.HashKV(t.Context(), sum.Revision)
			if want.Current = sum.Current; err != nil || sum != want {
				t.Errorf("slice %d: %v, another server says %v, %v", slice, sum, want, err)
			}
		}
	}
}

// TestValuesBesideCompaction: when a value is gone, the index knows why.
func TestValuesBesideCompaction(t *testing.T) {
	mem := memory.NewStore()
	s, other := start(t, mem, func(o *Options) { o.CacheBytes = 1 }), start(t, mem)
	s.must(put("k", "old"))
	pos := s.Index().Get("k", 2).Position
	other.must(put("k", "new"))
	other.must(&pb.CompactionRequest{Revision: 3})
	other.must(put("j", "x"))
	other.prune()
	if _, err := s.Values(t.Context(), []int64{pos}); !errors.Is(err, drivers.ErrScrubbed) || s.Index().Compact != 3 {
		t.Errorf("%v, the index says compacted at %d", err, s.Index().Compact)
	}
}

// TestReadsBesideOthersPrune: reads are whole while another server frees what they need, without any regard for them: those of the
// current revision give all keys, pinned ones that or ErrCompacted.
func TestReadsBesideOthersPrune(t *testing.T) {
	mem := memory.NewStore()
	s, other := start(t, mem, func(o *Options) { o.CacheBytes = 1 }), start(t, mem)
	const keys = 10
	for i := range keys {
		other.must(put(fmt.Sprint("k", i), "0"))
	}
	s.get("k")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			last := int64(0)
			for ctx.Err() == nil {
				r := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Serializable: i%2 == 0}
				if i >= 2 {
					r.Revision = max(s.Index().Rev-3, keys+1)
				}
				sel, values, err := s.Range(context.Background(), r)
				if errors.Is(err, mvcc.ErrCompacted) && i >= 2 {
					continue
				}
				if err != nil || len(values) != keys || sel.Rev < last {
					t.Errorf("%v: %d keys after revision %d, %v", r, len(values), last, err)
					return
				}
				last = sel.Rev
			}
		})
	}
	for i := range 150 {
		other.must(put(fmt.Sprint("k", i%keys), fmt.Sprint(i)))
		if i%3 == 2 {
			other.must(&pb.CompactionRequest{Revision: other.Index().Rev - int64(i%2)})
			other.must(put("j", "x"))
			other.prune()
		}
	}
	cancel()
	wg.Wait()
	if err := s.Failure(); err != nil {
		t.Errorf("the failure is %v", err)
	}
	s.get("k")
	s.checkSame(other)
}
