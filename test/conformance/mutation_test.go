package conformance

import (
	"context"
	"slices"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/differ"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// faults are servers that are a little wrong: each spoils real etcd's answers
// on their way to the client.
func faults() map[string]grpc.DialOption {
	return map[string]grpc.DialOption{
		"count is one too high": unary(func(m any, err error) error {
			if r, ok := m.(*pb.RangeResponse); ok && r.Count > 2 {
				r.Count++
			}
			return err
		}),
		"more is missing": unary(func(m any, err error) error {
			if r, ok := m.(*pb.RangeResponse); ok {
				r.More = false
			}
			return err
		}),
		"another code": unary(func(_ any, err error) error {
			if status.Code(err) == codes.OutOfRange {
				return status.Error(codes.FailedPrecondition, status.Convert(err).Message())
			}
			return err
		}),
		"another text": unary(func(_ any, err error) error {
			if status.Code(err) == codes.OutOfRange {
				return status.Error(codes.OutOfRange, "compacted")
			}
			return err
		}),
		"a header without a member": unary(func(m any, err error) error {
			if r, ok := m.(*pb.DeleteRangeResponse); ok && r.Header != nil {
				r.Header.MemberId = 0
			}
			return err
		}),
		"an inner header with a member": unary(func(m any, err error) error {
			r, ok := m.(*pb.TxnResponse)
			for i := 0; ok && i < len(r.Responses); i++ {
				if put := r.Responses[i].GetResponsePut(); put != nil {
					put.Header.MemberId = r.Header.MemberId
				}
			}
			return err
		}),
		"prev_kv without its lease": unary(func(m any, err error) error {
			if r, ok := m.(*pb.PutResponse); ok && r.PrevKv != nil {
				r.PrevKv.Lease = 0
			}
			return err
		}),
		"a hash of something else": unary(func(m any, err error) error {
			if r, ok := m.(*pb.HashKVResponse); ok && r.CompactRevision > 0 {
				r.Hash ^= 1
			}
			return err
		}),
		"permissions in another order": unary(func(m any, err error) error {
			if r, ok := m.(*pb.AuthRoleGetResponse); ok {
				slices.Reverse(r.Perm)
			}
			return err
		}),
		"an auth revision of its own": unary(func(m any, err error) error {
			if r, ok := m.(*pb.AuthStatusResponse); ok && r.AuthRevision > 5 {
				r.AuthRevision--
			}
			return err
		}),
		"a lease that lives shorter": unary(func(m any, err error) error {
			if r, ok := m.(*pb.LeaseTimeToLiveResponse); ok && r.TTL > 60 {
				r.TTL -= 30
			}
			return err
		}),
		"a deletion too little": events(func(r *pb.WatchResponse) {
			if n := len(r.Events); n > 1 && r.Events[n-1].Type == 1 {
				r.Events = r.Events[:n-1]
			}
		}),
		"an event twice": events(func(r *pb.WatchResponse) {
			if n := len(r.Events); n > 0 && r.Events[n-1].Kv.ModRevision%7 == 0 {
				r.Events = append(r.Events, r.Events[n-1])
			}
		}),
		"events in another order": events(func(r *pb.WatchResponse) {
			if n := len(r.Events); n > 1 {
				r.Events[0], r.Events[n-1] = r.Events[n-1], r.Events[0]
			}
		}),
		"prev_kv is missing in an event": events(func(r *pb.WatchResponse) {
			for _, e := range r.Events {
				if e.Type == 1 {
					e.PrevKv = nil
				}
			}
		}),
		"a compact revision of another": events(func(r *pb.WatchResponse) {
			if r.CompactRevision > 0 {
				r.CompactRevision++
			}
		}),
		"progress ahead of its time": events(func(r *pb.WatchResponse) {
			if r.WatchId == -1 && !r.Created {
				r.Header.Revision++
			}
		}),
		"a range stream without its last chunk": grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc,
			cc *grpc.ClientConn, method string, s grpc.Streamer, opts ...grpc.CallOption,
		) (grpc.ClientStream, error) {
			stream, err := s(ctx, d, cc, method, opts...)
			return &spoiled{stream, func(m any) {
				if r, ok := m.(*pb.RangeStreamResponse); ok && len(r.RangeResponse.Kvs) > 2 {
					r.RangeResponse.Header = nil
				}
			}}, err
		}),
	}
}

// unary spoils the answers to unary requests.
func unary(spoil func(m any, err error) error) grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any,
		cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
	) error {
		return spoil(reply, invoke(ctx, method, req, reply, cc, opts...))
	})
}

// events spoils watch responses.
func events(spoil func(*pb.WatchResponse)) grpc.DialOption {
	return grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc,
		cc *grpc.ClientConn, method string, s grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		stream, err := s(ctx, d, cc, method, opts...)
		return &spoiled{stream, func(m any) {
			if r, ok := m.(*pb.WatchResponse); ok {
				spoil(r)
			}
		}}, err
	})
}

type spoiled struct {
	grpc.ClientStream
	spoil func(m any)
}

func (s *spoiled) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.spoil(m)
	}
	return err
}

// TestDifferencesAreFound proves that the comparison sees what is wrong: every
// fault is found within a few random scripts.
func TestDifferencesAreFound(t *testing.T) {
	for name, fault := range faults() {
		t.Run(name, func(t *testing.T) {
			pair := differ.Pair{Etcd: freshServers(t, "etcd"), Tested: freshServers(t, "etcd", fault)}
			_, r := firstDifference(t, pair)
			t.Logf("step %d: %s", r.Step, r.Commands[r.At])
		})
	}
}

// TestDifferenceIsShrunk proves that what is left of a script is little and
// still shows the difference.
func TestDifferenceIsShrunk(t *testing.T) {
	pair := differ.Pair{Etcd: freshServers(t, "etcd"), Tested: freshServers(t, "etcd", faults()["more is missing"])}
	steps, r := firstDifference(t, pair)
	short, err := pair.Shrink(t.Context(), steps, r, shrinkTries)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", short.Script())
	if short.At < 0 || len(short.Commands) > 6 {
		t.Errorf("the difference is at %d of %d commands", short.At, len(short.Commands))
	}
}

// firstDifference plays a few random scripts, always the same, until one shows a difference.
func firstDifference(t *testing.T, pair differ.Pair) ([]differ.Step, *differ.Result) {
	const scripts = 12
	for seed := range uint64(scripts) {
		steps := differ.Generate(seed, 300)
		r, err := pair.Compare(t.Context(), steps)
		if err != nil {
			t.Fatal(err)
		}
		if r.At >= 0 {
			return steps, r
		}
	}
	t.Fatalf("no difference was found in %d scripts", scripts)
	return nil, nil
}
