package stats

import (
	"math"
	"slices"
)

// Spread is the median of some values, with the smallest and the largest.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// Of gives the spread of the values, leaving out those that are NaN (a round that has none). N is 0 when none is left.
func Of(values []float64) Spread {
	kept := make([]float64, 0, len(values))
	for _, v := range values {
		if !math.IsNaN(v) {
			kept = append(kept, v)
		}
	}
	if len(kept) == 0 {
		return Spread{}
	}
	slices.Sort(kept)
	mid := len(kept) / 2
	median := kept[mid]
	if len(kept)%2 == 0 {
		median = (kept[mid-1] + kept[mid]) / 2
	}
	return Spread{Median: median, Min: kept[0], Max: kept[len(kept)-1], N: len(kept)}
}

// Ratio gives the spread of a/b taken round by round, since what was measured one after the other shares the machine's
// mood. A round that lacks one of the two, or has nothing to divide by, is left out.
func Ratio(a, b []float64) Spread {
	ratios := make([]float64, 0, min(len(a), len(b)))
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	return Of(ratios)
}
