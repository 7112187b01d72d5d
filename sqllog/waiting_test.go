package sqllog

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestWaiting holds what waits against a list of it.
func TestWaiting(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		var w waiting
		var all []mvcc.Freed
		most := []int{math.MaxInt, 3000, 300}[seed%3]
		bound, end := int64(0), int64(1)
		var count Kept
		for range 200 {
			var some []mvcc.Freed
			for range r.IntN(60) {
				by := max(bound+1, end-r.Int64N(500))
				position := 1 + r.Int64N(by)
				f := mvcc.Freed{By: by, Position: position, Size: position * 7919 % 3000}
				if !slices.Contains(some, f) {
					some = append(some, f)
				}
			}
			all = append(all, some...)
			w.add(some, most)
			if w.bytes > most {
				t.Fatalf("seed %d: %d bytes", seed, w.bytes)
			}
			var known Kept
			for _, b := range w.blocks {
				for _, f := range b.entries() {
					if known.count(f); f.Size != f.Position*7919%3000 {
						t.Fatalf("seed %d: position %d has size %d", seed, f.Position, f.Size)
					}
				}
			}
			if known != w.known {
				t.Fatalf("seed %d: %+v are known, want %+v", seed, w.known, known)
			}
			// What was taken since the last survey is not counted any more, and what was forgotten is.
			count.add(total(some))
			if got := w.all(); got != count {
				t.Fatalf("seed %d: %+v wait, want %+v", seed, got, count)
			}
			end += r.Int64N(100)
			if r.IntN(3) > 0 {
				continue
			}
			bound = max(bound, end-r.Int64N(900))
			var want []int64
			all = slices.DeleteFunc(all, func(f mvcc.Freed) bool {
				if w.forgotten != 0 && f.By >= w.forgotten {
					return true
				}
				if f.By <= bound {
					want = append(want, f.Position)
				}
				return f.By <= bound
			})
			if due := w.due(bound); due != (len(want) > 0) {
				t.Fatalf("seed %d: due is %v, and %d are", seed, due, len(want))
			}
			got := w.take(bound)
			if lacks := w.lacks(bound); lacks {
				// A survey would find everything.
				w, all = waiting{}, nil
			}
			count = w.all()
			slices.Sort(got)
			slices.Sort(want)
			if got, want := slices.Compact(got), slices.Compact(want); !slices.Equal(got, want) {
				t.Fatalf("seed %d: %d positions are due, want %d", seed, len(got), len(want))
			}
			if q := w.quarter(); q != 0 && (q <= bound || q > end) {
				t.Fatalf("seed %d: the oldest quarter ends at %d", seed, q)
			}
		}
	}
}

func total(freed []mvcc.Freed) (k Kept) {
	for _, f := range freed {
		k.count(f)
	}
	return k
}

// TestWaitingOfOneDelete: an entry that deletes many keys is one, and has the sizes of all.
func TestWaitingOfOneDelete(t *testing.T) {
	var w waiting
	w.add([]mvcc.Freed{{Position: 9, By: 9, Size: 3}, {Position: 5, By: 9, Size: 10}, {Position: 9, By: 9, Size: 3}, {Position: 9, By: 9, Size: 4}, {Position: 8, By: 9}}, waitingBytes)
	if want := (Kept{Entries: 3, Bytes: 20, Others: 1}); w.all() != want {
		t.Errorf("%+v wait, want %+v", w.all(), want)
	}
	if got := w.take(9); !slices.Equal(got, []int64{5, 8, 9}) || w.all() != (Kept{}) {
		t.Errorf("%d are taken, and %+v wait", got, w.all())
	}
}

// TestWaitingForgotten: the quarter is one of all that waits, and where less is known it is where what was forgotten begins.
func TestWaitingForgotten(t *testing.T) {
	var freed []mvcc.Freed
	for i := range int64(1000) {
		freed = append(freed, mvcc.Freed{Position: 1 + i, By: 10 + i, Size: 4})
	}
	var w waiting
	for part := range slices.Chunk(freed, 100) {
		w.add(slices.Clone(part), 1300)
	}
	if w.forgotten != 410 || w.known.Entries != 400 || w.all() != total(freed) {
		t.Fatalf("forgotten from %d on, %+v known of %+v", w.forgotten, w.known, w.all())
	}
	if got := w.quarter(); got != 260 {
		t.Errorf("the quarter of 1000 ends at %d", got)
	}
	w.take(300)
	if got := w.quarter(); got != w.forgotten {
		t.Errorf("the quarter of 709, of which 109 are known, ends at %d", got)
	}
	w.take(math.MaxInt64)
	if got := w.quarter(); got != 410 || w.due(math.MaxInt64) || !w.lacks(got) {
		t.Errorf("of those forgotten the quarter ends at %d", got)
	}
	w = waiting{}
	if got := w.quarter(); got != 0 || w.due(math.MaxInt64) || w.lacks(math.MaxInt64) {
		t.Errorf("the quarter of nothing ends at %d", got)
	}
}

// TestWaitingIsSmall: an entry takes some bytes.
func TestWaitingIsSmall(t *testing.T) {
	var w waiting
	freed := make([]mvcc.Freed, 0, 1<<20)
	for i := range int64(1 << 20) {
		freed = append(freed, mvcc.Freed{Position: 1 + i, By: i + 100_000, Size: 300 + i%2000})
	}
	w.add(freed, waitingBytes)
	if w.known.Entries != 1<<20 || w.bytes > 7<<20 {
		t.Errorf("%d entries take %d bytes", w.known.Entries, w.bytes)
	}
}
