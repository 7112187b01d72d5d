package metrics

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/watch"
)

// The ids of this member and of another one.
const self, other = 0xabc, 0xdef

// fixture is a server's metrics with sources that a test sets.
type fixture struct {
	t        *testing.T
	m        *Metrics
	registry *prometheus.Registry
	index    *mvcc.Index
	hub      watch.Stats
	part     Consensus
	members  []uint64
	leads    bool
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{
		t: t, registry: prometheus.NewRegistry(), index: mvcc.NewIndex(),
		members: []uint64{self, other}, leads: true,
		m: New(Options{SlowApply: 100 * time.Millisecond, Extensive: true}),
	}
	yes := func() bool { return true }
	f.m.Peer(other)
	err := f.m.Register(f.registry, Sources{
		Index: func() *mvcc.Index { return f.index }, Hub: func() watch.Stats { return f.hub },
		Size:      func(context.Context) (int64, int64, error) { return 4096, 1024, nil },
		HasLeader: yes, IsLeader: func() bool { return f.leads }, IsLearner: func() bool { return false },
		Consensus: func() Consensus { return f.part },
		Members:   func() []uint64 { return f.members }, Connected: func(id uint64) bool { return id == other },
		Member: self, Quota: 2 << 30, ServerVersion: "3.7.3", ClusterVersion: "3.7",
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// do evaluates requests, makes what they change the index, and gives the builder.
func (f *fixture) do(requests ...any) *mvcc.Builder {
	f.t.Helper()
	b, results := mvcc.Evaluate(f.index, mvcc.Env{MinLeaseTTL: 1}, requests)
	for i, r := range results {
		if r.Err != nil {
			f.t.Fatalf("request %d: %v", i, r.Err)
		}
	}
	end := drivers.End{Position: f.index.End.Position + int64(len(b.Entries())), Batch: drivers.BatchID{1}}
	f.index = b.Index(end)
	return b
}

func (f *fixture) raiseAlarm() {
	f.do(&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: self, Alarm: pb.AlarmType_NOSPACE})
}

// value gives the sum of the samples of a metric that have these labels, given as name, value, name, value.
func (f *fixture) value(name string, labels ...string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	samples:
		for _, s := range family.GetMetric() {
			have := map[string]string{}
			for _, l := range s.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			for i := 0; i < len(labels); i += 2 {
				if have[labels[i]] != labels[i+1] {
					continue samples
				}
			}
			found = true
			sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		f.t.Fatalf("no %s with %v", name, labels)
	}
	return sum
}

func (f *fixture) expect(want float64, name string, labels ...string) {
	f.t.Helper()
	if got := f.value(name, labels...); got != want {
		f.t.Errorf("%s%v = %v, want %v", name, labels, got, want)
	}
}
