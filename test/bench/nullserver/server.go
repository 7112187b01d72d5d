package nullserver

import (
	"context"
	"errors"
	"net"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/status"
)

// maxMessage is the largest message, as large as gRPC can have it.
const maxMessage = 1<<31 - 1

// Run serves on l until ctx ends.
func Run(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{base: encoding.GetCodecV2(proto.Name)}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(1<<31-1),
	)
	st := newStore()
	pb.RegisterKVServer(s, &kvServer{store: st})
	pb.RegisterWatchServer(s, &watchServer{store: st})
	pb.RegisterLeaseServer(s, &leaseServer{store: st})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

type kvServer struct {
	pb.UnimplementedKVServer
	store *store
}

// Range knows one key, and a range with a limit, keys_only and count_only, always at the latest revision.
func (s *kvServer) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return s.store.read(r), nil
}

// Put knows key and value.
func (s *kvServer) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return &pb.PutResponse{Header: header(s.store.put(r))}, nil
}

// Txn knows the transactions of kube-apiserver: one compare of a mod_revision, one put when it holds, at most one range
// when it does not.
func (s *kvServer) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if len(r.Compare) != 1 || r.Compare[0].Target != pb.Compare_MOD || r.Compare[0].Result != pb.Compare_EQUAL ||
		len(r.Success) != 1 || r.Success[0].GetRequestPut() == nil || len(r.Failure) > 1 {
		return nil, status.Error(codes.Unimplemented, "nullserver: a transaction of another shape than kube-apiserver's")
	}
	rev, ok := s.store.putIf(string(r.Compare[0].Key), r.Compare[0].GetModRevision(), r.Success[0].GetRequestPut())
	resp := &pb.TxnResponse{Header: header(rev), Succeeded: ok}
	if ok {
		put := &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: header(rev)}}
		resp.Responses = []*pb.ResponseOp{{Response: put}}
	} else if len(r.Failure) == 1 && r.Failure[0].GetRequestRange() != nil {
		read := s.store.read(r.Failure[0].GetRequestRange())
		resp.Responses = []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponseRange{ResponseRange: read}}}
	}
	return resp, nil
}

type leaseServer struct {
	pb.UnimplementedLeaseServer
	store *store
}

// LeaseGrant gives the id that was asked for, or the current revision, and forgets it.
func (s *leaseServer) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	rev := s.store.revision()
	id := r.ID
	if id == 0 {
		id = rev
	}
	return &pb.LeaseGrantResponse{Header: header(rev), ID: id, TTL: r.TTL}, nil
}

func header(rev int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 1, Revision: rev, RaftTerm: 1}
}
