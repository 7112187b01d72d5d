package stats

import (
	"math/bits"
	"time"
)

const (
	subBits = 6            // 64 buckets for each doubling: a bucket is at most 1.6 % wide
	sub     = 1 << subBits // buckets for each doubling
	minExp  = 10           // durations below 1,024 ns share the first buckets
	maxExp  = 37           // durations from 137 s on share the last bucket
	buckets = (maxExp - minExp + 1) * sub
)

// Histogram counts durations in buckets whose width is at most 1.6 % of their value. It is not safe for concurrent
// use: each client of a load has its own, and they are added up with Merge.
type Histogram struct {
	counts [buckets]uint32
	total  uint64
}

// Record counts one duration.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(d)]++
	h.total++
}

// Count says how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Merge adds what other has recorded.
func (h *Histogram) Merge(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.total += other.total
}

// Quantile gives the duration below or at which the share q of all durations lies, as the middle of its bucket; 0 when
// nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q*float64(h.total-1)) + 1
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank {
			return middle(i)
		}
	}
	return middle(buckets - 1)
}

// bucket gives the index of d's bucket: linear below 2^minExp, then 64 for each doubling.
func bucket(d time.Duration) int {
	if d < 1<<minExp {
		return int(max(d, 0)) >> (minExp - subBits)
	}
	exp := bits.Len64(uint64(d)) - 1
	if exp >= maxExp {
		return buckets - 1
	}
	return (exp-minExp+1)<<subBits + int(uint64(d)>>(exp-subBits))&(sub-1)
}

func middle(i int) time.Duration {
	if i < sub {
		return time.Duration(i<<(minExp-subBits) + 1<<(minExp-subBits-1))
	}
	exp := i>>subBits - 1 + minExp
	width := uint64(1) << (exp - subBits)
	return time.Duration(uint64(1)<<exp + uint64(i&(sub-1))*width + width/2)
}
