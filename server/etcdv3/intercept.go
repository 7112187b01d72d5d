package etcdv3

import (
	"context"
	"errors"
	"log/slog"
	"time"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// clientVersion gives what the client says of its version, for metrics.
func clientVersion(ctx context.Context) (string, error) {
	vs := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey)
	if len(vs) == 0 {
		return "unknown", nil
	}
	if !utf8.ValidString(vs[0]) {
		return "", rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	return vs[0], nil
}

// learnerMay tells whether a learner answers a unary call: a read from what it has itself, or how it is.
func learnerMay(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest:
		return true
	case *pb.RangeRequest:
		return r.Serializable
	}
	return false
}

func (s *Server) learner() bool { return s.opts.Learner != nil && s.opts.Learner() }

// wantsLeader tells whether the client would rather be refused than answered by a server without a leader.
func (s *Server) wantsLeader(ctx context.Context) bool {
	vs := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	return s.opts.Members != nil && len(vs) > 0 && vs[0] == rpctypes.MetadataHasLeader
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	if s.learner() && !learnerMay(req) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	version, err := clientVersion(ctx)
	if err != nil {
		return nil, err
	}
	s.opts.Observe.Started("unary", info.FullMethod, version)
	if s.wantsLeader(ctx) && s.opts.Cluster.Leader() == 0 {
		s.opts.Observe.Handled("unary", info.FullMethod, rpctypes.ErrGRPCNoLeader, time.Since(start))
		return nil, rpctypes.ErrGRPCNoLeader
	}
	resp, err := s.soundly(ctx, req, info.FullMethod, handler)
	took := time.Since(start)
	s.opts.Observe.Handled("unary", info.FullMethod, err, took)
	if took > s.opts.SlowRequest || s.opts.Logger.Enabled(ctx, slog.LevelDebug) {
		s.logRequest(ctx, info.FullMethod, req, resp, err, took)
	}
	return resp, err
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	if s.learner() && info.FullMethod != pb.Maintenance_Snapshot_FullMethodName {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	version, err := clientVersion(ss.Context())
	if err != nil {
		return err
	}
	s.opts.Observe.Started("stream", info.FullMethod, version)
	serve := func(ss grpc.ServerStream) error { return handler(srv, ss) }
	if s.wantsLeader(ss.Context()) {
		serve = s.whileLed(serve)
	}
	err = s.whileSound(info.FullMethod, serve)(ss)
	s.opts.Observe.Handled("stream", info.FullMethod, err, time.Since(start))
	return err
}

// serveStream serves a stream until it ends.
type serveStream func(grpc.ServerStream) error

// endingStream is a stream whose context ends before it does.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }

// until serves a stream until it ends, or ended is closed: then it ends with an error.
func (serve serveStream) until(ended <-chan struct{}, why error) serveStream {
	return func(ss grpc.ServerStream) error {
		ctx, cancel := context.WithCancelCause(ss.Context())
		defer cancel(nil)
		go func() {
			select {
			case <-ended:
				cancel(why)
			case <-ctx.Done():
			}
		}()
		err := serve(endingStream{ss, ctx})
		if errors.Is(context.Cause(ctx), why) {
			return why
		}
		return err
	}
}

// whileLed serves a stream until the cluster has been without a leader for too long.
func (s *Server) whileLed(serve serveStream) serveStream {
	if s.opts.Cluster.Leader() == 0 {
		return func(grpc.ServerStream) error { return rpctypes.ErrGRPCNoLeader }
	}
	if s.opts.LeaderLost == nil {
		return serve
	}
	return serve.until(s.opts.LeaderLost(), rpctypes.ErrGRPCNoLeader)
}

// logRequest logs a request by what it asks for: keys and sizes, never a value.
func (s *Server) logRequest(ctx context.Context, method string, req, resp any, err error, took time.Duration) {
	level, text := slog.LevelDebug, "request"
	if took > s.opts.SlowRequest {
		level, text = slog.LevelWarn, "slow request"
	}
	attrs := []slog.Attr{slog.String("method", method), slog.Duration("took", took)}
	if p, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("remote", p.Addr.String()))
	}
	attrs = append(attrs, describe(req)...)
	switch m := resp.(type) {
	case *encoded:
		if err == nil {
			attrs = append(attrs, slog.Int("response_bytes", m.size))
		}
	case proto.Message:
		if err == nil {
			attrs = append(attrs, slog.Int("response_bytes", proto.Size(m)))
		}
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	s.opts.Logger.LogAttrs(ctx, level, text, attrs...)
}

func describe(req any) []slog.Attr {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return []slog.Attr{
			slog.String("key", string(r.Key)), slog.String("range_end", string(r.RangeEnd)),
			slog.Int64("revision", r.Revision), slog.Int64("limit", r.Limit),
			slog.Bool("keys_only", r.KeysOnly), slog.Bool("count_only", r.CountOnly),
		}
	case *pb.PutRequest:
		return []slog.Attr{
			slog.String("key", string(r.Key)), slog.Int("value_bytes", len(r.Value)), slog.Int64("lease", r.Lease),
		}
	case *pb.DeleteRangeRequest:
		return []slog.Attr{slog.String("key", string(r.Key)), slog.String("range_end", string(r.RangeEnd))}
	case *pb.TxnRequest:
		return []slog.Attr{
			slog.String("key", firstKey(r)), slog.Int("compares", len(r.Compare)),
			slog.Int("success", len(r.Success)), slog.Int("failure", len(r.Failure)), slog.Int("bytes", proto.Size(r)),
		}
	case *pb.CompactionRequest:
		return []slog.Attr{slog.Int64("revision", r.Revision), slog.Bool("physical", r.Physical)}
	case *pb.AuthRoleGrantPermissionRequest:
		return []slog.Attr{
			slog.String("name", r.Name), slog.String("key", string(r.Perm.GetKey())), slog.String("range_end", string(r.Perm.GetRangeEnd())),
		}
	case interface{ GetName() string }: // the others of Auth: whom they are about
		return []slog.Attr{slog.String("name", r.GetName())}
	}
	return nil
}

// firstKey is a key that tells a transaction from others.
func firstKey(r *pb.TxnRequest) string {
	if len(r.Compare) > 0 {
		return string(r.Compare[0].Key)
	}
	for _, side := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range side {
			switch {
			case op.GetRequestRange() != nil:
				return string(op.GetRequestRange().Key)
			case op.GetRequestPut() != nil:
				return string(op.GetRequestPut().Key)
			case op.GetRequestDeleteRange() != nil:
				return string(op.GetRequestDeleteRange().Key)
			}
		}
	}
	return ""
}
