package wal

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// TestModel does random things to a log on a real file system, closes and opens it at random, and compares it with the model.
func TestModel(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		o := Options{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 1 << (8 + r.IntN(8)), CacheBytes: 1 << r.IntN(16)}
		id := Identity{1, seed, seed << 60}
		a := &actor{r: r, maxData: 3000}
		m := created(id, 0, 0, "")
		var snap *raftpb.Snapshot
		if seed%2 == 1 {
			m = created(id, 7, 3, "begin")
			snap = snapshotOf(7, 3, "begin")
		}
		must(Create(o, id, snap))
		w, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		for step := range 120 {
			if step == 60 && seed%5 == 0 {
				must(w.Close())
				m = created(id, 9, 2, "again")
				must(Replace(o, id, snapshotOf(9, 2, "again")))
				if w, err = Open(o); err != nil {
					t.Fatal(err)
				}
			}
			act := a.next(m)
			if err := act.do(w); err != nil {
				t.Fatalf("seed %d step %d %s: %v", seed, step, act.name, err)
			}
			m = act.after
			if r.IntN(15) == 0 {
				must(w.Close())
				if w, err = Open(o); err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
			}
			got, err := observe(w)
			if err != nil || got.String() != m.String() {
				t.Fatalf("seed %d step %d %s: %v\n got %v\nwant %v", seed, step, act.name, err, got, m)
			}
			if err := checkContract(r, w, m); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
		}
		must(w.Close())
	}
}

// TestConcurrent reads while a log is written, compacted and installed into.
func TestConcurrent(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 4096, CacheBytes: 512}
	must(Create(o, Identity{1, 1, 0}, nil))
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				first, _ := w.FirstIndex()
				last, _ := w.LastIndex()
				es, err := w.Entries(first, last+1, 1<<20)
				if err != nil && !errors.Is(err, raft.ErrCompacted) && !errors.Is(err, raft.ErrUnavailable) {
					t.Error(err)
					return
				}
				for i, e := range es {
					if e.GetIndex() != first+uint64(i) {
						t.Errorf("entry %d is %d", first+uint64(i), e.GetIndex())
					}
				}
				_, _ = w.Size()
				_, _, _ = w.InitialState()
				_, _ = w.Snapshot()
			}
		})
	}
	m := created(Identity{1, 1, 0}, 0, 0, "")
	a := &actor{r: rand.New(rand.NewPCG(1, 1)), maxData: 3000}
	for range 400 {
		act := a.next(m)
		if err := act.do(w); err != nil {
			t.Fatal(act.name, err)
		}
		m = act.after
	}
	close(done)
	wg.Wait()
	must(w.Close())
}

func TestRefusals(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "log")}
	if _, err := Open(o); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	must(Create(o, Identity{1, 1, 0}, nil))
	if err := Create(o, Identity{1, 1, 0}, nil); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if there, err := Exists(o.Dir); !there || err != nil {
		t.Fatal(there, err)
	}
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(term, index uint64) *raftpb.Entry { return &raftpb.Entry{Term: new(term), Index: new(index)} }
	hard := func(term, vote, commit uint64) *raftpb.HardState {
		return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
	}
	must(w.Save(hard(2, 1, 0), []*raftpb.Entry{entry(1, 1), entry(2, 2), entry(2, 3)}, true))
	must(w.SetSnapshot(snapshotOf(2, 2, "s")))
	for name, err := range map[string]error{
		"a gap":                          w.Save(nil, []*raftpb.Entry{entry(2, 5)}, true),
		"below the snapshot":             w.Save(nil, []*raftpb.Entry{entry(2, 2)}, true),
		"a lower term":                   w.Save(nil, []*raftpb.Entry{entry(1, 4)}, true),
		"a gap within":                   w.Save(nil, []*raftpb.Entry{entry(2, 4), entry(2, 6)}, true),
		"commit above the end":           w.Save(hard(2, 1, 4), nil, true),
		"the vote taken back":            w.Save(hard(2, 0, 2), nil, true),
		"the term taken back":            w.Save(hard(1, 1, 2), nil, true),
		"an old snapshot":                w.SetSnapshot(snapshotOf(2, 2, "s")),
		"a snapshot above the end":       w.SetSnapshot(snapshotOf(4, 2, "s")),
		"a snapshot of another term":     w.SetSnapshot(snapshotOf(3, 1, "s")),
		"compaction above the snapshot":  w.Compact(3),
		"compaction to where it is":      w.Compact(0),
		"an installation of an old one":  w.Install(nil, snapshotOf(1, 1, "s")),
		"a cut below the commit":         w.Install(hard(3, 0, 9), snapshotOf(4, 1, "s")),
		"an installation of an old vote": w.Install(hard(2, 3, 4), snapshotOf(4, 2, "s")),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	must(w.Save(&raftpb.HardState{}, nil, true)) // an empty one is none
	if hs, _, _ := w.InitialState(); hs.GetTerm() != 2 || hs.GetVote() != 1 || hs.GetCommit() != 2 {
		t.Errorf("hard state %v", hs)
	}
	must(w.Close())
	must(w.Close())
	if err := w.Save(nil, []*raftpb.Entry{entry(2, 4)}, true); err == nil {
		t.Error("saved to a closed log")
	}
}

// TestLargeEntry saves entries larger than a segment.
func TestLargeEntry(t *testing.T) {
	o := Options{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 1 << 16, CacheBytes: 1}
	must(Create(o, Identity{1, 1, 0}, nil))
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		e := &raftpb.Entry{Term: new(uint64(1)), Index: new(i + 1), Data: make([]byte, 20<<20)}
		e.Data[len(e.Data)-1] = byte(i)
		must(w.Save(nil, []*raftpb.Entry{e}, i != 1))
	}
	must(w.Close())
	if w, err = Open(o); err != nil {
		t.Fatal(err)
	}
	es, err := w.Entries(1, 4, 1<<40)
	if err != nil || len(es) != 3 || es[2].Data[20<<20-1] != 2 {
		t.Fatal(len(es), err)
	}
	must(w.Close())
}
