package sqllog

import (
	"errors"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestExpiryOfAnEarlierTerm: an expiry whose append is tried again in a later term is refused, since the lease may have been renewed in between.
func TestExpiryOfAnEarlierTerm(t *testing.T) {
	var term atomic.Uint64
	term.Store(5)
	s := start(t, memory.NewStore(), func(o *Options) { o.Term = term.Load })
	s.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
	entry := s.Index().Lease(1).Entry()
	s.log.Inject(memory.OpAppend, memory.Fault{Err: drivers.ErrUncertain, Before: func() { term.Store(7) }})
	if _, err := s.do(&mvcc.Expire{ID: 1, Entry: entry, Term: 5}); !errors.Is(err, mvcc.ErrLeaseNotFound) || s.Index().Lease(1) == nil {
		t.Errorf("%v, and the lease is %v", err, s.Index().Lease(1))
	}
	s.must(&mvcc.Expire{ID: 1, Entry: entry, Term: 7})
}
