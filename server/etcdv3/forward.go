package etcdv3

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Lead brings what the leader decides to the leader. Its methods may be called concurrently.
type Lead interface {
	// Leader gives the server that leads, nil if it is this one. It waits until there is one that can be reached, or ctx ends. drivers.ErrNoLeader if this server
	// stands still, and would not hear of one.
	Leader(ctx context.Context) (Leader, error)
}

// Leader is another server that leads, or did a moment ago.
type Leader interface {
	// Answer has its Server.Answer answer a request. Errors: ErrNotSent, if it has certainly done nothing; ErrLost; ctx's.
	Answer(ctx context.Context, method string, request []byte) (Answer, error)
	// Renew has it renew a lease, and gives its TTL, 0 if there is none, and where in the log the renewal stands.
	Renew(ctx context.Context, lease int64) (ttl, position int64, err error)
}

// Answer is what another server answers.
type Answer struct {
	// Response is the message, encoded, unless Err is set.
	Response []byte
	Err      error
	// NotLeader is set if that server does not lead, and has done nothing.
	NotLeader bool
	// Position is how far its log went then.
	Position int64
}

// What becomes of a request that another server has not answered.
var (
	ErrNotSent = errors.New("etcdv3: the leader was not asked")
	ErrLost    = errors.New("etcdv3: the leader's answer was lost")
)

// errNotLeading answers a request that this server took for the leader, and is not. Nothing was done.
var errNotLeading = status.Error(codes.Unavailable, "keelson: this server does not lead")

// leaderAgain is the pause before a server is asked again that should lead and does not yet, or not any more.
const leaderAgain = 5 * time.Millisecond

// forwarded makes a response for a unary call that the leader answers, by method. All others are answered by the server that is asked.
func forwarded(method string) proto.Message {
	switch method {
	case pb.KV_Put_FullMethodName:
		return new(pb.PutResponse)
	case pb.KV_DeleteRange_FullMethodName:
		return new(pb.DeleteRangeResponse)
	case pb.KV_Txn_FullMethodName:
		return new(pb.TxnResponse)
	case pb.KV_Compact_FullMethodName:
		return new(pb.CompactionResponse)
	case pb.Lease_LeaseGrant_FullMethodName:
		return new(pb.LeaseGrantResponse)
	case pb.Lease_LeaseRevoke_FullMethodName:
		return new(pb.LeaseRevokeResponse)
	case pb.Lease_LeaseTimeToLive_FullMethodName:
		return new(pb.LeaseTimeToLiveResponse)
	case pb.Lease_LeaseLeases_FullMethodName:
		return new(pb.LeaseLeasesResponse)
	case pb.Maintenance_Alarm_FullMethodName:
		return new(pb.AlarmResponse)
	case pb.Cluster_MemberAdd_FullMethodName:
		return new(pb.MemberAddResponse)
	case pb.Cluster_MemberRemove_FullMethodName:
		return new(pb.MemberRemoveResponse)
	case pb.Cluster_MemberUpdate_FullMethodName:
		return new(pb.MemberUpdateResponse)
	case pb.Cluster_MemberPromote_FullMethodName:
		return new(pb.MemberPromoteResponse)
	}
	return forwardedAuth(method)
}

func forwardedAuth(method string) proto.Message {
	switch method {
	case pb.Auth_AuthEnable_FullMethodName:
		return new(pb.AuthEnableResponse)
	case pb.Auth_AuthDisable_FullMethodName:
		return new(pb.AuthDisableResponse)
	case pb.Auth_AuthStatus_FullMethodName:
		return new(pb.AuthStatusResponse)
	case pb.Auth_UserAdd_FullMethodName:
		return new(pb.AuthUserAddResponse)
	case pb.Auth_UserGet_FullMethodName:
		return new(pb.AuthUserGetResponse)
	case pb.Auth_UserList_FullMethodName:
		return new(pb.AuthUserListResponse)
	case pb.Auth_UserDelete_FullMethodName:
		return new(pb.AuthUserDeleteResponse)
	case pb.Auth_UserChangePassword_FullMethodName:
		return new(pb.AuthUserChangePasswordResponse)
	case pb.Auth_UserGrantRole_FullMethodName:
		return new(pb.AuthUserGrantRoleResponse)
	case pb.Auth_UserRevokeRole_FullMethodName:
		return new(pb.AuthUserRevokeRoleResponse)
	case pb.Auth_RoleAdd_FullMethodName:
		return new(pb.AuthRoleAddResponse)
	case pb.Auth_RoleGet_FullMethodName:
		return new(pb.AuthRoleGetResponse)
	case pb.Auth_RoleList_FullMethodName:
		return new(pb.AuthRoleListResponse)
	case pb.Auth_RoleDelete_FullMethodName:
		return new(pb.AuthRoleDeleteResponse)
	case pb.Auth_RoleGrantPermission_FullMethodName:
		return new(pb.AuthRoleGrantPermissionResponse)
	case pb.Auth_RoleRevokePermission_FullMethodName:
		return new(pb.AuthRoleRevokePermissionResponse)
	}
	return nil
}

// reads tells of a unary call that the leader answers whether it changes nothing, and so may be asked again.
func reads(method string) bool {
	switch method {
	case pb.Lease_LeaseTimeToLive_FullMethodName, pb.Lease_LeaseLeases_FullMethodName, pb.Auth_AuthStatus_FullMethodName,
		pb.Auth_UserGet_FullMethodName, pb.Auth_UserList_FullMethodName, pb.Auth_RoleGet_FullMethodName, pb.Auth_RoleList_FullMethodName:
		return true
	}
	return false
}

// answer has a unary call answered by this server or by the leader.
func (s *Server) answer(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (any, error) {
	if s.opts.Lead == nil {
		return handler(ctx, req)
	}
	resp := forwarded(method)
	if txn, ok := req.(*pb.TxnRequest); resp == nil || ok && mvcc.ReadOnly(txn) {
		return handler(ctx, req)
	}
	if s.opts.Cluster.Leader() == 0 {
		if resp, err := s.unled(ctx, req, method, handler); !errors.Is(err, errNotLeading) {
			return resp, err
		}
	}
	var got any
	err := s.byLeader(ctx, func(leader Leader) (err error) {
		if leader == nil {
			got, err = handler(ctx, req)
			return err
		}
		got = resp
		return s.forward(ctx, leader, method, req, resp)
	})
	return got, err
}

// unled answers, where there is no leader, what need not wait for one: changes of the members that this server refuses by what it sees itself.
func (s *Server) unled(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (any, error) {
	switch method {
	case pb.Cluster_MemberAdd_FullMethodName, pb.Cluster_MemberRemove_FullMethodName:
		return handler(ctx, req)
	case pb.Cluster_MemberPromote_FullMethodName:
		patience, cancel := context.WithTimeout(ctx, s.opts.Timeout)
		defer cancel()
		if _, err := s.opts.Lead.Leader(patience); err != nil && ctx.Err() == nil {
			return nil, rpctypes.ErrGRPCNoLeader
		}
	}
	return nil, errNotLeading
}

// Answer answers a request that another server has passed on, as this server's own clients are answered.
func (s *Server) Answer(ctx context.Context, method string, request []byte) Answer {
	m, known := s.methods[method]
	if !known || forwarded(method) == nil {
		return Answer{Err: status.Errorf(codes.Unimplemented, "%s is not forwarded", method)}
	}
	decode := func(to any) error { return proto.Unmarshal(request, to.(proto.Message)) }
	resp, err := m.desc.Handler(m.service, ctx, decode, s.unary)
	if errors.Is(err, rpctypes.ErrGRPCCorrupt) {
		err = s.refusal()
	}
	a := Answer{Position: s.opts.Store.Index().End.Position}
	switch {
	case errors.Is(err, errNotLeading), errors.Is(err, rpctypes.ErrGRPCNoLeader):
		a.NotLeader = true
	case err != nil:
		a.Err = err
	default:
		a.Response, a.Err = proto.Marshal(resp.(proto.Message))
	}
	return a
}

// method is a unary call of a service.
type method struct {
	service any
	desc    *grpc.MethodDesc
}

// methodsOf gives the unary calls of services, by gRPC's full name.
func methodsOf(services map[*grpc.ServiceDesc]any) map[string]method {
	all := map[string]method{}
	for d, service := range services {
		for i := range d.Methods {
			all["/"+d.ServiceName+"/"+d.Methods[i].MethodName] = method{service, &d.Methods[i]}
		}
	}
	return all
}

// byLeader does something at the leader, and again at the next one as long as nothing was done: fn says errNotLeading then. It gives up
// after the time that a request may take.
func (s *Server) byLeader(ctx context.Context, fn func(Leader) error) error {
	patience, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	for {
		leader, err := s.opts.Lead.Leader(patience)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return grpcError(ctx.Err())
		case errors.Is(err, drivers.ErrNoLeader):
			return grpcError(err)
		default:
			return status.FromContextError(context.DeadlineExceeded).Err() // as etcd says it
		}
		if err := fn(leader); !errors.Is(err, errNotLeading) {
			return err
		}
		pause := time.NewTimer(leaderAgain)
		select {
		case <-pause.C:
		case <-patience.Done():
			pause.Stop()
			return rpctypes.ErrGRPCLeaderChanged
		}
	}
}

// forward passes a request on as it is, and waits until this server has applied what came of it: who has been answered here finds it here.
func (s *Server) forward(ctx context.Context, leader Leader, method string, req any, resp proto.Message) error {
	request, err := proto.Marshal(req.(proto.Message))
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	a, err := leader.Answer(ctx, method, request)
	switch {
	case errors.Is(err, ErrNotSent), err == nil && a.NotLeader, errors.Is(err, ErrLost) && reads(method):
		return errNotLeading
	case errors.Is(err, ErrLost):
		return rpctypes.ErrGRPCTimeoutDueToConnectionLost
	case err != nil:
		return grpcError(err)
	case a.Err != nil:
		return a.Err
	}
	if err := proto.Unmarshal(a.Response, resp); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if err := s.await(ctx, a.Position); err != nil {
		return err
	}
	if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		c := s.opts.Cluster
		h.GetHeader().MemberId, h.GetHeader().RaftTerm = c.Member, c.Term()
	}
	return nil
}

// await waits until this server has applied what the leader had.
func (s *Server) await(ctx context.Context, position int64) error {
	patience, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	err := s.opts.Store.Await(patience, position)
	if err != nil && patience.Err() != nil && ctx.Err() == nil {
		return rpctypes.ErrGRPCTimeout // it is done
	}
	return grpcError(err)
}

// renew renews a lease where leases are counted, and gives its TTL, 0 if there is none.
func (s *Server) renew(ctx context.Context, lease int64) (ttl int64, err error) {
	if s.opts.Lead == nil {
		return s.renewHere(ctx, lease)
	}
	err = s.byLeader(ctx, func(leader Leader) error {
		if leader == nil {
			ttl, err = s.renewHere(ctx, lease)
			return err
		}
		var position int64
		if ttl, position, err = leader.Renew(ctx, lease); err != nil {
			// A renewal may be done twice.
			if status.Code(err) == codes.Unavailable {
				return errNotLeading
			}
			return grpcError(err)
		}
		return s.await(ctx, position)
	})
	return ttl, err
}

// renewHere renews a lease that this server counts.
func (s *Server) renewHere(ctx context.Context, lease int64) (ttl int64, err error) {
	ttl, err = s.opts.Lessor.Renew(ctx, lease)
	if errors.Is(err, mvcc.ErrLeaseNotFound) {
		return 0, nil
	}
	return ttl, grpcError(err)
}
