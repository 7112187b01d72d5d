package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// set is a collector of metrics whose values are read when somebody asks.
type set struct{ families []family }

type family struct {
	desc *prometheus.Desc
	emit func(emitter)
}

// emitter takes the values of one family.
type emitter struct {
	desc *prometheus.Desc
	out  chan<- prometheus.Metric
}

func newSet() *set { return &set{} }

// Describe implements prometheus.Collector.
func (s *set) Describe(out chan<- *prometheus.Desc) {
	for _, f := range s.families {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (s *set) Collect(out chan<- prometheus.Metric) {
	for _, f := range s.families {
		f.emit(emitter{desc: f.desc, out: out})
	}
}

func (s *set) add(name, help string, labels []string, emit func(emitter)) {
	s.families = append(s.families, family{desc: prometheus.NewDesc(name, help, labels, nil), emit: emit})
}

func (s *set) gauge(name, help string, value func() float64) {
	s.add(name, help, nil, func(e emitter) { e.value(prometheus.GaugeValue, value()) })
}

func (s *set) counter(name, help string, value func() float64) {
	s.add(name, help, nil, func(e emitter) { e.value(prometheus.CounterValue, value()) })
}

func (s *set) histogram(name, help string, h *histogram) {
	s.add(name, help, nil, func(e emitter) { e.histogram(h) })
}

// label adds a gauge that is 1 and says something by its label.
func (s *set) label(name, help, label, value string) {
	s.add(name, help, []string{label}, func(e emitter) { e.value(prometheus.GaugeValue, 1, value) })
}

func (e emitter) value(t prometheus.ValueType, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(e.desc, t, v, labels...)
}

func (e emitter) histogram(h *histogram, labels ...string) {
	r := h.read()
	e.out <- prometheus.MustNewConstHistogram(e.desc, r.count, r.sum, r.buckets, labels...)
}

func count(n *atomic.Uint64) func() float64 { return func() float64 { return float64(n.Load()) } }

func truth(is func() bool) func() float64 {
	return func() float64 {
		if is() {
			return 1
		}
		return 0
	}
}
