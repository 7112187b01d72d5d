package nullserver

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"
)

// pieces is a message put together from parts that are encoded already. The parts are shared and never changed.
type pieces [][]byte

// codec is gRPC's own for protobuf messages, and takes pieces as they are.
type codec struct{ base encoding.CodecV2 }

func (c codec) Name() string { return c.base.Name() }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	p, ok := v.(pieces)
	if !ok {
		return c.base.Marshal(v)
	}
	out := make(mem.BufferSlice, len(p))
	for i, part := range p {
		out[i] = mem.SliceBuffer(part)
	}
	return out, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	return c.base.Unmarshal(data, v)
}

// field encodes m as the embedded message of field number num.
func field(num protowire.Number, m protobuf.Message) []byte {
	size := protobuf.Size(m)
	b := make([]byte, 0, size+12)
	b = protowire.AppendTag(b, num, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b, err := protobuf.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		panic(fmt.Sprintf("nullserver: a message of its own cannot be encoded: %v", err))
	}
	return b
}
