package history

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Is says whether an error is one of rpctypes' errors of gRPC.
func Is(err, want error) bool {
	a, b := status.Convert(err), status.Convert(want)
	return a.Code() == b.Code() && a.Message() == b.Message()
}

// Leases are the leases that a request needs, one that is 0 included.
func Leases(request proto.Message) []int64 {
	switch r := request.(type) {
	case *pb.PutRequest:
		return []int64{r.Lease}
	case *pb.LeaseRevokeRequest:
		return []int64{r.ID}
	case *pb.TxnRequest:
		return append(LeasesOfBranch(r.Success), LeasesOfBranch(r.Failure)...)
	}
	return nil
}

// LeasesOfBranch are the leases that the operations of a transaction's branch need.
func LeasesOfBranch(ops []*pb.RequestOp) []int64 {
	var leases []int64
	for _, op := range ops {
		leases = append(leases, op.GetRequestPut().GetLease())
	}
	return leases
}

// PastRevisions are the revisions that a request reads.
func PastRevisions(request proto.Message) []int64 {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return []int64{r.Revision}
	case *pb.TxnRequest:
		return append(PastOfBranch(r.Success), PastOfBranch(r.Failure)...)
	}
	return nil
}

// PastOfBranch are the revisions that the operations of a transaction's branch read.
func PastOfBranch(ops []*pb.RequestOp) []int64 {
	var revs []int64
	for _, op := range ops {
		revs = append(revs, op.GetRequestRange().GetRevision())
	}
	return revs
}

// revocations checks that what a revoked lease held stays away.
func (c *checker) revocations() {
	for _, op := range c.ops {
		if r, ok := op.Request.(*pb.LeaseRevokeRequest); ok && op.header() != nil {
			c.away(r.ID, op.header().Revision)
		}
	}
}

func (c *checker) away(lease, from int64) {
	for rev := from; rev <= c.model.Last(); rev++ {
		for _, e := range c.model.events[rev] {
			if e.Kv.Lease == lease && rev > from {
				c.fail("revision %d uses lease %d, which was revoked by revision %d", rev, lease, from)
			}
		}
	}
}

// refusals checks that what was refused was so for a reason that somebody may have given.
func (c *checker) refusals() {
	r := reasons{}
	for _, op := range c.ops {
		switch op.Request.(type) {
		case *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *pb.CompactionRequest:
			if op.Err == nil || op.Unknown {
				r = append(r, op)
			}
		}
	}
	for _, op := range c.ops {
		if op.Err == nil || op.Unknown {
			continue
		}
		var reason bool
		switch {
		case Is(op.Err, rpctypes.ErrGRPCLeaseNotFound):
			reason = slices.ContainsFunc(Leases(op.Request), func(id int64) bool { return r.missing(op, id) })
		case Is(op.Err, rpctypes.ErrGRPCCompacted):
			reason = r.compacted(op)
		case Is(op.Err, rpctypes.ErrGRPCFutureRev):
			reason = op.Serializable()
		}
		if !reason {
			c.fail("an error without a reason: %v", op)
		}
	}
}

// reasons are what may have been done to leases and to the past.
type reasons []*Op

// missing says whether somebody may have revoked a lease, or not granted it.
func (r reasons) missing(refused *Op, lease int64) bool {
	return lease != 0 && slices.ContainsFunc(r, func(op *Op) bool {
		switch r := op.Request.(type) {
		case *pb.LeaseRevokeRequest:
			return r.ID == lease && op != refused && op.Begin < refused.End
		case *pb.LeaseGrantRequest:
			return r.ID == lease && op.Unknown
		}
		return false
	})
}

// compacted says whether somebody may have compacted what a request needs.
func (r reasons) compacted(refused *Op) bool {
	return slices.ContainsFunc(r, func(op *Op) bool {
		r, ok := op.Request.(*pb.CompactionRequest)
		if !ok || op == refused || op.Begin >= refused.End {
			return false
		}
		if again, ok := refused.Request.(*pb.CompactionRequest); ok {
			return again.Revision <= r.Revision
		}
		return slices.ContainsFunc(PastRevisions(refused.Request), func(rev int64) bool { return rev > 0 && rev < r.Revision })
	})
}
