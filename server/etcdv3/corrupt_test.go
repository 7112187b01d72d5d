package etcdv3

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// TestCorruptAnswersNoKeys: while a CORRUPT alarm names it a server answers nothing about keys, and everything else.
func TestCorruptAnswersNoKeys(t *testing.T) {
	s := newFake(t, 3).server(true).Server
	corrupted := make(chan struct{})
	s.opts.Observe, s.opts.Corrupted, s.opts.SlowRequest, s.opts.Logger = nobody{}, func() <-chan struct{} { return corrupted }, time.Hour, slog.New(slog.DiscardHandler)
	done := errors.New("done")
	ask := func(method string, streams bool) error {
		if streams {
			return s.stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { return done })
		}
		_, err := s.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) { return nil, done })
		return err
	}
	refused := func(service, method string) bool {
		return service == "KV" || service == "Watch" || method == "LeaseGrant" || method == "LeaseRevoke"
	}
	all := func(alarm bool) {
		for _, d := range []grpc.ServiceDesc{pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc} {
			check := func(method string, streams bool) {
				want := done
				if alarm && refused(strings.TrimPrefix(d.ServiceName, "etcdserverpb."), method) {
					want = rpctypes.ErrGRPCCorrupt
				}
				if err := ask("/"+d.ServiceName+"/"+method, streams); !errors.Is(err, want) {
					t.Errorf("%s/%s, alarm %v: %v", d.ServiceName, method, alarm, err)
				}
			}
			for _, m := range d.Methods {
				check(m.MethodName, false)
			}
			for _, m := range d.Streams {
				check(m.StreamName, true)
			}
		}
	}
	all(false)
	err := s.stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: pb.Watch_Watch_FullMethodName}, func(_ any, ss grpc.ServerStream) error {
		close(corrupted)
		<-ss.Context().Done()
		return ss.Context().Err()
	})
	if !errors.Is(err, rpctypes.ErrGRPCCorrupt) {
		t.Errorf("a watch that was open: %v", err)
	}
	all(true)
	corrupted = make(chan struct{})
	all(false)
}
