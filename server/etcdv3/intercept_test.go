package etcdv3

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// theKey stands in the fields that may be logged. Everything else that is text or bytes is taken for a secret.
const theKey = "the-key"

// loggable are keys, and the names of users and roles.
func loggable(f protoreflect.FieldDescriptor) bool {
	return slices.Contains([]protoreflect.Name{"key", "range_end", "name", "user", "role"}, f.Name())
}

// marker fills messages with secrets that can be told from anything else.
type marker struct {
	*rand.Rand
	t     *testing.T
	marks []string
}

func (m *marker) mark() string {
	b := make([]byte, 24)
	for i := range b {
		b[i] = "bcdfghjklmnpqrstvwxzBCDFGHJKLMNPQRSTVWXZ"[m.IntN(40)]
	}
	m.marks = append(m.marks, string(b))
	return string(b)
}

// messages makes messages of a type with every field set: as many as are needed for every case of every oneof.
func (m *marker) messages(d protoreflect.MessageDescriptor, depth int) (all []protoreflect.Message) {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		m.t.Fatal(err)
	}
	cases := 1
	for i := range d.Oneofs().Len() {
		cases = max(cases, d.Oneofs().Get(i).Fields().Len())
	}
	for n := range cases {
		msg := typ.New()
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if o := f.ContainingOneof(); o == nil || o.Fields().Get(n%o.Fields().Len()) == f {
				m.set(msg, f, depth)
			}
		}
		all = append(all, msg)
	}
	return all
}

func (m *marker) set(msg protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	switch {
	case f.IsMap():
		m.t.Fatalf("%s is a map: fill it", f.FullName())
	case f.Kind() == protoreflect.MessageKind && depth == 0:
	case f.Kind() == protoreflect.MessageKind && f.IsList():
		list := msg.Mutable(f).List()
		for _, e := range m.messages(f.Message(), depth-1) {
			list.Append(protoreflect.ValueOfMessage(e))
		}
	case f.Kind() == protoreflect.MessageKind:
		e := m.messages(f.Message(), depth-1)
		msg.Set(f, protoreflect.ValueOfMessage(e[m.IntN(len(e))]))
	case f.IsList():
		list := msg.Mutable(f).List()
		list.Append(m.scalar(f))
	default:
		msg.Set(f, m.scalar(f))
	}
}

func (m *marker) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BytesKind:
		if loggable(f) {
			return protoreflect.ValueOfBytes([]byte(theKey))
		}
		return protoreflect.ValueOfBytes([]byte(m.mark()))
	case protoreflect.StringKind:
		if loggable(f) {
			return protoreflect.ValueOfString(theKey)
		}
		return protoreflect.ValueOfString(m.mark())
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	}
	m.t.Fatalf("%s is of kind %s: fill it", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

// leaks gives the secrets that a text tells, in one of the ways in which loggers write bytes.
func (m *marker) leaks(text string) (found []string) {
	for _, mark := range m.marks {
		b := []byte(mark)
		for _, form := range []string{
			mark, hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), base64.StdEncoding.EncodeToString(b),
			strings.Trim(fmt.Sprint(b), "[]"), strings.ReplaceAll(strings.Trim(fmt.Sprint(b), "[]"), " ", ","),
		} {
			if strings.Contains(text, form) {
				found = append(found, mark)
			}
		}
	}
	return found
}

// TestLogTellsNoValues: whatever is asked, by whatever method, with whatever outcome and at whatever level of logging, nothing
// but keys comes into the log. Values, passwords and tokens, of requests and of responses, do not.
func TestLogTellsNoValues(t *testing.T) {
	secrets := map[string]int{} // in the requests
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			method := methods.Get(j)
			m := &marker{Rand: rand.New(rand.NewPCG(uint64(i), uint64(j))), t: t}
			resp := m.messages(method.Output(), 4)[0].Interface()
			for _, req := range m.messages(method.Input(), 4) {
				name := fmt.Sprintf("/%s/%s", services.Get(i).FullName(), method.Name())
				secrets[name] += len(m.leaks(fmt.Sprint(req.Interface())))
				m.tryLogging(name, req.Interface(), resp)
			}
		}
	}
	for name, least := range map[string]int{
		pb.KV_Put_FullMethodName: 1, pb.KV_Txn_FullMethodName: 4, pb.Auth_UserAdd_FullMethodName: 2,
		pb.Auth_UserChangePassword_FullMethodName: 2, pb.Auth_Authenticate_FullMethodName: 1,
	} {
		if secrets[name] < least {
			t.Errorf("%s was tried with %d secrets", name, secrets[name])
		}
	}
}

func (m *marker) tryLogging(method string, req, resp proto.Message) {
	piece, err := proto.Marshal(resp)
	if err != nil {
		m.t.Fatal(err)
	}
	ready := new(encoded)
	ready.add(piece)
	ctx := peer.NewContext(m.t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}})
	for _, level := range []slog.Level{slog.LevelDebug - 4, slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		for _, slow := range []time.Duration{-1, time.Hour} {
			for _, answer := range []any{resp, ready, nil} {
				for _, err := range []error{nil, rpctypes.ErrGRPCNoSpace, context.Canceled} {
					text := logged(ctx, level, slow, &call{method, req, answer, err})
					if found := m.leaks(text); len(found) > 0 {
						m.t.Fatalf("%s at %v tells %q:\n%s\nof %v", method, level, found, text, req)
					}
					wanted := level <= slog.LevelDebug || slow < 0 && level <= slog.LevelWarn
					if wanted != strings.Contains(text, method) || err != nil && wanted != strings.Contains(text, err.Error()) {
						m.t.Fatalf("%s at %v, slow from %v on, logged as %q", method, level, slow, text)
					}
				}
			}
		}
	}
}

// call is what there is to log.
type call struct {
	method string
	req    any
	resp   any
	err    error
}

// logged runs a call through the interceptor and gives all that is logged, as text and as JSON.
func logged(ctx context.Context, level slog.Level, slow time.Duration, c *call) string {
	var b bytes.Buffer
	opts := &slog.HandlerOptions{Level: level}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&b, opts), slog.NewJSONHandler(&b, opts)} {
		s := &Server{opts: Options{Logger: slog.New(handler), SlowRequest: slow, Observe: nobody{}}}
		_, _ = s.unary(ctx, c.req, &grpc.UnaryServerInfo{FullMethod: c.method}, func(context.Context, any) (any, error) {
			return c.resp, c.err
		})
	}
	return b.String()
}

// TestLogTellsKeys: what is asked for can be recognized.
func TestLogTellsKeys(t *testing.T) {
	key := []byte(theKey)
	for _, req := range []any{
		&pb.RangeRequest{Key: key}, &pb.PutRequest{Key: key}, &pb.DeleteRangeRequest{Key: key},
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: key}}},
		&pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: key})}},
		&pb.TxnRequest{Failure: []*pb.RequestOp{deleteOp(&pb.DeleteRangeRequest{Key: key})}},
		&pb.TxnRequest{Success: []*pb.RequestOp{nestedOp(&pb.TxnRequest{}), rangeOp(&pb.RangeRequest{Key: key})}},
	} {
		if text := logged(t.Context(), slog.LevelWarn, -1, &call{method: "M", req: req}); strings.Count(text, theKey) != 2 {
			t.Errorf("%T is logged as %s", req, text)
		}
	}
}

// balance is an observer that knows how many calls have begun and not ended.
type balance struct{ open int }

func (b *balance) Started(string, string, string)               { b.open++ }
func (b *balance) Handled(string, string, error, time.Duration) { b.open-- }

// TestRefusedIsHandled: a call that is refused since there is no leader has ended.
func TestRefusedIsHandled(t *testing.T) {
	f := newFake(t, 3)
	s := f.server(true).Server
	var calls balance
	s.opts.Observe, s.opts.SlowRequest, s.opts.Logger = &calls, time.Hour, slog.New(slog.DiscardHandler)
	s.opts.Cluster.Leader = func() uint64 { return 0 }
	wants := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	_, err := s.unary(wants, &pb.PutRequest{}, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { return nil, nil })
	if !errors.Is(err, rpctypes.ErrGRPCNoLeader) || calls.open != 0 {
		t.Errorf("%v, and %d calls are open", err, calls.open)
	}
}
