package sqllog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fleet are servers on one log, one of which, or none, is the keeper.
type fleet struct {
	t       *testing.T
	mem     *memory.Store
	servers []*server
	peers   []*peers
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{t: t, mem: memory.NewStore()}
	for range n {
		f.join()
	}
	f.keeper(0)
	return f
}

// join starts another server, which is not the keeper.
func (f *fleet) join() *server {
	p := new(peers)
	s := start(f.t, f.mem, func(o *Options) { o.Peers, o.loadAtOnce = p, 20 })
	f.servers, f.peers = append(f.servers, s), append(f.peers, p)
	return s
}

// keeper makes one server the keeper, -1 for none.
func (f *fleet) keeper(n int) {
	for i, p := range f.peers {
		p.mu.Lock()
		p.keeper = i == n
		p.mu.Unlock()
	}
}

// superseded gives the positions of the entries in the log that those up to a position have superseded.
func (f *fleet) superseded(upTo int64) []int64 {
	f.t.Helper()
	if upTo == 0 {
		return nil
	}
	b := mvcc.NewIndex().Edit(false)
	present := map[int64]bool{}
	err := f.mem.Open().Scan(context.Background(), drivers.ScanOptions{UpTo: upTo}, func(entries []drivers.Entry) error {
		for _, e := range entries {
			present[e.Position] = true
		}
		return b.Load(entries)
	})
	if err != nil {
		f.t.Fatal(err)
	}
	b.Settle()
	freed := mvcc.Positions(b.TakeSuperseded(upTo))
	slices.Sort(freed)
	return slices.DeleteFunc(slices.Compact(freed), func(p int64) bool { return !present[p] })
}

// prune has a server prune that follows the log.
func (f *fleet) prune(n int) error {
	err := f.servers[n].current(context.Background())
	if err == nil {
		_, err = f.servers[n].Prune(context.Background(), func(context.Context) error { return nil })
	}
	return err
}

// checkClean checks that nothing superseded is left, but at the very end, and that nothing is missing.
func (f *fleet) checkClean() {
	f.t.Helper()
	end := f.mem.Bounds().End.Position
	left := f.superseded(end)
	if left = slices.DeleteFunc(left, func(p int64) bool { return p == end }); len(left) > 0 {
		f.t.Errorf("%d superseded entries are left, from %d on", len(left), left[0])
	}
	checkLog(f.t, f.mem)
	for _, s := range f.servers[1:] {
		f.servers[0].checkSame(s)
	}
}

// fill writes a number of keys over and over, and compacts.
func (f *fleet) fill(s *server, keys, times int) {
	for i := range times {
		txn := new(pb.TxnRequest)
		for k := range keys {
			p := put(fmt.Sprintf("k%04d", k), fmt.Sprint(i))
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
		}
		s.must(txn)
	}
	s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
	s.must(put("end", "x"))
}

// TestOnlyKeeperScrubs: the others free their index, and remember nothing of it. Whoever becomes the keeper finds what is left.
func TestOnlyKeeperScrubs(t *testing.T) {
	f := newFleet(t, 3)
	f.fill(f.servers[1], 10, 5)
	for _, s := range f.servers[1:] {
		s.get("k")
		if n := s.prune(); n != 0 || len(s.backlog.positions) != 0 || s.Index().Garbage() != 0 {
			t.Errorf("who is not the keeper scrubbed %d entries, remembers %d", n, len(s.backlog.positions))
		}
	}
	if left := f.superseded(f.mem.Bounds().End.Position); len(left) != 40 {
		t.Fatalf("%d are superseded", len(left))
	}
	f.keeper(2)
	if n := f.servers[2].prune(); n != 40 {
		t.Errorf("the next keeper scrubbed %d entries", n)
	}
	f.checkClean()
	// The one before has been by itself, and does it again: no harm.
	f.keeper(0)
	f.servers[0].prune()
	f.checkClean()
	if n := len(f.servers[0].backlog.positions); n != 0 {
		t.Errorf("%d are left to be scrubbed", n)
	}
}

// TestFormerKeeper: who is not the keeper any more lets go of what it had found.
func TestFormerKeeper(t *testing.T) {
	f := newFleet(t, 2)
	f.fill(f.servers[0], 10, 5)
	f.servers[0].log.Inject(memory.OpScrub, memory.Fault{Err: errors.New("killed")})
	if err := f.prune(0); err == nil || len(f.servers[0].backlog.positions) != 40 {
		t.Fatalf("%d are left to be scrubbed, %v", len(f.servers[0].backlog.positions), err)
	}
	f.keeper(1)
	if err := f.prune(0); err != nil || len(f.servers[0].backlog.positions) != 0 {
		t.Fatalf("%d are remembered, %v", len(f.servers[0].backlog.positions), err)
	}
	f.keeper(0)
	if err := f.prune(0); err != nil {
		t.Error(err)
	}
	f.checkClean()
}

// loads counts the loads of a server's log from now on.
func (f *fleet) loads(n int) (count func() int) {
	before := 1000
	for range before {
		f.servers[n].log.Inject(memory.OpScan, memory.Fault{})
	}
	return func() int { return before - f.servers[n].log.Pending(memory.OpScan) }
}

// TestSurveys: a survey is made by who becomes the keeper, and when the database may have lost scrubs, and not else.
func TestSurveys(t *testing.T) {
	f := newFleet(t, 2)
	counts := []func() int{f.loads(0), f.loads(1)}
	for i, step := range []struct {
		do   func()
		want [2]int // loads so far
	}{
		{func() {}, [2]int{}}, // it has loaded the log itself
		{func() { f.fill(f.servers[1], 3, 3) }, [2]int{}},
		{func() { f.mem.Unscrub(0) }, [2]int{1, 0}},
		{func() {}, [2]int{1, 0}},
		{func() { f.fill(f.servers[0], 3, 3); f.keeper(1) }, [2]int{1, 1}},
		{func() { f.fill(f.servers[0], 3, 3) }, [2]int{1, 1}},
		{func() { f.keeper(-1) }, [2]int{1, 1}},
		{func() { f.keeper(0) }, [2]int{2, 1}},
	} {
		step.do()
		for n := range f.servers {
			if err := f.prune(n); err != nil {
				t.Error(err)
			}
			if got := counts[n](); got != step.want[n] {
				t.Errorf("step %d: server %d has loaded the log %d times", i, n, got)
			}
		}
	}
	f.checkClean()
}

// buried has a key put twice, the first put scrubbed, and the scrub lost; then the key is deleted, and a lease revoked that was renewed.
func buried(f *fleet) {
	s := f.servers[0]
	s.must(&pb.LeaseGrantRequest{ID: 7, TTL: 60})
	s.must(put("k", "1"))
	s.must(put("k", "2"))
	s.must(&mvcc.Renew{ID: 7})
	s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
	if err := f.prune(0); err != nil {
		f.t.Error(err)
	}
	f.mem.Unscrub(1)
	if left := f.superseded(f.mem.Bounds().End.Position); len(left) < 2 {
		f.t.Fatalf("%v are there again", left)
	}
	s.must(&pb.DeleteRangeRequest{Key: []byte("k")})
	s.must(put("j", "1"))
	s.must(&pb.LeaseRevokeRequest{ID: 7})
	s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
	s.must(put("j", "2"))
}

// checkBuried checks that a server which loads the log finds nothing of it.
func (f *fleet) checkBuried(when string) {
	f.t.Helper()
	ix := f.join().Index()
	if v := ix.Get("k", ix.Rev); v != nil || ix.Lease(7) != nil {
		f.t.Errorf("%s: what was deleted is back: %+v, %+v", when, v, ix.Lease(7))
	}
	f.servers[len(f.servers)-1].stop()
	f.servers, f.peers = f.servers[:len(f.servers)-1], f.peers[:len(f.peers)-1]
}

// TestLostScrub: what a failover has brought back does not outlive what deletes it, whoever scrubs then, and wherever that one dies.
func TestLostScrub(t *testing.T) {
	for _, keeper := range []int{0, 1} {
		f := newFleet(t, 2)
		buried(f)
		f.keeper(keeper)
		f.servers[keeper].log.Inject(memory.OpScrub, memory.Fault{Err: errors.New("killed")})
		if err := f.prune(keeper); err == nil {
			t.Error("the fault was not met")
		}
		f.checkBuried("the keeper dies")
		f.keeper(1 - keeper)
		if err := f.prune(1 - keeper); err != nil {
			t.Error(err)
		}
		f.checkBuried("the next one has scrubbed")
		f.checkClean()
	}
}

// TestLostWhileScrubbing: a failover at any moment of a round ends it, before anything is scrubbed on the strength of what is lost.
func TestLostWhileScrubbing(t *testing.T) {
	for name, inject := range map[string]func(*fleet, func()){
		"before the survey's end": func(f *fleet, lose func()) { f.servers[0].log.Inject(memory.OpScan, memory.Fault{Before: lose}) },
		"waiting": func(f *fleet, lose func()) {
			f.peers[0].reached = func(context.Context, int64) error { lose(); return nil }
		},
		"just before a slice": func(f *fleet, lose func()) { f.servers[0].log.Inject(memory.OpScrub, memory.Fault{Before: lose}) },
		"just before another slice": func(f *fleet, lose func()) {
			f.servers[0].log.Inject(memory.OpScrub, memory.Fault{})
			f.servers[0].log.Inject(memory.OpScrub, memory.Fault{Before: lose})
		},
	} {
		f := newFleet(t, 2)
		buried(f)
		f.fill(f.servers[0], 700, 2)
		once := sync.OnceFunc(func() { f.mem.Unscrub(1) })
		inject(f, once)
		before := f.mem.Bounds().Scrubbed
		if err := f.prune(0); !errors.Is(err, drivers.ErrEpoch) {
			t.Errorf("%s: %v", name, err)
		}
		if now := f.mem.Bounds().Scrubbed; name == "just before a slice" && now > before {
			t.Errorf("%s: scrubbed up to %d", name, now)
		}
		f.checkBuried(name)
		if err := f.prune(0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		f.checkBuried(name)
		f.checkClean()
	}
}

// TestSurveyFails: a survey that ends halfway is none. The next Prune surveys again, and nothing is scrubbed before.
func TestSurveyFails(t *testing.T) {
	f := newFleet(t, 2)
	f.fill(f.servers[0], 10, 5)
	_ = f.prune(1)
	f.keeper(1)
	for range 3 {
		f.servers[1].log.Inject(memory.OpScan, memory.Fault{Apply: true, Err: errors.New("no answer")})
		if err := f.prune(1); err == nil || f.mem.Bounds().Scrubbed > 0 || f.servers[1].backlog.whole {
			t.Errorf("scrubbed up to %d, %v", f.mem.Bounds().Scrubbed, err)
		}
	}
	if err := f.prune(1); err != nil {
		t.Error(err)
	}
	f.checkClean()
}

// TestSurveyAnotherHistory: a log that does not continue what is served is not scrubbed, and nothing is served any more.
func TestSurveyAnotherHistory(t *testing.T) {
	f := newFleet(t, 2)
	f.servers[0].must(put("k", "1"))
	f.servers[0].must(put("k", "2"))
	f.servers[0].must(&pb.CompactionRequest{Revision: 3})
	_ = f.prune(1)
	f.keeper(1)
	f.servers[1].log.Inject(memory.OpScan, memory.Fault{Before: func() {
		if err := f.mem.Rewind(2); err != nil {
			t.Error(err)
		}
	}})
	if err := f.prune(1); !errors.Is(err, drivers.ErrDiverged) || f.mem.Bounds().Scrubbed > 0 {
		t.Errorf("scrubbed up to %d, %v", f.mem.Bounds().Scrubbed, err)
	}
	f.servers[1].refusesAll()
}

// TestFreedWhileScrubbing: what becomes free while the keeper surveys, waits or scrubs is left neither behind nor out by the next one.
func TestFreedWhileScrubbing(t *testing.T) {
	for _, when := range []string{"surveying", "waiting", "scrubbing"} {
		f := newFleet(t, 3)
		f.fill(f.servers[0], 700, 3)
		_ = f.prune(1)
		f.keeper(1)
		keeper, other := f.servers[1], f.servers[2]
		more := sync.OnceFunc(func() {
			f.fill(other, 20, 5)
			other.prune()
		})
		switch when {
		case "surveying":
			keeper.log.Inject(memory.OpScan, memory.Fault{Before: more})
		case "waiting":
			f.peers[1].reached = func(context.Context, int64) error { more(); return nil }
		}
		if _, err := keeper.Prune(t.Context(), func(context.Context) error {
			if when == "scrubbing" {
				more()
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		// The keeper goes on, or dies now.
		for _, next := range []int{1, 2} {
			f.keeper(next)
			if err := f.prune(next); err != nil {
				t.Error(err)
			}
			f.checkClean()
		}
	}
}

// TestLosesKeepership: who is not the keeper any more in the middle of a round, which another one begins, does no harm.
func TestLosesKeepership(t *testing.T) {
	f := newFleet(t, 2)
	f.fill(f.servers[0], 700, 4)
	slices := 0
	if _, err := f.servers[0].Prune(t.Context(), func(context.Context) error {
		if slices++; slices == 4 {
			f.keeper(1)
			f.fill(f.servers[1], 30, 3)
			if err := f.prune(1); err != nil {
				t.Error(err)
			}
			f.checkClean()
		}
		return nil
	}); err != nil || slices < 5 {
		t.Errorf("%d slices, %v", slices, err)
	}
	f.checkClean()
}

// TestKeeperDies: wherever the keeper ends while it scrubs, be its last slice gone or not, the next one leaves nothing behind, and
// takes nothing that lives. So does one that was started since.
func TestKeeperDies(t *testing.T) {
	for at := range 5 {
		for name, fault := range map[string]memory.Fault{
			"not done":        {Err: errors.New("killed")},
			"done":            {Apply: true, Err: errors.New("killed")},
			"in doubt":        {Err: drivers.ErrUncertain},
			"in doubt, done":  {Apply: true, Err: drivers.ErrUncertain},
			"after the slice": {},
		} {
			for _, heir := range []string{"old", "new"} {
				f := newFleet(t, 2)
				keeper := f.servers[0]
				f.fill(keeper, 500, 4)
				_ = f.prune(1)
				f.join()
				slices := 0
				for range at {
					keeper.log.Inject(memory.OpScrub, memory.Fault{})
				}
				keeper.log.Inject(memory.OpScrub, fault)
				_, err := keeper.Prune(t.Context(), func(context.Context) error {
					if slices++; fault.Err == nil && slices > at {
						return errors.New("killed")
					}
					return nil
				})
				if died := err != nil; died != (at < 3) && fault.Err != nil {
					t.Errorf("%s at %d: %v", name, at, err)
				}
				_ = f.prune(1)
				next := 1
				if heir == "new" {
					next = 2
				}
				f.keeper(next)
				if err := f.prune(next); err != nil {
					t.Error(err)
				}
				f.checkClean()
				for _, s := range f.servers {
					s.stop()
				}
			}
		}
	}
}

// TestPeersAtRandom: servers write, compact, prune, fail, die, come and become keepers in any order, and the database loses scrubs. Whoever
// loads the log finds what is served, at any time, and in the end everything is scrubbed that can be, and all else is there.
func TestPeersAtRandom(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			f := newFleet(t, 1+r.IntN(3))
			for range 150 {
				f.step(r)
				f.checkLive()
			}
			for i := range append(f.servers, f.servers[0]) {
				f.keeper(i % len(f.servers))
				for f.prune(i%len(f.servers)) != nil {
				}
			}
			f.checkClean()
		})
	}
}

// checkLive checks that a server which loads the log has the keys and leases that another one has which has seen everything.
func (f *fleet) checkLive() {
	f.t.Helper()
	if f.servers[0].refused() != nil || f.servers[0].current(context.Background()) != nil {
		return
	}
	seen := f.servers[0].Index()
	ix, err := (&Store{log: f.mem.Open(), opts: f.servers[0].opts}).load(context.Background(), func([]mvcc.Freed) {})
	if err != nil {
		f.t.Fatal(err)
	}
	for k := range 6 {
		key := fmt.Sprint("k", k)
		if a, b := seen.Get(key, seen.Rev), ix.Get(key, ix.Rev); (a == nil) != (b == nil) {
			f.t.Fatalf("%s is served as %+v, and loaded as %+v", key, a, b)
		}
	}
	for id := range int64(4) {
		if a, b := seen.Lease(id), ix.Lease(id); (a == nil) != (b == nil) {
			f.t.Fatalf("lease %d is served as %+v, and loaded as %+v", id, a, b)
		}
	}
}

func (f *fleet) step(r *rand.Rand) {
	n := r.IntN(len(f.servers))
	s := f.servers[n]
	key := fmt.Sprint("k", r.IntN(6))
	switch r.IntN(14) {
	case 0, 1, 2, 3:
		s.must(put(key, fmt.Sprint(r.IntN(100))))
	case 4:
		s.must(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte{0}})
	case 5:
		id := int64(1 + r.IntN(3))
		for _, request := range []any{&pb.LeaseGrantRequest{ID: id, TTL: 60}, &mvcc.Renew{ID: id}, &pb.LeaseRevokeRequest{ID: id}}[r.IntN(3):] {
			_, _ = s.do(request) // refused or not
		}
	case 6:
		if ix, err := s.Linearizable(f.t.Context()); err == nil && ix.Rev > max(ix.Compact, 0) {
			_, _ = s.do(&pb.CompactionRequest{Revision: ix.Rev - r.Int64N(min(4, ix.Rev-max(ix.Compact, 0)))})
		}
	case 7, 8:
		_ = f.prune(n)
	case 9:
		if f.peers[n].Keeper() {
			s.log.Inject(memory.OpScrub, memory.Fault{Apply: r.IntN(2) == 0, Err: []error{drivers.ErrUncertain, errors.New("killed")}[r.IntN(2)]})
		}
		_ = f.prune(n)
	case 10:
		f.keeper(r.IntN(len(f.servers)+1) - 1)
	case 11:
		if len(f.servers) > 1 && r.IntN(3) == 0 {
			s.stop()
			f.servers, f.peers = slices.Delete(f.servers, n, n+1), slices.Delete(f.peers, n, n+1)
		}
	case 12:
		if len(f.servers) < 4 {
			f.join()
		}
	case 13:
		// Only what came after the last append can be lost, if that is not.
		f.mem.Unscrub(r.IntN(f.mem.Scrubs() + 1))
	}
}

// TestPruneGivenUp: who gives up waiting for housekeeping does not make what was taken out of the index be forgotten: it would
// never be scrubbed, and what comes after it would.
func TestPruneGivenUp(t *testing.T) {
	bothWays(t, func(t *testing.T, start starter) {
		for range 20 {
			s := start(t, memory.NewStore())
			for i := range 5 {
				s.must(put("k", fmt.Sprint(i)))
			}
			s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
			s.must(put("j", "x"))
			hold, entered := make(chan struct{}), make(chan struct{})
			s.log.Inject(memory.OpReadIndex, memory.Fault{Entered: entered, Hold: hold})
			ctx, cancel := context.WithCancel(t.Context())
			gaveUp := make(chan error, 1)
			go func() { _, err := s.Prune(ctx, func(ctx context.Context) error { return ctx.Err() }); gaveUp <- err }()
			<-entered
			cancel()
			again := make(chan int, 1)
			go func() { again <- s.prune() }()
			runtime.Gosched()
			close(hold)
			if err := <-gaveUp; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if n := <-again + s.prune(); n != 4 || s.mem.Bounds().Scrubbed != 4 {
				t.Fatalf("%d entries were scrubbed, up to %d", n, s.mem.Bounds().Scrubbed)
			}
			s.stop()
		}
	})
}
