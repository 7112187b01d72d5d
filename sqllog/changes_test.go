package sqllog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// all gives every change that ever was, with its value.
func (k *keeping) all() (changes []Change) {
	k.t.Helper()
	for i := range k.ever {
		r, err := mvcc.Decode(&k.ever[i])
		if err != nil {
			k.t.Fatal(err)
		}
		for _, ev := range r.Changes {
			changes = append(changes, Change{Key: ev.Key, Version: ev.Version, Value: ev.Value, Written: k.at[i].UnixMilli()})
		}
	}
	return changes
}

func (k *keeping) extent() Extent {
	k.t.Helper()
	e, err := k.Extent(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	return e
}

func same(a, b Change) bool {
	return a.Key == b.Key && a.Version == b.Version && string(a.Value) == string(b.Value) && a.Gone == b.Gone && a.Written == b.Written
}

// checkChanges compares what is told of the past with what was.
func (k *keeping) checkChanges(r *rand.Rand) {
	k.t.Helper()
	e := k.extent()
	present := map[int64]bool{}
	err := k.mem.Open().Scan(context.Background(), drivers.ScanOptions{}, func(entries []drivers.Entry) error {
		for _, entry := range entries {
			present[entry.Position] = true
		}
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
	w := Wanted{Keys: mvcc.Range{Start: "k1", End: "k5"}, Newest: r.IntN(2) == 0, KeysOnly: r.IntN(4) == 0, Limit: []int64{0, 0, 1, 7}[r.IntN(4)]}
	if r.IntN(2) == 0 {
		w.Except = []mvcc.Range{{Start: "k2", End: "k3"}}
	}
	if r.IntN(2) == 0 {
		w.From = 1 + r.Int64N(e.Rev+2)
	}
	if r.IntN(2) == 0 {
		w.To = 1 + r.Int64N(e.Rev+2)
	}
	var want []Change
	for _, c := range k.all() {
		if c.Main >= e.Complete && !present[c.Position] {
			k.t.Errorf("the log has everything from revision %d on, and not revision %d.%d", e.Complete, c.Main, c.Sub)
		}
		if present[c.Position] && w.has(c.Key) && c.Main >= w.From && (w.To == 0 || c.Main <= w.To) {
			if w.KeysOnly {
				c.Value = nil
			}
			want = append(want, c)
		}
	}
	if w.Newest {
		slices.Reverse(want)
	}
	if w.Limit > 0 {
		want = want[:min(len(want), int(w.Limit))]
	}
	var got []Change
	err = k.Changes(context.Background(), e, w, func(changes []Change) error {
		got = append(got, changes...)
		return nil
	})
	if err != nil || len(got) != len(want) {
		k.t.Fatalf("%+v: %d changes, want %d: %v", w, len(got), len(want), err)
	}
	for i := range got {
		// The end of its batch may be gone.
		if got[i].Written < want[i].Written {
			k.t.Errorf("revision %d is of %d, want %d", got[i].Main, got[i].Written, want[i].Written)
		}
		if k.opts.Retain > 0 && want[i].Main >= e.Complete && got[i].Written != want[i].Written {
			k.t.Errorf("revision %d is of %d, want %d", got[i].Main, got[i].Written, want[i].Written)
		}
		if got[i].Written = want[i].Written; !same(got[i], want[i]) {
			k.t.Fatalf("%+v: change %d is %+v, want %+v", w, i, got[i], want[i])
		}
	}
}

// checkRewound compares what is told of one revision with what was, and tells whether it was told.
func (k *keeping) checkRewound(rev int64) bool {
	k.t.Helper()
	w := Wanted{Keys: mvcc.Range{Start: "k1", End: "k5"}}
	then, now := map[string]Change{}, map[string]Change{}
	changed := map[string]bool{}
	for _, c := range k.all() {
		if !w.has(c.Key) {
			continue
		}
		if now[c.Key] = c; c.Main <= rev {
			then[c.Key] = c
		} else {
			changed[c.Key] = true
		}
	}
	var want []string
	for key := range changed {
		t, n := then[key], now[key]
		if t.Tombstone() && n.Tombstone() {
			continue
		}
		if t.Tombstone() {
			t = Change{}
		}
		equal := !t.Tombstone() && !n.Tombstone() && string(t.Value) == string(n.Value) && t.Lease == n.Lease
		want = append(want, fmt.Sprintf("%s %d %q now %d same %v", key, t.Main, t.Value, n.Main, equal))
	}
	slices.Sort(want)
	var got []string
	err := k.Rewound(context.Background(), k.extent(), rev, w, func(some []Rewound) error {
		for _, r := range some {
			got = append(got, fmt.Sprintf("%s %d %q now %d same %v", r.Key, r.Then.Main, r.Value, r.Now.Main, r.Same))
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrNotKept):
		return false
	case err != nil:
		k.t.Fatal(err)
	case !slices.Equal(got, want):
		k.t.Fatalf("revision %d:\n%s\nwant\n%s", rev, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return true
}

// TestChanges: whatever was scrubbed and is kept, what is told of the past is right.
func TestChanges(t *testing.T) {
	for _, keeps := range []time.Duration{0, retained} {
		for seed := range uint64(4) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 7))
				mem := memory.NewStore()
				k := &keeping{t: t, mem: mem, server: start(t, mem, func(o *Options) { o.Retain = keeps })}
				told := 0
				for i := range 200 {
					k.step(r)
					time.Sleep(time.Duration(r.IntN(40)) * time.Minute)
					k.Due(t.Context())
					if r.IntN(5) == 0 {
						k.prune()
					}
					k.checkChanges(r)
					rev := 1 + r.Int64N(k.Index().Rev)
					if k.checkRewound(rev) {
						told++
					} else if compact := k.Index().Compact; rev >= compact || keeps > 0 && time.Since(k.written(rev)) < retained {
						t.Errorf("what was at revision %d, compacted at %d, is not told in step %d", rev, compact, i)
					}
				}
				if told == 0 {
					t.Error("nothing was told")
				}
				k.stop()
			})
		}
	}
}

// written gives when the revision after the one given was made, or the future.
func (k *keeping) written(rev int64) time.Time {
	for _, c := range k.all() {
		if c.Main > rev {
			return time.UnixMilli(c.Written)
		}
	}
	return time.Now()
}

// TestRevisionAt: a time is the revision that was current then, whatever batches without changes there are.
func TestRevisionAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		begin := time.Now()
		if rev, _, err := k.RevisionAt(t.Context(), k.extent(), begin.UnixMilli()); rev != 0 || err != nil {
			t.Errorf("of an empty log: %d, %v", rev, err)
		}
		current := map[int64]int64{} // by minute
		for i := range int64(3000) {
			if time.Sleep(time.Minute); i%3 == 0 {
				k.must(put("k", fmt.Sprint(i)))
			} else if i%3 == 1 || i > 1000 && i < 2500 {
				k.must(&mvcc.Barrier{})
			}
			current[i] = k.Index().Rev
		}
		for _, i := range []int64{0, 1, 2, 3, 5, 600, 1499, 2400, 2998, 2999} {
			at := begin.Add(time.Duration(i+1) * time.Minute)
			rev, written, err := k.RevisionAt(t.Context(), k.extent(), at.Add(time.Second).UnixMilli())
			if err != nil || rev != current[i] || written > at.UnixMilli() || written < at.Add(-3*time.Minute).UnixMilli() {
				t.Errorf("minute %d: revision %d of %d, want %d: %v", i, rev, written, current[i], err)
			}
		}
		if rev, _, err := k.RevisionAt(t.Context(), k.extent(), begin.Add(time.Second).UnixMilli()); rev != 0 || err != nil {
			t.Errorf("before everything: %d, %v", rev, err)
		}
		k.stop()
	})
}

// TestChangesOfManyKeys: windows, slices and messages of every size make the same whole.
func TestChangesOfManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		big := strings.Repeat("x", 300<<10)
		for i := range 60 {
			txn := new(pb.TxnRequest)
			for j := range 100 {
				p := put(fmt.Sprintf("k1%02d", j), fmt.Sprint(i))
				txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
			}
			k.must(txn)
			k.must(put("k2", big))
			if i == 30 {
				k.must(&pb.DeleteRangeRequest{Key: []byte("k1"), RangeEnd: []byte("k2")})
			}
		}
		k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		k.prune()
		k.note()
		r := rand.New(rand.NewPCG(1, 1))
		for range 40 {
			k.checkChanges(r)
		}
		for rev := int64(1); rev <= k.Index().Rev; rev += 5 {
			if !k.checkRewound(rev) {
				t.Errorf("revision %d is not told", rev)
			}
		}
		k.stop()
	})
}

// TestRevisionAtOfAClockSetBack: of several moments at which the clock showed a time the last one counts.
func TestRevisionAtOfAClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back time.Duration
		k := keep(t, memory.NewStore(), func(o *Options) { o.Now = func() time.Time { return time.Now().Add(-back) } })
		begin := time.Now()
		for i := range 10 {
			if i == 5 {
				back = 3 * time.Hour
			}
			k.must(put("k", fmt.Sprint(i))) // at 0, 1, 2, 3, 4, 2, 3, 4, 5, 6 hours
			time.Sleep(time.Hour)
		}
		for hour, want := range []int64{2, 3, 7, 8, 9, 10, 11, 11} {
			rev, written, err := k.RevisionAt(t.Context(), k.extent(), begin.Add(time.Duration(hour)*time.Hour).UnixMilli())
			if at := begin.Add(time.Duration(min(hour, 6)) * time.Hour).UnixMilli(); err != nil || rev != want || written != at {
				t.Errorf("hour %d: revision %d of %d, want %d of %d: %v", hour, rev, written, want, at, err)
			}
		}
		k.stop()
	})
}

// TestChangesOfARestoredLog: of what its snapshot had compacted a log says that it does not have it.
func TestChangesOfARestoredLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		for i := range 30 {
			k.must(put(fmt.Sprint("k", 1+i%3), fmt.Sprint(i)))
		}
		k.must(&pb.CompactionRequest{Revision: 20})
		k.prune()
		mem := memory.NewStore()
		log := mem.Open()
		batch := &drivers.Batch{ID: drivers.BatchID{1}}
		r := mvcc.NewRestorer(20, func(e drivers.Entry) error {
			e.Value = slices.Clone(e.Value)
			batch.Entries = append(batch.Entries, e)
			return nil
		})
		state, err := k.Snapshot(t.Context(), func() (func(*mvcc.Row) error, error) { return r.Add, nil })
		if err == nil {
			err = r.Finish(state.Beside())
		}
		if err == nil {
			err = log.Append(t.Context(), drivers.End{}, batch)
		}
		if err != nil {
			t.Fatal(err)
		}
		again := &keeping{t: t, mem: mem, server: start(t, mem)}
		again.must(put("k1", "x"))
		for _, scrubbed := range []bool{false, true} {
			if e := again.extent(); e.Rev != 32 || e.Compact != 20 || e.Complete != 21 {
				t.Errorf("%+v", e)
			}
			again.note()
			if again.checkRewound(19) || !again.checkRewound(20) || !again.checkRewound(25) {
				t.Error("what is told does not begin with the compact revision")
			}
			if !scrubbed {
				again.prune()
			}
		}
		again.must(&pb.CompactionRequest{Revision: 32})
		again.prune()
		if e := again.extent(); e.Complete <= 21 || again.checkRewound(25) {
			t.Errorf("%+v", e)
		}
		again.stop()
		k.stop()
	})
}

// TestWindowsAreBounded: where a few entries have very many changes a window ends before its time, and nothing is missing, whichever way it is read.
func TestWindowsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		const groups, each = 40, 500
		long := strings.Repeat("x", 200)
		for g := range groups {
			txn := new(pb.TxnRequest)
			for i := range each {
				p := put(fmt.Sprintf("k%02d/%s/%d", g, long, i), "")
				txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
			}
			k.must(txn)
		}
		k.note()
		for g := range groups {
			time.Sleep(time.Minute)
			k.must(&pb.DeleteRangeRequest{Key: fmt.Appendf(nil, "k%02d/", g), RangeEnd: fmt.Appendf(nil, "k%02d0", g)})
			k.note()
		}
		want := k.all()
		for _, newest := range []bool{false, true} {
			var got []Change
			narrowed, last := 0, int64(0)
			for win := (&windows{hi: k.extent().end, newest: newest}); win.next(len(got)); {
				after, upTo := win.after, win.upTo
				changes, err := k.window(t.Context(), win, &Wanted{Keys: mvcc.Everything})
				if err != nil {
					t.Fatal(err)
				}
				if win.after != after || win.upTo != upTo {
					narrowed++
				}
				if len(changes)*(len(long)+changeBytes) > windowBytes+each*(len(long)+changeBytes+10) {
					t.Errorf("a window has %d changes", len(changes))
				}
				if newest {
					slices.Reverse(changes)
				}
				got = append(got, changes...)
				last = win.upTo
			}
			if newest {
				slices.Reverse(got)
			}
			if narrowed == 0 || len(got) != len(want) {
				t.Fatalf("newest first %v: %d windows were narrowed, the last up to %d, and %d changes found of %d", newest, narrowed, last, len(got), len(want))
			}
			for i := range got {
				if got[i].Key != want[i].Key || got[i].Main != want[i].Main || got[i].Sub != want[i].Sub || got[i].Written != want[i].Written {
					t.Fatalf("newest first %v: change %d is %d.%d of %d, want %d.%d of %d", newest, i, got[i].Main, got[i].Sub, got[i].Written, want[i].Main, want[i].Sub, want[i].Written)
				}
			}
		}
		k.stop()
	})
}

// TestWindowsOfHoles: where there are holes few windows are read, and where there is an entry at every position they are small again.
func TestWindowsOfHoles(t *testing.T) {
	for _, newest := range []bool{false, true} {
		const holes, all = 1 << 30, 1<<30 + 1<<22 // holes up to here, entries from here on
		sparse, large, most := 0, 0, 0
		for win := (&windows{hi: all, newest: newest}); win.next(0); {
			win.read = int(max(win.upTo, holes) - max(win.after, holes))
			most = max(most, win.read)
			if win.read == 0 {
				sparse++
			} else if win.read > windowEntries {
				large++
			}
		}
		// Those that were made large by holes may reach into the entries, until they are small again.
		if sparse > holes/windowMost+32 || large > 6 || most > windowMost {
			t.Errorf("newest first %v: %d windows of holes, %d of too many entries, %d at most", newest, sparse, large, most)
		}
	}
}

// TestSlicesAreSmall: what is given at once a slow client can take in some seconds, and once it is given, its values are kept by nobody else.
func TestSlicesAreSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const small = 128 << 10
		k := keep(t, memory.NewStore())
		for i := range 30 {
			size := 10 << 10
			if i%7 == 0 {
				size = 2 * small
			}
			k.must(put(fmt.Sprintf("k%02d", i), strings.Repeat("x", size)))
		}
		rev := k.Index().Rev
		k.must(&pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		win := &windows{hi: k.extent().end}
		win.next(0)
		changes, err := k.window(t.Context(), win, &Wanted{Keys: mvcc.Everything})
		if err != nil || len(changes) != 60 {
			t.Fatalf("%d changes: %v", len(changes), err)
		}
		parts, values := 0, 0
		given := func(sizes ...int) {
			bytes := 0
			for _, n := range sizes {
				bytes += n
				if n > 0 {
					values++
				}
			}
			if parts++; bytes > small && len(sizes) > 1 {
				t.Errorf("%d at once have %d bytes", len(sizes), bytes)
			}
		}
		err = k.deliver(t.Context(), changes, false, func(some []Change) error {
			var sizes []int
			for _, c := range some {
				sizes = append(sizes, len(c.Value))
			}
			given(sizes...)
			return nil
		})
		if err != nil || parts < 5 || values != 30 {
			t.Errorf("%d values in %d slices: %v", values, parts, err)
		}
		for _, c := range changes {
			if c.Value != nil {
				t.Fatalf("the value of %s is kept", c.Key)
			}
		}
		parts, values = 0, 0
		err = k.Rewound(t.Context(), k.extent(), rev, Wanted{Keys: mvcc.Everything}, func(some []Rewound) error {
			var sizes []int
			for _, r := range some {
				sizes = append(sizes, len(r.Value))
			}
			given(sizes...)
			return nil
		})
		if err != nil || parts < 5 || values != 30 {
			t.Errorf("%d values in %d slices: %v", values, parts, err)
		}
		k.stop()
	})
}

// TestLeasesThatAreKept: of the leases that have ended those are kept that keys had, and nothing of the others.
func TestLeasesThatAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		for id := int64(1); id <= 50; id++ {
			k.must(&pb.LeaseGrantRequest{ID: id, TTL: 60})
			k.must(&pb.LeaseRevokeRequest{ID: id})
		}
		leases := map[int64]bool{7: false, 60: false}
		if err := k.endedIn(t.Context(), leases, 0, k.extent().end); err != nil || !maps.Equal(leases, map[int64]bool{7: true, 60: false}) {
			t.Errorf("%v: %v", leases, err)
		}
		k.stop()
	})
}

// TestRewoundLeases: a lease that has ended is told as that, though there is another one of its id; one that goes on is not.
func TestRewoundLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, memory.NewStore())
		for id := int64(1); id <= 2; id++ {
			k.must(&pb.LeaseGrantRequest{ID: id, TTL: 60})
			k.must(&pb.PutRequest{Key: fmt.Append(nil, "/a/ns/", id), Value: []byte("x"), Lease: id})
		}
		k.must(put("/a/other/1", "x"))
		rev := k.Index().Rev
		k.must(&pb.LeaseRevokeRequest{ID: 1})
		k.must(&pb.LeaseGrantRequest{ID: 1, TTL: 60})
		k.must(&mvcc.Renew{ID: 2})
		k.must(&pb.DeleteRangeRequest{Key: []byte("/a/"), RangeEnd: []byte("/a0")})
		k.must(&pb.CompactionRequest{Revision: k.Index().Rev})
		k.prune()
		got := map[string]bool{}
		w := Wanted{Keys: mvcc.Everything, Containing: []string{"/none/", "/ns/"}}
		err := k.Rewound(t.Context(), k.extent(), rev, w, func(some []Rewound) error {
			for _, r := range some {
				got[r.Key] = r.LeaseEnded
			}
			return nil
		})
		if ended, there := got["/a/ns/1"]; err != nil || len(got) != 2 || !there || !ended || got["/a/ns/2"] {
			t.Errorf("%v: %v", got, err)
		}
		k.stop()
	})
}
