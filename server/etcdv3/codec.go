package etcdv3

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec for everything not encoded already
	"google.golang.org/grpc/mem"
)

// codec is gRPC's protobuf codec, but that it passes encoded messages on as they are.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*encoded); ok {
		return m.pieces, nil
	}
	return c.CodecV2.Marshal(v)
}
