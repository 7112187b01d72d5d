package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts values in buckets whose upper bounds double, as all of etcd's
// do: to observe one is two additions, and the bucket is found by the value's bits.
type histogram struct {
	first  int64   // the upper bound of the first bucket
	unit   float64 // values are divided by it when shown
	counts []atomic.Uint64
	sum    atomic.Int64
}

// newSeconds makes a histogram of durations that is shown in seconds.
func newSeconds(first time.Duration, buckets int) *histogram {
	return newHistogram(int64(first), float64(time.Second), buckets)
}

// newMilliseconds makes a histogram of durations that is shown in milliseconds.
func newMilliseconds(first time.Duration, buckets int) *histogram {
	return newHistogram(int64(first), float64(time.Millisecond), buckets)
}

func newHistogram(first int64, unit float64, buckets int) *histogram {
	return &histogram{first: first, unit: unit, counts: make([]atomic.Uint64, buckets+1)}
}

func (h *histogram) observe(v int64) {
	i := 0
	if v > 0 {
		i = min(bits.Len64(uint64((v-1)/h.first)), len(h.counts)-1)
	}
	h.counts[i].Add(1)
	h.sum.Add(v)
}

// reading is a histogram as Prometheus wants it: counts by upper bound, each with those below.
type reading struct {
	count   uint64
	sum     float64
	buckets map[float64]uint64
}

func (h *histogram) read() reading {
	r := reading{sum: float64(h.sum.Load()) / h.unit, buckets: make(map[float64]uint64, len(h.counts))}
	bound := float64(h.first) / h.unit
	for i := range h.counts {
		r.count += h.counts[i].Load()
		if i < len(h.counts)-1 {
			r.buckets[bound] = r.count
			bound *= 2
		}
	}
	return r
}
