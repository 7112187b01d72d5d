package etcdv3

import (
	"context"
	"net/url"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// clusterServer answers for a cluster of one member.
type clusterServer struct {
	*Server
	pb.UnsafeClusterServer
}

// header is etcd's for this service: without a revision.
func (s *clusterServer) header() *pb.ResponseHeader {
	c := s.opts.Cluster
	return &pb.ResponseHeader{ClusterId: c.ID, MemberId: c.Self.ID, RaftTerm: c.Term}
}

func (s *clusterServer) members() []*pb.Member {
	m := s.opts.Cluster.Self
	return []*pb.Member{{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs}}
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
	for _, u := range r.PeerURLs {
		for _, own := range s.opts.Cluster.Self.PeerURLs {
			if u == own {
				return nil, rpctypes.ErrGRPCPeerURLExist
			}
		}
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

// MemberRemove refuses to remove the only member, as etcd's strict check does.
func (s *clusterServer) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if r.ID != s.opts.Cluster.Self.ID {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
}

// MemberUpdate refuses: the peer URLs of a server without peers are its flags.
func (s *clusterServer) MemberUpdate(_ context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if r.ID != s.opts.Cluster.Self.ID {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
}

func (s *clusterServer) MemberPromote(_ context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if r.ID != s.opts.Cluster.Self.ID {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCMemberNotLearner
}
