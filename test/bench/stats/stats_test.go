package stats

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSpreadOf(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name string
		in   []float64
		want Spread
	}{
		{"none", nil, Spread{}},
		{"one", []float64{7}, Spread{7, 7, 7, 1}},
		{"odd, unsorted", []float64{9, 1, 4}, Spread{4, 1, 9, 3}},
		{"even", []float64{4, 1, 9, 6}, Spread{5, 1, 9, 4}},
		{"a round is missing", []float64{nan, 3, 1}, Spread{2, 1, 3, 2}},
		{"all are missing", []float64{nan, nan}, Spread{}},
	} {
		in := slices.Clone(c.in)
		if got := Of(c.in); got != c.want {
			t.Errorf("%s: Of(%v) = %v, want %v", c.name, c.in, got, c.want)
		}
		for i := range in {
			if in[i] != c.in[i] && !math.IsNaN(in[i]) {
				t.Errorf("%s: Of changed its argument to %v", c.name, c.in)
			}
		}
	}
}

func TestRatioPairsRounds(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name string
		a, b []float64
		want Spread
	}{
		{"round by round", []float64{10, 30, 60}, []float64{10, 10, 30}, Spread{2, 1, 3, 3}},
		{"one side misses a round", []float64{10, nan, 60}, []float64{10, 10, 30}, Spread{1.5, 1, 2, 2}},
		{"unequal lengths", []float64{10, 20}, []float64{5}, Spread{2, 2, 2, 1}},
		{"nothing to divide by", []float64{10}, []float64{0}, Spread{}},
	} {
		if got := Ratio(c.a, c.b); got != c.want {
			t.Errorf("%s: Ratio(%v, %v) = %v, want %v", c.name, c.a, c.b, got, c.want)
		}
	}
}

func TestHistogramQuantilesAgainstSorting(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h, first, second Histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(math.Exp(rng.Float64()*14)*1000) + time.Microsecond
		all = append(all, d)
		h.Record(d)
		if i%3 == 0 {
			first.Record(d)
		} else {
			second.Record(d)
		}
	}
	slices.Sort(all)
	first.Merge(&second)
	if first != h {
		t.Error("two merged histograms differ from one that saw everything")
	}
	if h.Count() != uint64(len(all)) {
		t.Errorf("Count() = %d, want %d", h.Count(), len(all))
	}
	for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(q*float64(len(all)-1))]
		got := h.Quantile(q)
		if off := math.Abs(float64(got-want)) / float64(want); off > 0.01 {
			t.Errorf("Quantile(%v) = %v, want %v within 1 %%", q, got, want)
		}
	}
}

func TestHistogramEdges(t *testing.T) {
	var h Histogram
	if got := h.Quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v, want 0", got)
	}
	for _, d := range []time.Duration{-1, 0, 1, 1023, 1024, 1<<maxExp - 1, 1 << maxExp, math.MaxInt64} {
		if b := bucket(d); b < 0 || b >= buckets {
			t.Errorf("bucket(%d) = %d, outside of 0 to %d", d, b, buckets-1)
		}
	}
	last := -1
	for d := time.Duration(0); d < 1<<14; d++ {
		b := bucket(d)
		if b != last && b != last+1 {
			t.Fatalf("bucket(%d) = %d comes after %d", d, b, last)
		}
		if m := middle(b); math.Abs(float64(m-d)) > max(8, float64(d)/100) {
			t.Fatalf("middle of bucket(%d) is %d", d, m)
		}
		last = b
	}
}
