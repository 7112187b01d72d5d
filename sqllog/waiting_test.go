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
		for range 200 {
			var some []mvcc.Freed
			for range r.IntN(60) {
				by := max(bound+1, end-r.Int64N(500))
				position := 1 + r.Int64N(by)
				some = append(some, mvcc.Freed{By: by, Position: position, Size: position * 7919 % 3000})
			}
			all = append(all, some...)
			w.add(some, most)
			if w.bytes > most {
				t.Fatalf("seed %d: %d bytes", seed, w.bytes)
			}
			size := int64(0)
			for _, b := range w.blocks {
				for _, f := range b.entries() {
					if size += f.Size; f.Size != f.Position*7919%3000 {
						t.Fatalf("seed %d: position %d has size %d", seed, f.Position, f.Size)
					}
				}
			}
			if size != w.size {
				t.Fatalf("seed %d: the size is %d, want %d", seed, w.size, size)
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
			if first := w.first(); (first <= bound) != (len(want) > 0) {
				t.Fatalf("seed %d: the first is %d, %d are due", seed, first, len(want))
			}
			got := w.take(bound)
			if lacks := w.lacks(bound); lacks {
				// A survey would find everything.
				w, all = waiting{}, nil
			}
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

// TestWaitingIsSmall: an entry takes some bytes.
func TestWaitingIsSmall(t *testing.T) {
	var w waiting
	freed := make([]mvcc.Freed, 0, 1<<20)
	for i := range int64(1 << 20) {
		freed = append(freed, mvcc.Freed{Position: 1 + i, By: i + 100_000, Size: 300 + i%2000})
	}
	w.add(freed, waitingBytes)
	if w.len() != 1<<20 || w.bytes > 7<<20 {
		t.Errorf("%d entries take %d bytes", w.len(), w.bytes)
	}
}
