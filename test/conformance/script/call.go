package script

import (
	"context"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// call sends any unary request of the API, its fields given by name.
func (p *Player) call(ctx context.Context, w *words, _ []string) (string, error) {
	service, method, _ := strings.Cut(w.next("method"), ".")
	if w.err != nil {
		return "", w.err
	}
	sd := pb.File_rpc_proto.Services().ByName(protoreflect.Name(service))
	if sd == nil {
		return "", syntaxErrorf("service %q", service)
	}
	md := sd.Methods().ByName(protoreflect.Name(method))
	if md == nil || md.IsStreamingServer() || md.IsStreamingClient() {
		return "", syntaxErrorf("unary method %q of %s", method, service)
	}
	request, err := newMessage(md.Input())
	if err != nil {
		return "", err
	}
	for name, value := range w.named {
		if err := w.set(request.ProtoReflect(), name, value); err != nil {
			return "", err
		}
		delete(w.named, name)
	}
	if err := w.done(); err != nil {
		return "", err
	}
	response, err := newMessage(md.Output())
	if err != nil {
		return "", err
	}
	err = p.server.Conn().Invoke(ctx, "/"+string(sd.FullName())+"/"+method, request, response)
	return p.answer(response, err), nil
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, syntaxErrorf("message %s: %v", d.FullName(), err)
	}
	return t.New().Interface(), nil
}

// set sets a field, found by its path.
func (w *words) set(m protoreflect.Message, path, text string) error {
	name, inner, nested := strings.Cut(path, ".")
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if fd == nil {
		return syntaxErrorf("field %q of %s", name, m.Descriptor().FullName())
	}
	if nested {
		return w.set(m.Mutable(fd).Message(), inner, text)
	}
	if fd.IsList() {
		list := m.Mutable(fd).List()
		for part := range strings.SplitSeq(text, ",") {
			v, err := w.value(fd, part)
			if err != nil {
				return err
			}
			list.Append(v)
		}
		return nil
	}
	v, err := w.value(fd, text)
	if err != nil {
		return err
	}
	m.Set(fd, v)
	return nil
}

func (w *words) value(fd protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch fd.Kind() {
	case protoreflect.BytesKind:
		b, err := literal(text)
		return protoreflect.ValueOfBytes(b), err
	case protoreflect.StringKind:
		b, err := literal(text)
		return protoreflect.ValueOfString(string(b)), err
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(text == "true"), nil
	case protoreflect.EnumKind:
		if e := fd.Enum().Values().ByName(protoreflect.Name(strings.ToUpper(text))); e != nil {
			return protoreflect.ValueOfEnum(e.Number()), nil
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return protoreflect.Value{}, syntaxErrorf("enum value %q", text)
		}
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)), nil
	case protoreflect.Uint64Kind:
		if text == "self" {
			return protoreflect.ValueOfUint64(w.player.memberID), nil
		}
		n, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			return protoreflect.Value{}, syntaxErrorf("number %q", text)
		}
		return protoreflect.ValueOfUint64(n), nil
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(w.parse(text)), w.err
	}
	return protoreflect.Value{}, syntaxErrorf("kind %s", fd.Kind())
}
