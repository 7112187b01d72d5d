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
	for _, f := range superseded(b, end) {
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
		k := keep(t, memory.NewStore(), func(o *Options) { o.Pressed = func(context.Context) bool { return pressed } })
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
		k.stop()
	})
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
		if n := k.backlog.waiting.len(); n == 0 || n > 100 {
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
