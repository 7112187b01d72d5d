package etcdv3

import (
	"context"
	"net/url"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// clusterServer answers for a cluster of one member, or of equal servers on one database.
type clusterServer struct {
	*Server
	pb.UnsafeClusterServer
}

// header is etcd's for this service: without a revision.
func (s *clusterServer) header() *pb.ResponseHeader {
	c := s.opts.Cluster
	return &pb.ResponseHeader{ClusterId: c.ID, MemberId: c.Member, RaftTerm: c.Term}
}

func (s *clusterServer) members() []*pb.Member {
	return s.opts.Cluster.Members()
}

// errEqual answers requests to change the members where that is not done by requests.
var errEqual = status.Error(codes.FailedPrecondition, "keelson: servers on one database join by being started with its --datastore, and leave by being stopped")

// known tells whether a member of this id is there.
func (s *clusterServer) known(id uint64) bool {
	return slices.ContainsFunc(s.members(), func(m *pb.Member) bool { return m.ID == id })
}

func (s *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if _, err := s.opts.Store.Linearizable(ctx); err != nil {
			return nil, grpcError(err)
		}
	}
	return &pb.MemberListResponse{Header: s.header(), Members: s.members()}, nil
}

// MemberAdd refuses: a server on SQLite alone has no peers.
func (s *clusterServer) MemberAdd(_ context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if !validPeerURLs(r.PeerURLs) {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	for _, m := range s.members() {
		for _, u := range m.PeerURLs {
			if slices.Contains(r.PeerURLs, u) {
				return nil, rpctypes.ErrGRPCPeerURLExist
			}
		}
	}
	if s.opts.Cluster.Equal {
		return nil, errEqual
	}
	return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
}

func validPeerURLs(urls []string) bool {
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Path != "" || u.Port() == "" {
			return false
		}
		switch u.Scheme {
		case "http", "https", "unix", "unixs":
		default:
			return false
		}
	}
	return len(urls) > 0
}

// MemberRemove refuses to remove the only member, as etcd's strict check does:
// with that text, and no code of its own.
func (s *clusterServer) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if !s.known(r.ID) {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	if len(s.members()) > 1 {
		return nil, errEqual
	}
	return nil, status.Error(codes.Unknown, rpctypes.ErrMemberNotEnoughStarted.Error())
}

// MemberUpdate changes the peer URLs that MemberList shows.
func (s *clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if !s.known(r.ID) {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	if r.ID != s.opts.Cluster.Member {
		return nil, errEqual
	}
	if _, err := s.checkSize(r); err != nil {
		return nil, err
	}
	if err := s.opts.Cluster.Update(ctx, r.PeerURLs); err != nil {
		return nil, grpcError(err)
	}
	return &pb.MemberUpdateResponse{Header: s.header(), Members: s.members()}, nil
}

func (s *clusterServer) MemberPromote(_ context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if !s.known(r.ID) {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCMemberNotLearner
}
