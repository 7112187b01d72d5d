package etcdv3

import (
	"context"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// quota knows about how large the database is without asking it each time: the
// size when it was last asked, and what has been let in since.
type quota struct {
	measured  atomic.Int64 // 0: never
	since     atomic.Int64
	measuring sync.Mutex // one asks for all
}

// The room that things are taken to need, as in etcd's quota.
const leaseOverhead, kvOverhead = 64, 256

// checkQuota refuses a request for which there is no room, and raises the alarm.
func (s *Server) checkQuota(ctx context.Context, request any) error {
	limit := s.opts.QuotaBytes
	if limit <= 0 {
		return nil
	}
	need := cost(request)
	if need == 0 {
		return nil // it frees space, or only reads
	}
	if m := s.quota.measured.Load(); m > 0 && m+s.quota.since.Add(need) < limit {
		return nil
	}
	s.quota.measuring.Lock()
	defer s.quota.measuring.Unlock()
	if m := s.quota.measured.Load(); m > 0 && m+s.quota.since.Load() < limit {
		return nil // somebody has asked meanwhile
	}
	size, _, err := s.opts.Backend.Size(ctx)
	if err != nil {
		return grpcError(err)
	}
	s.quota.measured.Store(size)
	s.quota.since.Store(need)
	if size+need < limit {
		return nil
	}
	alarm := &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: s.opts.Cluster.Member, Alarm: pb.AlarmType_NOSPACE,
	}
	raised := s.opts.Store.Index().Alarmed(int32(pb.AlarmType_NOSPACE))
	if _, err := s.commit(ctx, alarm); err != nil {
		return err
	}
	if !raised {
		s.opts.Logger.Warn("the database has reached its quota: writes are refused until there is room and the alarm is disarmed",
			"alarm", "NOSPACE", "size", size, "quota", limit, "remedy", "compact, defrag, alarm disarm")
	}
	return grpcError(mvcc.ErrNoSpace)
}

// cost estimates what a request adds to the database, as etcd does.
func cost(request any) int64 {
	switch r := request.(type) {
	case *pb.PutRequest:
		return int64(kvOverhead + len(r.Key) + len(r.Value))
	case *pb.TxnRequest:
		return max(costOps(r.Success), costOps(r.Failure))
	case *pb.LeaseGrantRequest:
		return leaseOverhead
	}
	return 0
}

func costOps(ops []*pb.RequestOp) (sum int64) {
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			sum += cost(p)
		}
	}
	return sum
}
