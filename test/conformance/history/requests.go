package history

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// next makes the next request up. A new lease is often used at once, and elsewhere.
func (c *client) next() proto.Message {
	if c.n < c.Roaming {
		c.at = c.rng.IntN(len(c.conns))
	}
	lease := c.fresh
	if c.fresh = 0; lease == 0 || c.rng.IntN(3) == 0 {
		return c.request()
	}
	if !c.Pinned {
		c.at = (c.at + 1) % len(c.conns)
	}
	r := c.put(c.key())
	r.Lease = lease
	return r
}

func (c *client) request() proto.Message {
	if c.CompactTo != nil && c.rng.IntN(200) == 0 {
		if rev := c.CompactTo() - c.rng.Int64N(20); rev > 1 {
			return &pb.CompactionRequest{Revision: rev, Physical: c.rng.IntN(6) == 0}
		}
	}
	switch n := c.rng.IntN(28); {
	case n < 5:
		return c.put(c.key())
	case n < 7:
		return c.del(c.key())
	case n < 12:
		return c.get(c.key(), true)
	case n < 17:
		return c.txn()
	case n < 22:
		return c.guarded(c.key())
	case n < 25 || len(c.held()) == 0:
		return &pb.LeaseGrantRequest{ID: int64(1+c.Round)<<40 | int64(c.n)<<32 | int64(c.sent), TTL: 3600}
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
		r.Revision = max(1, c.rev-c.rng.Int64N(100))
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

// guarded changes a key if it is as it was last seen, and else reads it, as kube-apiserver does.
func (c *client) guarded(key []byte) *pb.TxnRequest {
	var mod int64
	if kv := c.known[string(key)]; kv != nil && c.rng.IntN(4) > 0 {
		mod = kv.ModRevision
	}
	r := &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: mod}}}}
	if mod != 0 && c.rng.IntN(4) == 0 {
		r.Success = []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}}
	} else {
		r.Success = []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: c.put(key)}}}
	}
	if mod != 0 || c.rng.IntN(2) == 0 {
		r.Failure = []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}}
	}
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
