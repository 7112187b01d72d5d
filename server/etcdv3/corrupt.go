package etcdv3

import (
	"context"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// aboutKeys tells whether a method is one that a server with other data than the others must not answer: what etcd's applier refuses under a
// CORRUPT alarm, and beside that all reads and watches, which etcd goes on with.
func aboutKeys(method string) bool {
	switch method {
	case pb.Lease_LeaseGrant_FullMethodName, pb.Lease_LeaseRevoke_FullMethodName, pb.Watch_Watch_FullMethodName:
		return true
	}
	return strings.HasPrefix(method, "/"+pb.KV_ServiceDesc.ServiceName+"/")
}

// corrupted tells whether a CORRUPT alarm names this server.
func (s *Server) corrupted() bool {
	if s.opts.Corrupted == nil {
		return false
	}
	select {
	case <-s.opts.Corrupted():
		return true
	default:
		return false
	}
}

// soundly has a unary call answered, unless a CORRUPT alarm is in the way. Another server that takes this one for the leader is told to ask the
// next one, if there is to be one.
func (s *Server) soundly(ctx context.Context, req any, method string, handler grpc.UnaryHandler) (any, error) {
	if !aboutKeys(method) || !s.corrupted() {
		resp, err := s.answer(ctx, req, method, handler)
		if err == nil {
			s.withOwn(ctx, req, resp)
		}
		return resp, err
	}
	if s.opts.ForMembers {
		return nil, s.refusal()
	}
	return nil, rpctypes.ErrGRPCCorrupt
}

// refusal is what a corrupt server says to another one.
func (s *Server) refusal() error {
	if s.opts.Store.Index().Corrupt(0) {
		return rpctypes.ErrGRPCCorrupt
	}
	return errNotLeading
}

// whileSound serves a stream until a CORRUPT alarm names this server, if it is about keys.
func (s *Server) whileSound(method string, serve serveStream) serveStream {
	if s.opts.Corrupted == nil || !aboutKeys(method) {
		return serve
	}
	if s.corrupted() {
		return func(grpc.ServerStream) error { return rpctypes.ErrGRPCCorrupt }
	}
	return serve.until(s.opts.Corrupted(), rpctypes.ErrGRPCCorrupt)
}
