package etcdv3

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/drivers"
)

type leaseServer struct {
	*Server
	pb.UnsafeLeaseServer
}

func (s *leaseServer) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := s.checkQuota(ctx, r); err != nil {
		return nil, err
	}
	for r.ID == 0 {
		r.ID = rand.Int64()
	}
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	granted := resp.(*pb.LeaseGrantResponse)
	s.fill(granted.Header)
	return granted, nil
}

func (s *leaseServer) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	revoked := resp.(*pb.LeaseRevokeResponse)
	s.fill(revoked.Header)
	return revoked, nil
}

func (s *leaseServer) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	ix, err := s.opts.Store.Linearizable(ctx)
	if err != nil {
		return nil, grpcError(err)
	}
	if !s.opts.Lessor.Counting() {
		// It has just won the lead, or lost it.
		return nil, grpcError(drivers.ErrNotLeader)
	}
	resp := &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}
	left, counting := s.opts.Lessor.Remaining(r.ID)
	if l := ix.Lease(r.ID); l != nil && counting {
		resp.TTL, resp.GrantedTTL = int64(left.Seconds()), l.TTL
		if r.Keys {
			for k := range l.Keys() {
				resp.Keys = append(resp.Keys, []byte(k))
			}
		}
	}
	resp.Header = s.fill(nil)
	return resp, nil
}

func (s *leaseServer) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	ix, err := s.opts.Store.Linearizable(ctx)
	if err != nil {
		return nil, grpcError(err)
	}
	var ids []int64
	for l := range ix.Leases() {
		ids = append(ids, l.ID)
	}
	resp := &pb.LeaseLeasesResponse{Header: s.fill(nil)}
	for _, id := range s.opts.Lessor.ByDeadline(ids) {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}

func (s *leaseServer) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	done := make(chan error, 1)
	go func() { done <- s.keepAlive(stream) }()
	select {
	case err := <-done:
		return err
	case <-s.opts.Stopping:
		return rpctypes.ErrGRPCStopped
	case <-stream.Context().Done():
		return grpcError(stream.Context().Err())
	}
}

func (s *leaseServer) keepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// The header comes before the renewal, so that its revision is never
		// later than the moment at which the lease was alive.
		resp := &pb.LeaseKeepAliveResponse{ID: r.ID, Header: s.fill(nil)}
		if resp.TTL, err = s.renew(stream.Context(), r.ID); err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
