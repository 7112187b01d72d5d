package etcdv3

import (
	"context"
	"encoding/binary"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// kvService is etcd's KV service, but that Range answers with an encoded message.
func kvService() *grpc.ServiceDesc {
	desc := pb.KV_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i := range desc.Methods {
		if desc.Methods[i].MethodName == "Range" {
			desc.Methods[i].Handler = handleRange
		}
	}
	return &desc
}

func handleRange(srv any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	r := new(pb.RangeRequest)
	if err := dec(r); err != nil {
		return nil, err
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: pb.KV_Range_FullMethodName}
	return intercept(ctx, r, info, func(ctx context.Context, req any) (any, error) {
		return srv.(*kvServer).rangeEncoded(ctx, req.(*pb.RangeRequest))
	})
}

// Fields of etcdserverpb.RangeResponse and ResponseHeader, wire types included.
const (
	tagHeader = 1<<3 | 2
	tagMore   = 3<<3 | 0
	tagCount  = 4<<3 | 0

	tagClusterID = 1<<3 | 0
	tagMemberID  = 2<<3 | 0
	tagRevision  = 3<<3 | 0
	tagRaftTerm  = 4<<3 | 0
)

// chunkSize is the size of the pooled buffers that long answers are encoded into.
const chunkSize = 256 << 10

// encodeRange encodes a RangeResponse.
func (s *Server) encodeRange(sel *mvcc.Selection, values [][]byte) *encoded {
	m := new(encoded)
	buf := s.appendHeader(m.buffer(64+sel.Size(chunkSize)), sel.Rev)
	for next, need := 0, 0; ; {
		if buf, next, need = sel.Append(buf, next, values); need == 0 {
			break
		}
		m.take(buf)
		buf = m.buffer(max(need, chunkSize))
	}
	buf = appendBool(buf, tagMore, sel.More)
	buf = appendUint(buf, tagCount, uint64(sel.Count))
	m.take(buf)
	return m
}

// appendHeader appends a ResponseHeader as the first field of a response.
func (s *Server) appendHeader(b []byte, rev int64) []byte {
	c := s.opts.Cluster
	var header [48]byte
	h := appendUint(header[:0], tagClusterID, c.ID)
	h = appendUint(h, tagMemberID, c.Member)
	h = appendUint(h, tagRevision, uint64(rev))
	h = appendUint(h, tagRaftTerm, c.Term())
	b = append(b, tagHeader, byte(len(h))) // four varints are below 128 bytes
	return append(b, h...)
}

func appendUint(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, tag), v)
}

func appendBool(b []byte, tag byte, v bool) []byte {
	if !v {
		return b
	}
	return append(b, tag, 1)
}

// encoded is a message that is encoded already, in pieces. Pieces may be shared
// with other messages and are not changed.
type encoded struct {
	pieces mem.BufferSlice
	size   int
}

// add appends a piece that is shared.
func (m *encoded) add(piece []byte) {
	m.pieces = append(m.pieces, mem.SliceBuffer(piece))
	m.size += len(piece)
}

// buffer gives an empty buffer of at least this capacity, to be handed back by take.
func (m *encoded) buffer(size int) []byte {
	return (*mem.DefaultBufferPool().Get(size))[:0]
}

// take appends a filled buffer, which gRPC returns to its pool when it has been sent.
func (m *encoded) take(buf []byte) {
	m.pieces = append(m.pieces, mem.NewBuffer(&buf, mem.DefaultBufferPool()))
	m.size += len(buf)
}
