package etcdv3

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

type kvServer struct {
	*Server
	pb.UnsafeKVServer
}

// Range is served by rangeEncoded: see kvService.
func (s *kvServer) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return nil, status.Error(codes.Unimplemented, "etcdv3: Range answers in encoded form")
}

// rangeEncoded answers a RangeRequest and encodes the answer at once, without a
// message for each key in between.
func (s *kvServer) rangeEncoded(ctx context.Context, r *pb.RangeRequest) (*encoded, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	sel, values, err := s.opts.Store.Range(ctx, r)
	if err != nil {
		return nil, grpcError(err)
	}
	return s.encodeRange(sel, values), nil
}

func (s *kvServer) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	err := s.opts.Store.RangeStream(stream.Context(), r, s.opts.MaxRequestBytes, func(chunk *pb.RangeResponse) error {
		if chunk.Header != nil {
			s.fill(chunk.Header)
		}
		return stream.Send(&pb.RangeStreamResponse{RangeResponse: chunk})
	})
	return grpcError(err)
}

func (s *kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := s.checkQuota(ctx, r); err != nil {
		return nil, err
	}
	if err := checkPut(r); err != nil {
		return nil, err
	}
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	put := resp.(*pb.PutResponse)
	s.fill(put.Header)
	return put, nil
}

func (s *kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	del := resp.(*pb.DeleteRangeResponse)
	s.fill(del.Header)
	return del, nil
}

func (s *kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := s.checkQuota(ctx, r); err != nil {
		return nil, err
	}
	if err := checkTxn(r, s.opts.MaxTxnOps); err != nil {
		return nil, err
	}
	if err := checkCollisions(r); err != nil {
		return nil, err
	}
	resp, err := s.txn(ctx, r)
	if err != nil {
		return nil, err
	}
	s.fill(resp.Header)
	return resp, nil
}

func (s *kvServer) txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if mvcc.ReadOnly(r) {
		resp, err := s.opts.Store.ReadTxn(ctx, r)
		return resp, grpcError(err)
	}
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	return resp.(*pb.TxnResponse), nil
}

func (s *kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	resp, err := s.commit(ctx, r)
	if err != nil {
		return nil, err
	}
	s.opts.Compactor.Compacted()
	if r.Physical {
		if err := s.opts.Compactor.Finish(ctx); err != nil {
			return nil, grpcError(err)
		}
	}
	compacted := resp.(*pb.CompactionResponse)
	s.fill(compacted.Header)
	return compacted, nil
}
