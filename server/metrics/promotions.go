package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
)

// promotions are those of learners that this member has decided on, as the leader.
type promotions struct {
	mu        sync.Mutex
	succeeded uint64
	failed    map[string]uint64 // by the reason
}

// maxReasons bounds the reasons told apart; otherReason stands for the rest.
const (
	maxReasons  = 16
	otherReason = "other"
)

func (p *promotions) handled(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.succeeded++
		return
	}
	reason := status.Convert(err).Message()
	if _, known := p.failed[reason]; !known && len(p.failed) >= maxReasons {
		reason = otherReason
	}
	p.failed[reason]++
}

func (p *promotions) show(f *set) {
	f.counter("etcd_server_learner_promote_successes", "The total number of successful learner promotions while this member is leader.", func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(p.succeeded)
	})
	f.add("etcd_server_learner_promote_failures", "The total number of failed learner promotions (likely learner not ready) while this member is leader.", []string{"Reason"}, func(e emitter) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for reason, n := range p.failed {
			e.value(prometheus.CounterValue, float64(n), reason)
		}
	})
}

// Forwarded observes the calls that other members pass on to this one for their clients. They are counted there, like all that clients ask; what is
// counted here is what the leader alone decides.
func (m *Metrics) Forwarded() Forwarded { return Forwarded{m} }

// Forwarded is what Metrics.Forwarded gives.
type Forwarded struct{ m *Metrics }

// Started is told of every call that begins.
func (Forwarded) Started(string, string, string) {}

// Handled is told of every call that has ended.
func (f Forwarded) Handled(_, method string, err error, _ time.Duration) { f.m.decided(method, err) }

// decided counts what a leader decides.
func (m *Metrics) decided(method string, err error) {
	if method == pb.Cluster_MemberPromote_FullMethodName && m.leads() {
		m.promoted.handled(err)
	}
}
