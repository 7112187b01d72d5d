package history

import (
	"maps"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func cloneState(s State) State { return maps.Clone(s) }

func headerField(m proto.Message) protoreflect.FieldDescriptor {
	return m.ProtoReflect().Descriptor().Fields().ByName("header")
}

func headerValue(rev int64) protoreflect.Value {
	return protoreflect.ValueOfMessage((&pb.ResponseHeader{Revision: rev}).ProtoReflect())
}
