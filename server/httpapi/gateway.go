package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
)

// Gateway serves the JSON form of the API: it turns POST /v3/kv/put and the like into RPCs.
type Gateway struct {
	http.Handler
	conn *grpc.ClientConn
}

// jsonFactor is how many times as long as a request its JSON may be: base64 takes a third more, a transaction of
// tiny operations five times as much.
const jsonFactor = 8

// NewGateway returns a Gateway to the gRPC server that dial connects to. It connects when the first request comes.
// maxRequestBytes is the size of the largest request that the gRPC server takes: one whose JSON is much longer is
// refused before it is in memory, where it would take several times its length.
func NewGateway(maxRequestBytes int, dial func(context.Context) (net.Conn, error)) (*Gateway, error) {
	conn, err := grpc.NewClient("passthrough:///gateway",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, fmt.Errorf("connect the gateway: %w", err)
	}
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: &marshaler{max: int64(maxRequestBytes) * jsonFactor, JSONPb: runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}},
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler,
		gw.RegisterClusterHandler, gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler,
	} {
		if err := register(context.Background(), mux, conn); err != nil {
			return nil, errors.Join(fmt.Errorf("set up the gateway: %w", err), conn.Close())
		}
	}
	return &Gateway{Handler: mux, conn: conn}, nil
}

// Close ends the Gateway's connection.
func (g *Gateway) Close() error { return g.conn.Close() }

// marshaler bounds the messages that it decodes, each of a stream by itself.
type marshaler struct {
	runtime.JSONPb
	max int64
}

// NewDecoder implements runtime.Marshaler.
func (m *marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	bounded := &boundedReader{source: r}
	d := m.JSONPb.NewDecoder(bounded)
	return runtime.DecoderFunc(func(v any) error {
		bounded.left = m.max
		return d.Decode(v)
	})
}

// boundedReader gives an error instead of more than is left.
type boundedReader struct {
	source io.Reader
	left   int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, rpctypes.ErrRequestTooLarge
	}
	n, err := b.source.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
