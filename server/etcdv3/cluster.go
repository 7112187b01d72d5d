package etcdv3

import (
	"context"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// clusterServer answers for a cluster whose members the log has (Options.Members), and otherwise for one of a
// single member, or of equal servers on one database.
type clusterServer struct {
	*Server
	pb.UnsafeClusterServer
}

// header is etcd's for this service: without a revision.
func (s *clusterServer) header() *pb.ResponseHeader {
	c := s.opts.Cluster
	return &pb.ResponseHeader{ClusterId: c.ID, MemberId: c.Member, RaftTerm: c.Term()}
}

func (s *Server) members() []*pb.Member {
	if s.opts.Members != nil {
		return s.opts.Members.Members()
	}
	return s.opts.Cluster.Members()
}

// errEqual answers requests to change the members where that is not done by requests.
var errEqual = status.Error(codes.FailedPrecondition, "keelson: servers on one database join by being started with its --datastore, and leave by being stopped")

// member gives the member of this id, or nil.
func (s *Server) member(id uint64) *pb.Member {
	members := s.members()
	if i := slices.IndexFunc(members, func(m *pb.Member) bool { return m.ID == id }); i >= 0 {
		return members[i]
	}
	return nil
}

// known tells whether a member of this id is there.
func (s *clusterServer) known(id uint64) bool { return s.member(id) != nil }

func (s *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if _, err := s.opts.Store.Linearizable(ctx); err != nil {
			return nil, grpcError(err)
		}
	}
	return &pb.MemberListResponse{Header: s.header(), Members: s.members()}, nil
}

// MemberAdd is refused where it is not the log that has the members: a server on SQLite alone has no peers.
func (s *clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, ok := peerURLs(r.PeerURLs)
	if !ok {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if s.opts.Members != nil {
		return s.add(ctx, &pb.Member{PeerURLs: urls, IsLearner: r.IsLearner})
	}
	for _, m := range s.members() {
		for _, u := range m.PeerURLs {
			if slices.Contains(urls, u) {
				return nil, rpctypes.ErrGRPCPeerURLExist
			}
		}
	}
	if s.opts.Cluster.Equal {
		return nil, errEqual
	}
	return nil, rpctypes.ErrGRPCMemberNotEnoughStarted
}

func (s *clusterServer) add(ctx context.Context, m *pb.Member) (*pb.MemberAddResponse, error) {
	if _, err := s.checkSize(m); err != nil {
		return nil, err
	}
	m.ID = uint64(membership.AddedMemberID(m.PeerURLs, time.Now()))
	r := &mvcc.AddMember{Member: m, MaxLearners: s.opts.MaxLearners, Strict: s.opts.StrictReconfigCheck}
	if err := s.mayAdd(r); err != nil {
		return nil, grpcError(err)
	}
	members, err := s.opts.Members.Change(ctx, r)
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.MemberAddResponse{Header: s.header(), Member: m, Members: members}, nil
}

// MemberRemove refuses to remove the only member, as etcd's strict check does:
// with that text, and no code of its own.
func (s *clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if s.opts.Members != nil {
		change := &mvcc.RemoveMember{ID: r.ID, Strict: s.opts.StrictReconfigCheck}
		if err := s.mayRemove(change); err != nil {
			return nil, grpcError(err)
		}
		members, err := s.opts.Members.Change(ctx, change)
		if err != nil {
			return nil, grpcError(err)
		}
		return &pb.MemberRemoveResponse{Header: s.header(), Members: members}, nil
	}
	if !s.known(r.ID) {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	if len(s.members()) > 1 {
		return nil, errEqual
	}
	return nil, grpcError(mvcc.ErrNotEnoughStarted)
}

// MemberUpdate changes the peer URLs that MemberList shows.
func (s *clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if s.opts.Members != nil {
		return s.update(ctx, r)
	}
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

// update leaves the URLs in the order in which they are given, as etcd does.
func (s *clusterServer) update(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if _, err := s.checkSize(r); err != nil {
		return nil, err
	}
	if _, ok := peerURLs(r.PeerURLs); !ok && s.known(r.ID) {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	members, err := s.opts.Members.Change(ctx, &mvcc.UpdateMember{ID: r.ID, PeerURLs: r.PeerURLs})
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.MemberUpdateResponse{Header: s.header(), Members: members}, nil
}

func (s *clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if s.opts.Members != nil {
		return s.promote(ctx, r)
	}
	if !s.known(r.ID) {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCMemberNotLearner
}

// promote is for the leader, who alone knows how far the learner is.
func (s *clusterServer) promote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	change := &mvcc.PromoteMember{ID: r.ID, Strict: s.opts.StrictReconfigCheck}
	if err := s.mayPromote(change); err != nil {
		return nil, grpcError(err)
	}
	members, err := s.opts.Members.Change(ctx, change)
	if err != nil {
		return nil, grpcError(err)
	}
	return &pb.MemberPromoteResponse{Header: s.header(), Members: members}, nil
}
