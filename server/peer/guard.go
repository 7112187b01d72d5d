package peer

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// GuardOptions say whose calls are let in.
type GuardOptions struct {
	// Cluster and Self are this member's ids.
	Cluster, Self uint64
	// Origin is what this member's cluster began with; 0: an empty log.
	Origin uint64
	// Removed says of a member whether it was removed from the cluster. It is asked at every call and for every
	// message, concurrently. A member that is not known here is not a removed one: it may have been added lately.
	Removed func(id uint64) bool
	// Begun says of a member whether it has had entries of the Raft log. It is asked at the calls of one that says that it has not. Optional.
	Begun func(id uint64) bool
	// Count gives who counts what passes between this member and another one. Optional.
	Count func(id uint64) Counter
	// Seen is told when a member begins to send Raft messages, so it can be reached: see Network.Retry. It must
	// not wait. Optional.
	Seen func(id uint64)
}

// Guard lets members of the cluster call this one, and others find out who its members are. Its interceptors are for
// every service of the peer port.
type Guard struct{ o GuardOptions }

// NewGuard returns a Guard. It holds no resources.
func NewGuard(o GuardOptions) *Guard { return &Guard{o: o} }

// Unary is a grpc.UnaryServerInterceptor.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	c, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(context.WithValue(ctx, callerKey{}, c), req)
}

// Stream is a grpc.StreamServerInterceptor. A stream of a member ends when it is removed and sends something.
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	c, err := g.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if g.o.Seen != nil && info.FullMethod == peerpb.Peer_Messages_FullMethodName {
		g.o.Seen(c.from)
	}
	return next(srv, &guarded{ServerStream: ss, guard: g, from: c.from, ctx: context.WithValue(ss.Context(), callerKey{}, c)})
}

func (g *Guard) admit(ctx context.Context, method string) (caller, error) {
	c, says, err := readCaller(ctx)
	switch {
	case err != nil:
		return c, err
	case !says && method == pb.Cluster_MemberList_FullMethodName:
		// It may be one that is to join.
		return c, grpc.SetHeader(ctx, metadata.Pairs(keyOrigin, hex(g.o.Origin)))
	case !says:
		return c, status.Errorf(codes.FailedPrecondition, "only members of the cluster may call %s here", method)
	case c.cluster != g.o.Cluster:
		return c, refuse(peerpb.Refusal_CLUSTER, "request cluster ID mismatch: got %x, want %x", c.cluster, g.o.Cluster)
	case c.to != g.o.Self:
		return c, refuse(peerpb.Refusal_MEMBER, "request member ID mismatch: got %x, want %x", c.to, g.o.Self)
	case c.from == 0 || c.from == g.o.Self:
		return c, status.Errorf(codes.FailedPrecondition, "a request from the member %x to %x", c.from, c.to)
	}
	if err := g.current(c.from); err != nil {
		return c, err
	}
	if c.origin != g.o.Origin {
		return c, refuse(peerpb.Refusal_ORIGIN, "request origin mismatch: got %x, want %x", c.origin, g.o.Origin)
	}
	if c.unbegun && g.o.Begun != nil && g.o.Begun(c.from) {
		return c, refuse(peerpb.Refusal_BEGUN, "%x has been here before", c.from)
	}
	g.count(ctx, c.from)
	return c, nil
}

// current refuses a member that was removed.
func (g *Guard) current(from uint64) error {
	if from != 0 && g.o.Removed != nil && g.o.Removed(from) {
		return refuse(peerpb.Refusal_REMOVED, "%v: %x", ErrRemoved, from)
	}
	return nil
}

// guarded is a stream that looks at its caller again whenever it receives.
type guarded struct {
	grpc.ServerStream
	guard *Guard
	from  uint64
	ctx   context.Context
}

func (s *guarded) Context() context.Context { return s.ctx }

func (s *guarded) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.guard.current(s.from)
}
