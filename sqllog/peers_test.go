package sqllog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fleet are servers on one log. What each of them hears of the others is told by hear.
type fleet struct {
	t       *testing.T
	mem     *memory.Store
	servers []*server
	peers   []*peers
	cleared int64
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
	s := start(f.t, f.mem, func(o *Options) { o.Peers = p })
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

// hear tells everybody how far everything is scrubbed. It also checks that this is true.
func (f *fleet) hear() {
	for _, s := range f.servers {
		f.cleared = max(f.cleared, s.Cleared())
	}
	for _, p := range f.peers {
		p.mu.Lock()
		p.cleared = f.cleared
		p.mu.Unlock()
	}
	if left := f.superseded(f.cleared); len(left) > 0 {
		f.t.Errorf("cleared up to %d, but %d are there that were superseded before, from %d on", f.cleared, len(left), left[0])
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
	ix := b.Index(drivers.End{Position: upTo})
	b = ix.Edit(false)
	var freed []int64
	if ix.Compact > 0 {
		keys, _ := ix.Prunable("", ix.Compact, 1<<30)
		freed = b.Prune(keys, ix.Compact)
	}
	freed = append(freed, b.TakeGarbage()...)
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

// TestOnlyKeeperScrubs: the others free their index, and keep in mind what is to be scrubbed until they hear that it is done.
func TestOnlyKeeperScrubs(t *testing.T) {
	f := newFleet(t, 3)
	f.fill(f.servers[1], 10, 5)
	for _, s := range f.servers[1:] {
		s.get("k")
		if n := s.prune(); n != 0 || s.Cleared() != 0 || len(s.freed) == 0 {
			t.Errorf("who is not the keeper scrubbed %d entries, cleared %d, keeps %d", n, s.Cleared(), len(s.freed))
		}
	}
	f.servers[0].get("k")
	if n := f.servers[0].prune(); n != 40 || f.servers[0].Cleared() != f.mem.Bounds().End.Position {
		t.Errorf("the keeper scrubbed %d entries, cleared %d", n, f.servers[0].Cleared())
	}
	f.hear()
	f.servers[1].prune()
	if n := len(f.servers[1].freed); n != 0 {
		t.Errorf("%d are kept in mind though they are scrubbed", n)
	}
	f.servers[0].get("k")
	// The third has not heard of it when it becomes the keeper: doing it again does no harm.
	f.keeper(2)
	f.servers[2].prune()
	f.hear()
	f.checkClean()
}

// TestClearedAndTheEnd: the log's last entry stays, also if it is superseded, and is not claimed to be gone.
func TestClearedAndTheEnd(t *testing.T) {
	f := newFleet(t, 2)
	keeper, other := f.servers[0], f.servers[1]
	keeper.must(put("k", "1"))
	for range 3 {
		keeper.must(&mvcc.Barrier{}) // superseded from the beginning
		end := f.mem.Bounds().End.Position
		_ = f.prune(1)
		_ = f.prune(0)
		if keeper.Cleared() != end-1 {
			t.Errorf("cleared up to %d, the last entry is at %d", keeper.Cleared(), end)
		}
		f.hear()
		_ = f.prune(1)
	}
	// The keeper dies with it, and another server, which has heard that most is scrubbed, becomes the keeper.
	f.keeper(1)
	other.must(put("k", "2"))
	_ = f.prune(1)
	f.hear()
	f.checkClean()
	if left := f.superseded(f.mem.Bounds().End.Position); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestClearedBeyondTheEnd: nobody can have scrubbed what is not there. Who says so speaks of another history, and to believe it
// would bring back what was deleted: its tombstone is scrubbed later, and what came before would stay.
func TestClearedBeyondTheEnd(t *testing.T) {
	f := newFleet(t, 2)
	other := f.servers[1]
	other.must(put("k", "1"))
	other.must(put("k", "2"))
	other.must(&pb.CompactionRequest{Revision: 3})
	f.peers[1].cleared = 100
	if err := f.prune(1); err != nil {
		t.Error(err)
	}
	other.must(&pb.DeleteRangeRequest{Key: []byte("k")})
	other.must(put("j", "1"))
	other.must(&pb.CompactionRequest{Revision: 5})
	other.must(put("j", "2"))
	f.keeper(1)
	if err := f.prune(1); err != nil {
		t.Error(err)
	}
	f.checkClean()
	if v := f.join().Index().Get("k", 6); v != nil {
		t.Errorf("what was deleted is back: %+v", v)
	}
}

// TestFreedWhileScrubbing: what becomes free while the keeper waits or scrubs is not claimed to be gone.
func TestFreedWhileScrubbing(t *testing.T) {
	for _, when := range []string{"waiting", "scrubbing"} {
		f := newFleet(t, 2)
		keeper, other := f.servers[0], f.servers[1]
		f.fill(keeper, 700, 3)
		end := f.mem.Bounds().End.Position
		once := true
		more := func(context.Context, int64) error {
			if once {
				once = false
				f.fill(other, 20, 5)
				other.prune()
			}
			return nil
		}
		if when == "waiting" {
			f.peers[0].reached = more
		}
		if _, err := keeper.Prune(t.Context(), func(ctx context.Context) error {
			if when == "scrubbing" {
				return more(ctx, 0)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if n := keeper.Cleared(); n > end {
			t.Errorf("%s: cleared %d, pruning began at %d", when, n, end)
		}
		f.hear()
		// The keeper dies now.
		f.keeper(1)
		other.prune()
		f.hear()
		f.checkClean()
	}
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
				f.hear()
				_ = f.prune(1)
				next := 1
				if heir == "new" {
					next = 2
				}
				f.keeper(next)
				if err := f.prune(next); err != nil {
					t.Error(err)
				}
				f.hear()
				f.checkClean()
				for _, s := range f.servers {
					s.stop()
				}
			}
		}
	}
}

// TestPeersAtRandom: servers write, compact, prune, fail, die, come and become keepers in any order. What is claimed to be scrubbed
// always is, and in the end everything is that can be, and all else is there.
func TestPeersAtRandom(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			f := newFleet(t, 1+r.IntN(3))
			for range 150 {
				f.step(r)
			}
			for i := range append(f.servers, f.servers[0]) {
				f.keeper(i % len(f.servers))
				for f.prune(i%len(f.servers)) != nil {
				}
				f.hear()
			}
			f.checkClean()
		})
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
		f.hear()
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
