package sqllog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// keeping is a server that keeps history, and everything that ever stood in its log.
type keeping struct {
	*server
	t      *testing.T
	mem    *memory.Store
	change []func(*Options)
	ever   []drivers.Entry
	at     []time.Time // when each was appended
}

const retained = 24 * time.Hour

func keep(t *testing.T, mem *memory.Store, change ...func(*Options)) *keeping {
	k := &keeping{t: t, mem: mem, change: append([]func(*Options){func(o *Options) { o.Retain = retained }}, change...)}
	k.server = start(t, mem, k.change...)
	return k
}

// restart stops the server and starts another one.
func (k *keeping) restart() {
	k.stop()
	k.server = start(k.t, k.mem, k.change...)
}

// note takes note of what is new in the log.
func (k *keeping) note() {
	k.t.Helper()
	err := k.mem.Open().Scan(context.Background(), drivers.ScanOptions{After: int64(len(k.ever)), Values: true}, func(entries []drivers.Entry) error {
		for _, e := range entries {
			k.ever, k.at = append(k.ever, e), append(k.at, time.Now())
		}
		return nil
	})
	if err != nil || int64(len(k.ever)) != k.mem.Bounds().End.Position {
		k.t.Fatalf("%d of %d entries: %v", len(k.ever), k.mem.Bounds().End.Position, err)
	}
}

// check checks, after a Prune, that what is not superseded is there, and what was superseded in the last retention, which may be wrong by early; and that what
// was superseded longer ago is gone, if the retention is over by late.
func (k *keeping) check(early, late time.Duration) {
	k.t.Helper()
	k.note()
	present := map[int64]bool{}
	err := k.mem.Open().Scan(context.Background(), drivers.ScanOptions{}, func(entries []drivers.Entry) error {
		for _, e := range entries {
			present[e.Position] = true
		}
		return nil
	})
	b := mvcc.NewIndex().Edit(false)
	if err == nil {
		err = b.Load(k.ever)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	end := int64(len(k.ever))
	superseding := map[int64]int64{}
	for _, f := range b.TakeSuperseded(end) {
		superseding[f.Position] = f.By
	}
	for p := int64(1); p <= end; p++ {
		by, free := superseding[p]
		if !free {
			if !present[p] {
				k.t.Errorf("position %d is gone, and nothing has superseded it", p)
			}
			continue
		}
		switch age := time.Since(k.at[by-1]); {
		case age < retained-early && !present[p]:
			k.t.Errorf("position %d is gone, and was superseded %v ago, at %d", p, age, by)
		case age > retained+late && present[p] && p != end:
			k.t.Errorf("position %d is there, and was superseded %v ago, at %d", p, age, by)
		}
	}
	checkLog(k.t, k.mem)
}

// step does something at random.
func (k *keeping) step(r *rand.Rand) {
	key := fmt.Sprint("k", r.IntN(6))
	switch r.IntN(8) {
	case 0:
		k.must(&pb.DeleteRangeRequest{Key: []byte("k0"), RangeEnd: []byte("k4")})
	case 1:
		k.must(&pb.DeleteRangeRequest{Key: []byte(key)})
	case 2:
		k.must(&mvcc.Barrier{})
	case 3:
		id := 1 + r.Int64N(3)
		if _, err := k.do(&pb.LeaseGrantRequest{ID: id, TTL: 60}); err != nil {
			k.must(&pb.LeaseRevokeRequest{ID: id})
		}
	default:
		k.must(put(key, fmt.Sprint(r.Int())))
	}
	if rev := k.Index().Rev; r.IntN(4) == 0 && rev-3 > k.Index().Compact {
		k.must(&pb.CompactionRequest{Revision: rev - r.Int64N(3)})
	}
	k.note()
}

// TestRetain: what was superseded within the retention is there, and the rest is not.
func TestRetain(t *testing.T) {
	bothWays(t, func(t *testing.T, start starter) {
		for seed := range uint64(6) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 0))
				mem := memory.NewStore()
				k := &keeping{t: t, mem: mem, server: start(t, mem, func(o *Options) { o.Retain = retained })}
				for range 300 {
					k.step(r)
					time.Sleep(time.Duration(r.IntN(40)) * time.Minute)
					if due := k.Due(t.Context()); due || r.IntN(3) == 0 {
						k.prune()
						if k.Due(t.Context()) {
							t.Error("after Prune something is due")
						}
						k.check(0, time.Hour)
					}
				}
				for range 200 {
					time.Sleep(10 * time.Minute)
					if k.Due(t.Context()) {
						k.prune()
					}
				}
				k.check(0, 0)
				k.stop()
			})
		}
	})
}

// TestRetainRestarted: a server that is started knows by the times of batches how old the log is, also when the clock has been wrong.
func TestRetainRestarted(t *testing.T) {
	for _, jumps := range []bool{false, true} {
		for seed := range uint64(6) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				var jump time.Duration
				k := keep(t, memory.NewStore(), func(o *Options) { o.Now = func() time.Time { return time.Now().Add(jump) } })
				early := time.Duration(0)
				for range 300 {
					k.step(r)
					time.Sleep(time.Duration(r.IntN(40)) * time.Minute)
					if jumps && r.IntN(30) == 0 {
						jump = []time.Duration{0, 365 * 24 * time.Hour, -time.Hour, 20 * time.Hour}[r.IntN(4)]
						early += retained / clockSteps
					}
					if r.IntN(40) == 0 {
						k.restart()
					}
					if k.Due(t.Context()) || r.IntN(3) == 0 {
						k.prune()
						late := 4 * time.Hour
						if jumps {
							late = 30 * 24 * time.Hour // no longer than the server goes on
						}
						k.check(early, late)
					}
				}
				for range 200 {
					time.Sleep(10 * time.Minute)
					if k.Due(t.Context()) {
						k.prune()
					}
				}
				k.check(early, 0)
				k.stop()
			})
		}
	}
}

// TestRetainIsInvisible: clients see what was compacted as compacted, and the index has nothing of it.
func TestRetainIsInvisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		plain := start(t, memory.NewStore())
		for _, s := range []*server{k.server, plain} {
			for i := range 20 {
				s.must(put(fmt.Sprint("k", i%3), fmt.Sprint(i)))
			}
			s.must(&pb.DeleteRangeRequest{Key: []byte("k1")})
			s.must(&pb.CompactionRequest{Revision: 22})
			s.prune()
		}
		same := func(s *server) {
			ix := s.Index()
			if keys, _ := ix.Prunable("", ix.Compact, 100); len(keys) > 0 || ix.Garbage() > 0 {
				t.Errorf("the index has what is superseded: %q, and %d others", keys, ix.Garbage())
			}
			if want := plain.Index(); ix.Rev != want.Rev || ix.Compact != want.Compact || ix.Keys() != want.Keys() {
				t.Errorf("revision %d, compacted at %d, %d keys", ix.Rev, ix.Compact, ix.Keys())
			}
		}
		same(k.server)
		same(plain)
		for rev := int64(20); rev <= 22; rev++ {
			a, aerr := k.HashKV(t.Context(), rev)
			b, berr := plain.HashKV(t.Context(), rev)
			if a != b || fmt.Sprint(aerr) != fmt.Sprint(berr) {
				t.Errorf("revision %d: %v %v, want %v %v", rev, a, aerr, b, berr)
			}
		}
		k.restart()
		same(k.server)
		k.stop()
		plain.stop()
	})
}

// TestRetainGivesWay: with NOSPACE everything is due, and when the database is nearly as large as it may be, the oldest is.
func TestRetainGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pressed := false
		var entries, bytes int64
		k := keep(t, memory.NewStore(), func(o *Options) {
			o.Pressed = func(_ context.Context, needed func() (int64, int64)) bool {
				entries, bytes = needed()
				return pressed
			}
		})
		for i := range 101 {
			k.must(put("k", fmt.Sprint(i)))
		}
		k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		if n := k.prune(); n != 0 || k.Due(t.Context()) {
			t.Errorf("%d entries were scrubbed at once", n)
		}
		// The keys k, and the values 0 to 99.
		if got := k.Kept(); got != (Kept{Entries: 100, Bytes: 100 + 10 + 2*90}) {
			t.Errorf("%+v are kept", got)
		}
		pressed = true
		if n := k.prune(); n != 26 {
			t.Errorf("%d entries were scrubbed of 100, want a quarter", n)
		}
		// Those and the last one, with its value 100.
		if entries != 101 || bytes != 101+10+2*90+3 {
			t.Errorf("%d entries of %d bytes are needed", entries, bytes)
		}
		pressed = false
		if n := k.prune(); n != 0 {
			t.Errorf("%d entries were scrubbed without need", n)
		}
		k.must(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
		if !k.Due(t.Context()) {
			t.Error("nothing is due")
		}
		if n := k.prune(); n != 74 {
			t.Errorf("%d entries were scrubbed, want the 74 left", n)
		}
		if got := k.Kept(); got != (Kept{}) {
			t.Errorf("%+v are kept", got)
		}
		if k.Due(t.Context()) {
			t.Error("nothing waits, and something is due")
		}
		k.stop()
	})
}

// TestRetainGivesWayForgotten: the oldest quarter gives way also of what there is no room for in memory, until nothing is left.
func TestRetainGivesWayForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore(), func(o *Options) { o.Pressed = func(context.Context, func() (int64, int64)) bool { return true } })
		for i := range 400 {
			k.must(put("k", fmt.Sprint(i)))
		}
		k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		k.prune()
		left := k.Kept().Entries
		for rounds := 0; left > 0; rounds++ {
			k.backlog.waiting.shrink(0) // nothing is known any more, but that it is there
			if !k.Due(t.Context()) || rounds == 400 {
				t.Fatalf("%d entries are kept after %d rounds, and nothing is due", left, rounds)
			}
			if k.prune() == 0 {
				t.Fatalf("nothing was scrubbed in round %d", rounds)
			}
			now := k.Kept().Entries
			if now >= left {
				t.Fatalf("%d entries are kept after %d", now, left)
			}
			left = now
		}
		checkLog(t, k.mem)
		k.stop()
	})
}

// TestRetainSurveyed: what a survey finds is not counted twice, though it was in the index, too.
func TestRetainSurveyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		for i := range 100 {
			k.must(put("k", fmt.Sprint(i)))
		}
		k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		k.backlog.whole = false
		k.prune()
		if got := k.Kept().Entries; got != 99 || !k.backlog.whole {
			t.Errorf("%d entries are kept of 99", got)
		}
		k.stop()
	})
}

// TestRetainCountsOthers: what is no change of a key waits, too, and is counted.
func TestRetainCountsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		k.must(&pb.LeaseGrantRequest{ID: 1, TTL: 60})
		k.must(&mvcc.Barrier{})
		k.must(&pb.LeaseRevokeRequest{ID: 1})
		k.must(put("k", "a"))
		k.must(put("k", "b"))
		k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		k.prune()
		if got := k.Kept(); got != (Kept{Entries: 4, Bytes: 2, Others: 3}) {
			t.Errorf("%+v are kept", got)
		}
		k.stop()
	})
}

// many makes a log that has 20 live keys and a tombstone, and keeps 2000 entries that were superseded.
func (k *keeping) many() {
	k.t.Helper()
	k.must(put("gone", "x"))
	k.must(&pb.DeleteRangeRequest{Key: []byte("gone")})
	for i := range 2000 {
		k.must(put(fmt.Sprint("k", i%20), fmt.Sprint(i)))
		if i%100 == 99 {
			k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		}
	}
	k.prune()
}

// TestLoadMuchKept: a server that is to load a log which keeps much has not all of it in its index, whether it keeps history itself or not; and scrubs what is due.
func TestLoadMuchKept(t *testing.T) {
	for _, retain := range []time.Duration{0, retained} {
		synctest.Test(t, func(t *testing.T) {
			k := keep(t, memory.NewStore())
			k.many()
			k.stop()
			s := start(t, k.mem, func(o *Options) { o.Retain, o.loadAtOnce = retain, 50 })
			if n, _ := s.Index().Versions(); n > 20+100 {
				t.Errorf("retention %v: the index has %d versions", retain, n)
			}
			if waiting := s.backlog.waiting.all().Entries; waiting < 1900 || !s.backlog.whole {
				t.Errorf("retention %v: of %d it is known that they are superseded", retain, waiting)
			}
			if retain > 0 {
				time.Sleep(2 * retained)
				s.must(put("k0", "x"))
			}
			s.prune()
			left := 0
			err := k.mem.Open().Scan(t.Context(), drivers.ScanOptions{}, func(entries []drivers.Entry) error {
				left += len(entries)
				return nil
			})
			if err != nil || left > 30 {
				t.Errorf("retention %v: %d entries are left: %v", retain, left, err)
			}
			checkLog(t, k.mem)
			s.stop()
		})
	}
}

// TestScrubMuchForgotten: who has forgotten an older version of a key does not scrub the newer ones and the tombstone, with retention or without.
func TestScrubMuchForgotten(t *testing.T) {
	for _, retain := range []time.Duration{0, retained} {
		synctest.Test(t, func(t *testing.T) {
			k := keep(t, memory.NewStore())
			k.many()
			k.must(put("victim", "1"))
			k.must(put("victim", "2"))
			k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
			for i := range 200 {
				k.must(put(fmt.Sprint("k", i%20), fmt.Sprint(i)))
			}
			k.must(&pb.DeleteRangeRequest{Key: []byte("victim")})
			k.must(put("k0", "x"))
			k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
			k.stop()
			s := start(t, k.mem, func(o *Options) { o.Retain, o.loadAtOnce, o.waitingMost = retain, 300, 2000 })
			ix, known := s.Index(), s.backlog.waiting.known.Entries
			free, _ := ix.Prunable("victim", ix.Compact, 1)
			if known == 0 || known > 1000 || retain == 0 && len(free) != 1 {
				t.Fatalf("retention %v: %d entries are known to be superseded, and of %q there is something in the index that is", retain, known, free)
			}
			if retain > 0 {
				time.Sleep(2 * retained)
				s.must(put("k0", "y"))
			}
			// A kill may come after any slice.
			_, err := s.Prune(t.Context(), func(context.Context) error {
				checkLog(t, k.mem)
				other := start(t, k.mem)
				defer other.stop()
				if v := other.Index().Get("victim", other.Index().Rev); v != nil {
					return fmt.Errorf("a deleted key is there again: %+v", v)
				}
				return nil
			})
			if err != nil {
				t.Errorf("retention %v: %v", retain, err)
			}
			s.stop()
		})
	}
}

// TestReloadMuchKept: nor has a server that loads the log anew. What it has not in mind then is found before anything that came later is scrubbed.
func TestReloadMuchKept(t *testing.T) {
	for _, retain := range []time.Duration{0, retained} {
		for _, during := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) { reloadMuchKept(t, retain, during) })
		}
	}
}

// reloadMuchKept has a server load the log anew before a Prune, or during one, when that has looked at its backlog.
func reloadMuchKept(t *testing.T, retain time.Duration, during bool) {
	mem := memory.NewStore()
	mine, others := &peers{keeper: true}, &peers{}
	k := keep(t, mem, func(o *Options) { o.Peers = others })
	reloads := 0
	s := start(t, mem, func(o *Options) {
		o.Retain, o.loadAtOnce, o.Peers = retain, 50, mine
		o.Reloaded = func(*mvcc.Index) { reloads++ }
	})
	s.must(put("a", "x"))
	s.must(put("a", "y"))
	s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
	// The other server scrubs what this one has not seen yet, and then writes what it keeps.
	behind := func() {
		others.keeper = true
		k.many()
		time.Sleep(time.Hour)
		k.Due(t.Context())
		time.Sleep(2 * retained)
		k.must(put("k0", "x"))
		k.prune()
		others.keeper = false
		k.must(&pb.LeaseGrantRequest{ID: 7, TTL: 60})
		k.must(&mvcc.Renew{ID: 7})
		k.many()
		if err := s.current(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, _ := s.Index().Versions(); n > 20+150 {
			t.Errorf("retention %v, during %v: the index has %d versions", retain, during, n)
		}
		// Of these the index knows the last versions, and not those before them.
		s.must(&pb.LeaseRevokeRequest{ID: 7})
		s.must(&pb.DeleteRangeRequest{Key: []byte("k3"), RangeEnd: []byte("k6")})
		s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
	}
	met := false
	rest := func(context.Context) error {
		if during && !met {
			met = true
			behind()
		}
		return nil
	}
	if !during {
		behind()
	}
	for range 3 {
		if _, err := s.Prune(t.Context(), rest); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * retained)
		s.must(put("k0", "y"))
		s.Due(t.Context())
	}
	if met != during || reloads != 1 {
		t.Errorf("the log was loaded anew %d times", reloads)
	}
	// Whoever loads the log finds nothing again that has ended.
	fresh := start(t, mem)
	if got := fresh.get("gone") + fresh.get("k3") + fresh.get("k4") + fresh.get("k5"); got != "" || fresh.Index().Lease(7) != nil {
		t.Errorf("keys that were deleted are %q again, and the lease is %v", got, fresh.Index().Lease(7))
	}
	fresh.checkSame(s)
	f := &fleet{t: t, mem: mem}
	if left := len(f.superseded(mem.Bounds().End.Position)); left > 10 {
		t.Errorf("%d superseded entries are left", left)
	}
	checkLog(t, mem)
	fresh.stop()
	s.stop()
	k.stop()
}

// TestRetainKeeperChanges: whoever becomes the keeper finds what waits, and what is due.
func TestRetainKeeperChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		all := []*peers{new(peers), new(peers)}
		k := keep(t, mem, func(o *Options) { o.Peers = all[0] })
		other := start(t, mem, k.change[0], func(o *Options) { o.Peers = all[1] })
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 400 {
			all[0].keeper, all[1].keeper = i/50%2 == 0, i/50%2 == 1
			k.step(r)
			time.Sleep(20 * time.Minute)
			for _, s := range []*server{k.server, other} {
				if err := s.current(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s.Due(t.Context()) || r.IntN(4) == 0 {
					s.prune()
				}
			}
		}
		all[0].keeper, all[1].keeper = true, false
		k.prune()
		k.check(0, time.Hour)
		other.stop()
		k.stop()
	})
}

// TestRetainManyWaiting: what there is no room for in memory is found again when it is due.
func TestRetainManyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		for i := range 300 {
			k.must(put(fmt.Sprint("k", i%7), fmt.Sprint(i)))
			time.Sleep(time.Minute)
			k.Due(t.Context())
			if i%30 == 29 {
				k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
				k.prune()
			}
			k.note()
		}
		k.backlog.waiting.shrink(100)
		if n := k.backlog.waiting.known.Entries; n == 0 || n > 100 {
			t.Fatalf("%d of 300 are kept in mind", n)
		}
		for range 40 {
			time.Sleep(time.Hour)
			if k.Due(t.Context()) {
				k.prune()
				k.check(0, 2*time.Hour)
			}
		}
		k.check(0, 0)
		k.stop()
	})
}
