package mvcc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
)

// restored makes a new log of another one's dump.
func restored(t *testing.T, judge *Index, entries []drivers.Entry) *testLog {
	t.Helper()
	l := newTestLog()
	r := NewRestorer(judge.Compact, func(e drivers.Entry) error {
		e.Position = l.end.Position + 1
		l.append([]drivers.Entry{e})
		return nil
	})
	d := NewDump(judge)
	for i := range entries {
		if err := d.Add(&entries[i], r.Add); err != nil {
			t.Fatal(err)
		}
	}
	state, ok := d.State()
	if !ok {
		t.Fatal("no whole state")
	}
	if err := r.Finish(state.Beside()); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRestore: what is restored from a dump is what was dumped, at every revision that is kept, and goes on like it.
func TestRestore(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			m, l, ix := newModel(), newTestLog(), NewIndex()
			for range 20 {
				ix = modelStep(t, r, m, l, ix)
				if r.IntN(4) == 0 {
					// As a restore that bumps the revision, and one that compacts there as well.
					b := ix.Edit(false)
					e := drivers.Entry{Position: ix.End.Position + 1, Kind: KindMarker, Meta: appendInts(nil, ix.Rev+int64(1+r.IntN(100)))}
					if err := b.Load([]drivers.Entry{e}); err != nil {
						t.Fatal(err)
					}
					ix = b.Index(l.append([]drivers.Entry{e}))
					m.rev = ix.Rev
				}
				if r.IntN(2) == 0 {
					pruned, freed := pruneAll(ix, 30)
					for _, p := range freed {
						delete(l.entries, p)
					}
					ix = pruned
				}
				before := l.sorted()
				again := restored(t, ix, before)
				new := again.load(t)
				if new.Rev != ix.Rev || new.Compact != ix.Compact {
					t.Fatalf("restored at [%d, %d], from [%d, %d]", new.Compact, new.Rev, ix.Compact, ix.Rev)
				}
				for rev := max(ix.Compact, 1); rev <= ix.Rev; rev++ {
					if got, want := logHash(t, new, again, rev), logHash(t, ix, l, rev); got != want {
						t.Fatalf("hash at %d of [%d, %d]: %d restored, %d before", rev, ix.Compact, ix.Rev, got, want)
					}
					if got, want := listed(new, rev), listed(ix, rev); !slices.Equal(got, want) {
						t.Fatalf("at %d there is\n%v restored, and before\n%v", rev, got, want)
					}
				}
				got, _, _ := rowsOf(t, new, again.sorted())
				want, _, _ := rowsOf(t, ix, before)
				if !slices.Equal(got, want) {
					t.Fatalf("%d rows restored, %d before", len(got), len(want))
				}
				sameRestored(t, new, ix)
				for id := range ix.Leases() {
					if a, b := slices.Collect(new.Lease(id.ID).Keys()), slices.Collect(id.Keys()); !slices.Equal(a, b) {
						t.Fatalf("lease %d has %q restored, %q before", id.ID, a, b)
					}
				}
				// And it goes on.
				next, results := Evaluate(new, Env{Values: again.values}, []any{&pb.PutRequest{Key: []byte("next")}})
				if results[0].Err != nil || next.Index(drivers.End{}).Rev != ix.Rev+1 {
					t.Fatal(results[0].Err)
				}
			}
		})
	}
}

// sameRestored compares what is no key; members are not restored.
func sameRestored(t *testing.T, new, ix *Index) {
	t.Helper()
	c := *ix
	c.members, c.removed = nil, nil
	sameBesideKeys(t, new, &c)
}

func listed(ix *Index, rev int64) (lines []string) {
	for k, v := range ix.Scan(Everything, rev) {
		c := *v
		c.Position = 0
		lines = append(lines, fmt.Sprintf("%q %+v", k, c))
	}
	return lines
}

// TestRestoreRefuses: rows that no etcd writes.
func TestRestoreRefuses(t *testing.T) {
	good := AppendKeyValue(nil, "k", &Version{Main: 5, Create: 5, Count: 1}, []byte("v"))
	key := AppendKeyValue(nil, "k", &Version{}, nil)
	for what, rows := range map[string][]Row{
		"revision 1":                {{Main: 1, KeyValue: good}},
		"a negative sub":            {{Main: 5, Sub: -1, KeyValue: good}},
		"the same twice":            {{Main: 5, KeyValue: good}, {Main: 5, KeyValue: good}},
		"descending":                {{Main: 5, KeyValue: good}, {Main: 4, Tombstone: true, KeyValue: key}},
		"no KeyValue":               {{Main: 5, KeyValue: []byte{0xff}}},
		"no version":                {{Main: 5, KeyValue: key}},
		"another revision":          {{Main: 6, KeyValue: good}},
		"created later":             {{Main: 5, KeyValue: AppendKeyValue(nil, "k", &Version{Main: 5, Create: 6, Count: 1}, nil)}},
		"a tombstone of nothing":    {{Main: 5, Tombstone: true}},
		"a marker in a transaction": {{Main: 5, KeyValue: good}, {Main: 5, Sub: 1}},
	} {
		r := NewRestorer(0, func(drivers.Entry) error { return nil })
		var err error
		for i := range rows {
			if err = r.Add(&rows[i]); err != nil && i < len(rows)-1 {
				t.Errorf("%s: row %d: %v", what, i, err)
			}
		}
		if !errors.Is(err, ErrBadEntry) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestMarkers: a compaction keeps the last marker before it, as one of the versions of a key that never is deleted.
func TestMarkers(t *testing.T) {
	b := NewIndex().Edit(false)
	for i, rev := range []int64{100, 200, 300} {
		b.applyMarker(rev, int64(i+1))
	}
	ix := b.Index(drivers.End{Position: 3})
	c := ix.Edit(false)
	c.applyCompaction(250, 4)
	compacted := c.Index(drivers.End{Position: 4})
	if got := Positions(compacted.Edit(false).TakeGarbage()); !slices.Equal(got, []int64{1}) {
		t.Errorf("freed: %v", got)
	}
	for _, m := range []struct {
		main, rev int64
		kept      bool
	}{{100, 99, true}, {100, 100, true}, {100, 150, true}, {100, 200, false}, {200, 250, true}, {300, 250, true}, {200, 300, false}, {300, 1000, true}} {
		if ix.keptMarker(m.main, m.rev) != m.kept {
			t.Errorf("marker %d at a compaction at %d", m.main, m.rev)
		}
	}
	if len(ix.markers) != 3 || len(compacted.markers) != 2 {
		t.Errorf("%v became %v", ix.markers, compacted.markers)
	}
}
