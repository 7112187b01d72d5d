package history

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Load is what the clients of one round ask.
type Load struct {
	// Seed decides what each client asks.
	Seed uint64
	// Round makes values and leases differ from those of other rounds.
	Round int
	// Clients is how many ask at once.
	Clients int
	// Roaming is how many of them use another connection for each request, the others keep to theirs.
	Roaming int
	// Requests is how many each sends. Zero means until Stop.
	Requests int
	// Stop ends the load when it is closed; what is under way goes on to its end. Nil never does.
	Stop <-chan struct{}
	// Persistent makes clients go on after a request without an answer.
	Persistent bool
	// Pinned makes clients that do not roam keep to their connection, whatever happens.
	Pinned bool
	// Pause bounds the random time before each request. Zero means none.
	Pause time.Duration
	// Patience bounds the wait for one answer. Zero means 10 s.
	Patience time.Duration
	// Keys is how many keys there are, nine at most.
	Keys int
	// CompactTo gives the highest revision that may be compacted. Nil means that nobody compacts.
	CompactTo func() int64
	// Recorder gets what was asked and answered.
	Recorder *Recorder

	answered atomic.Int64
	mu       sync.Mutex
	leases   []int64
}

// Run sends the requests, each client on one of the connections at a time. Unless it is persistent, a client
// ends early when it gets no answer. When so many requests were answered, then is called, once, while
// others are under way.
func (l *Load) Run(ctx context.Context, conns []grpc.ClientConnInterface, answers int64, then func()) {
	var all sync.WaitGroup
	for i := range l.Clients {
		all.Go(func() {
			c := &client{Load: l, n: i, conns: conns, at: i % len(conns), rng: rand.New(rand.NewPCG(l.Seed, uint64(l.Round)<<32|uint64(i))), known: map[string]*mvccpb.KeyValue{}}
			for n := 0; n < l.Requests || l.Requests == 0; n++ {
				if !c.wait(ctx) || !c.send(ctx, c.next()) && !c.recover(ctx) {
					return
				}
				if l.answered.Add(1) == answers {
					then()
				}
			}
		})
	}
	all.Wait()
}

// client is used by one goroutine.
type client struct {
	*Load
	n     int
	conns []grpc.ClientConnInterface
	at    int // in conns
	rng   *rand.Rand
	sent  int
	known map[string]*mvccpb.KeyValue // what was last seen of keys, to compare with
	rev   int64                       // of the last answer
	fresh int64                       // a lease that was granted by the last request, to be used at once
}

// wait waits before a request, and returns whether there shall be one.
func (c *client) wait(ctx context.Context) bool {
	if c.Pause > 0 {
		return c.sleep(ctx, time.Duration(c.rng.Int64N(int64(c.Pause))))
	}
	select {
	case <-c.Stop:
		return false
	default:
		return ctx.Err() == nil
	}
}

func (c *client) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.Stop:
	case <-ctx.Done():
	}
	return false
}

// recover makes a client go on after a request without an answer, mostly elsewhere unless it is pinned.
func (c *client) recover(ctx context.Context) bool {
	if !c.Persistent {
		return false
	}
	if !c.Pinned && c.rng.IntN(3) > 0 {
		c.at = c.rng.IntN(len(c.conns))
	}
	return c.sleep(ctx, time.Duration(20+c.rng.IntN(100))*time.Millisecond)
}

func methodOf(r proto.Message) (string, proto.Message) {
	switch r.(type) {
	case *pb.RangeRequest:
		return pb.KV_Range_FullMethodName, &pb.RangeResponse{}
	case *pb.PutRequest:
		return pb.KV_Put_FullMethodName, &pb.PutResponse{}
	case *pb.DeleteRangeRequest:
		return pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeResponse{}
	case *pb.TxnRequest:
		return pb.KV_Txn_FullMethodName, &pb.TxnResponse{}
	case *pb.CompactionRequest:
		return pb.KV_Compact_FullMethodName, &pb.CompactionResponse{}
	case *pb.LeaseGrantRequest:
		return pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantResponse{}
	default:
		return pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeResponse{}
	}
}

// send sends one request and records it. It returns whether there was an answer.
func (c *client) send(ctx context.Context, request proto.Message) bool {
	c.sent++
	op := &Op{Client: c.n, Server: c.at, Request: request}
	if !c.Recorder.Do(ctx, c.conns[c.at], op, cmp.Or(c.Patience, 10*time.Second)) {
		return false
	}
	c.learn(op)
	return !op.Unknown
}

func (c *client) learn(op *Op) {
	c.rev = max(c.rev, op.Revision())
	switch r := op.Response.(type) {
	case *pb.RangeResponse:
		c.see(r.Kvs)
	case *pb.TxnResponse:
		for _, one := range r.Responses {
			c.see(one.GetResponseRange().GetKvs())
		}
	case *pb.LeaseGrantResponse:
		c.fresh = r.ID
	}
	// A lease that may be there is used as others are.
	if r, ok := op.Request.(*pb.LeaseGrantRequest); ok && (op.Err == nil || op.Unknown) {
		c.mu.Lock()
		c.leases = append(c.leases, r.ID)
		c.mu.Unlock()
	}
}

func (c *client) see(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		c.known[string(kv.Key)] = kv
	}
}
