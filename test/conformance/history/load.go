package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// patience bounds the wait for one answer.
const patience = 10 * time.Second

// Load is what the clients of one round ask.
type Load struct {
	// Seed decides what each client asks.
	Seed uint64
	// Round makes values and leases differ from those of other rounds.
	Round int
	// Clients is how many ask at once.
	Clients int
	// Requests is how many each sends.
	Requests int
	// Keys is how many keys there are.
	Keys int
	// Recorder gets what was asked and answered.
	Recorder *Recorder

	answered atomic.Int64
	mu       sync.Mutex
	leases   []int64
}

// Run sends the requests, each client on one of the connections. A client ends early when it gets no answer.
// When so many requests were answered, then is called, once, while others are under way.
func (l *Load) Run(ctx context.Context, conns []grpc.ClientConnInterface, answers int64, then func()) {
	var all sync.WaitGroup
	for i := range l.Clients {
		all.Go(func() {
			c := &client{Load: l, n: i, conn: conns[i%len(conns)], rng: rand.New(rand.NewPCG(l.Seed, uint64(l.Round)<<32|uint64(i))), known: map[string]*mvccpb.KeyValue{}}
			for range l.Requests {
				if !c.send(ctx, c.request()) {
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
	conn  grpc.ClientConnInterface
	rng   *rand.Rand
	sent  int
	known map[string]*mvccpb.KeyValue // what was last seen of keys, to compare with
	rev   int64                       // of the last answer
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
	case *pb.LeaseGrantRequest:
		return pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantResponse{}
	default:
		return pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeResponse{}
	}
}

// send sends one request and records it. It returns whether there was an answer.
func (c *client) send(ctx context.Context, request proto.Message) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.sent++
	method, response := methodOf(request)
	op := &Op{Client: c.n, Request: request, Begin: c.Recorder.Now()}
	err := c.conn.Invoke(ctx, method, request, response)
	op.End = c.Recorder.Now()
	switch status.Code(err) {
	case codes.OK:
		op.Response = response
		c.learn(op)
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.Unknown:
		op.Err, op.Unknown = err, true
	default:
		op.Err = err
	}
	c.Recorder.add(op)
	return !op.Unknown
}

func (c *client) learn(op *Op) {
	c.rev = op.header().Revision
	switch r := op.Response.(type) {
	case *pb.RangeResponse:
		c.see(r.Kvs)
	case *pb.TxnResponse:
		for _, one := range r.Responses {
			c.see(one.GetResponseRange().GetKvs())
		}
	case *pb.LeaseGrantResponse:
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

// request makes the next request up.
func (c *client) request() proto.Message {
	switch n := c.rng.IntN(24); {
	case n < 5:
		return c.put(c.key())
	case n < 7:
		return c.del(c.key())
	case n < 12:
		return c.get(c.key(), true)
	case n < 18:
		return c.txn()
	case n < 20 || len(c.held()) == 0:
		return &pb.LeaseGrantRequest{ID: int64(1+c.Round)<<40 | int64(c.n)<<24 | int64(c.sent), TTL: 3600}
	default:
		return &pb.LeaseRevokeRequest{ID: c.lease()}
	}
}

func (c *client) held() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leases
}

// lease picks one of the youngest leases, which others may be revoking.
func (c *client) lease() int64 {
	held := c.held()
	return held[max(0, len(held)-1-c.rng.IntN(4))]
}

func (c *client) key() []byte { return fmt.Appendf(nil, "k%d", c.rng.IntN(c.Keys)) }

// span is the end of a range that begins with key: none, or several keys on.
func (c *client) span(key []byte) []byte {
	if c.rng.IntN(3) > 0 {
		return nil
	}
	return append([]byte{key[0]}, key[1]+byte(1+c.rng.IntN(c.Keys)))
}

func (c *client) put(key []byte) *pb.PutRequest {
	r := &pb.PutRequest{Key: key, Value: fmt.Appendf(nil, "%d.%d.%d.%d", c.Round, c.n, c.sent, c.rng.IntN(1000)), PrevKv: c.rng.IntN(2) == 0}
	if c.rng.IntN(2) == 0 && len(c.held()) > 0 {
		r.Lease = c.lease()
	}
	return r
}

func (c *client) del(key []byte) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: c.span(key), PrevKv: c.rng.IntN(2) == 0}
}

func (c *client) get(key []byte, alone bool) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: key, RangeEnd: c.span(key), Limit: int64(c.rng.IntN(4)), CountOnly: c.rng.IntN(8) == 0}
	if c.rng.IntN(6) == 0 {
		r.SortTarget, r.SortOrder = pb.RangeRequest_MOD, pb.RangeRequest_DESCEND
	}
	if c.rng.IntN(6) == 0 && c.rev > 2 {
		r.Revision = 1 + c.rng.Int64N(c.rev)
	}
	r.Serializable = alone && c.rng.IntN(6) == 0
	return r
}

// txn compares some keys, mostly with what they were when they were last seen, and does several things.
func (c *client) txn() *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range c.rng.IntN(3) {
		r.Compare = append(r.Compare, c.compare(c.key()))
	}
	r.Success, r.Failure = c.branch(), c.branch()
	return r
}

func (c *client) compare(key []byte) *pb.Compare {
	kv := c.known[string(key)]
	if kv == nil {
		kv = &mvccpb.KeyValue{}
	}
	cmp := &pb.Compare{Key: key, Result: pb.Compare_CompareResult(c.rng.IntN(4))}
	switch c.rng.IntN(6) {
	case 0:
		cmp.Target, cmp.TargetUnion = pb.Compare_VALUE, &pb.Compare_Value{Value: kv.Value}
	case 1:
		cmp.Target, cmp.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: kv.CreateRevision}
	case 2:
		cmp.Target, cmp.TargetUnion = pb.Compare_VERSION, &pb.Compare_Version{Version: kv.Version}
	case 3:
		cmp.Target, cmp.TargetUnion = pb.Compare_LEASE, &pb.Compare_Lease{Lease: kv.Lease}
	default:
		cmp.Target, cmp.TargetUnion = pb.Compare_MOD, &pb.Compare_ModRevision{ModRevision: kv.ModRevision}
	}
	return cmp
}

// branch is a few operations, of which no two change the same key.
func (c *client) branch() []*pb.RequestOp {
	var ops []*pb.RequestOp
	for _, k := range c.rng.Perm(c.Keys)[:c.rng.IntN(min(c.Keys, 3)+1)] {
		key := fmt.Appendf(nil, "k%d", k)
		switch c.rng.IntN(4) {
		case 0:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, PrevKv: true}}})
		case 1:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: c.get(key, false)}})
		default:
			put := c.put(key)
			put.Lease = 0 // a transaction that fails as a whole would teach nothing
			put.Value = append(put.Value, key...)
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
	}
	return ops
}
