package sqllog

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// TestBatchOfATerm: the log is told in which term a batch was decided, so that it can refuse it in another one.
func TestBatchOfATerm(t *testing.T) {
	var term atomic.Uint64
	term.Store(5)
	var refused atomic.Int64
	s := start(t, memory.NewStore(), func(o *Options) {
		o.Term = term.Load
		o.Log = led{o.Log, &term, &refused}
	})
	s.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
	entry := s.Index().Lease(1).Entry()
	evaluated := sync.OnceFunc(func() { term.Store(7) })
	s.opts.Now = func() time.Time { evaluated(); return time.Now() }
	if _, err := s.do(&mvcc.Expire{ID: 1, Entry: entry, Term: 5}); !errors.Is(err, drivers.ErrNotLeader) || s.Index().Lease(1) == nil {
		t.Errorf("%v, and the lease is %v", err, s.Index().Lease(1))
	}
	s.must(&mvcc.Expire{ID: 1, Entry: entry, Term: 7})
	if refused.Load() != 1 {
		t.Errorf("%d batches were refused", refused.Load())
	}
}

// led is a log that is appended to in one term.
type led struct {
	drivers.Log
	term    *atomic.Uint64
	refused *atomic.Int64
}

func (l led) Append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	if batch.Term != l.term.Load() {
		l.refused.Add(1)
		return drivers.ErrNotLeader
	}
	return l.Log.Append(ctx, after, batch)
}
