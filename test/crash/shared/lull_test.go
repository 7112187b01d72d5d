package shared

import (
	"fmt"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// changesAlone is how many changes in a row a server makes before another one is asked: it may think then that it is alone.
const changesAlone = 40

// lull lets one client ask, and nobody else: a server makes changes for a while, another one makes a single change, and at
// once the first is asked for what depends on it. With many clients servers meet so often that none
// of them has a chance to answer from what it knows.
func (d *drill) lull() {
	if len(d.servers) < 2 {
		return
	}
	first := d.pick()
	other := (first + 1 + d.rng.IntN(len(d.servers)-1)) % len(d.servers)
	for range changesAlone {
		if d.once(first, d.value("k1")).Unknown {
			return
		}
	}
	lease := int64(1)<<56 | int64(d.asked)
	granted := &pb.LeaseGrantRequest{ID: lease, TTL: 3600}
	held := d.value("k2")
	held.Lease = lease
	switch d.rng.IntN(5) {
	case 0: // a lease that was granted elsewhere
		d.once(other, granted)
		d.once(first, held)
	case 1: // a lease that was revoked elsewhere
		d.once(first, granted)
		d.once(other, &pb.LeaseRevokeRequest{ID: lease})
		d.once(first, held)
	case 2: // an update of what was changed elsewhere
		if op := d.once(other, d.value("k2")); op.Revision() != 0 {
			d.once(first, d.ifAt("k2", op.Revision()))
		}
	case 3: // a creation of what was deleted elsewhere
		d.once(first, d.value("k2"))
		d.once(other, &pb.DeleteRangeRequest{Key: []byte("k2")})
		d.once(first, d.ifAt("k2", 0))
	case 4: // a read in a transaction
		d.once(other, d.value("k2"))
		d.once(first, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k2")}}}}})
	}
}

// value is a put of a value that nobody else puts.
func (d *drill) value(key string) *pb.PutRequest {
	d.asked++
	return &pb.PutRequest{Key: []byte(key), Value: fmt.Appendf(nil, "asked %d", d.asked)}
}

// ifAt changes a key if it is at a revision, and else reads it.
func (d *drill) ifAt(key string, rev int64) *pb.TxnRequest {
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: rev}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: d.value(key)}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	}
}

// once asks a server, and records what came of it.
func (d *drill) once(server int, request proto.Message) *history.Op {
	op := &history.Op{Client: clients + len(d.servers), Server: server, Request: request}
	d.recorder.Do(d.t.Context(), d.conns[server], op, patience)
	return op
}
