package metrics

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// method is what is counted of one method.
type method struct {
	service, name string
	kind          string // grpc_type

	started  atomic.Uint64
	handled  [codeCount]atomic.Uint64
	received atomic.Uint64 // messages of streams; those of unary calls follow from the calls
	sent     atomic.Uint64

	answered, refused *histogram           // of etcd_server_request_duration_seconds, if it has the method
	duration          *histogram           // of successful calls, for a metric of their own
	handling          prometheus.Histogram // with --metrics=extensive
}

// codeCount is the number of gRPC's codes, OK included.
const codeCount = int(codes.Unauthenticated) + 1

// calls are all methods that a server has, by their full names. The map never changes.
type calls map[string]*method

// requestTypes gives the methods of etcd_server_request_duration_seconds and what it calls them.
func requestTypes() map[string]string {
	return map[string]string{
		pb.KV_Range_FullMethodName: "Range", pb.KV_Put_FullMethodName: "Put",
		pb.KV_DeleteRange_FullMethodName: "DeleteRange", pb.KV_Txn_FullMethodName: "Txn",
		pb.KV_Compact_FullMethodName: "Compaction", pb.Lease_LeaseGrant_FullMethodName: "LeaseGrant",
		pb.Lease_LeaseRevoke_FullMethodName: "LeaseRevoke", pb.Maintenance_Alarm_FullMethodName: "Alarm",
	}
}

// writes are the methods whose requests go through the commit loop.
func writes() []string {
	return []string{
		pb.KV_Put_FullMethodName, pb.KV_DeleteRange_FullMethodName, pb.KV_Txn_FullMethodName,
		pb.KV_Compact_FullMethodName, pb.Lease_LeaseGrant_FullMethodName,
		pb.Lease_LeaseRevoke_FullMethodName, pb.Maintenance_Alarm_FullMethodName,
	}
}

// reads are the methods that ask the log for its end and append nothing.
func reads() []string {
	return []string{
		pb.KV_Range_FullMethodName, pb.KV_RangeStream_FullMethodName,
		pb.Lease_LeaseTimeToLive_FullMethodName, pb.Lease_LeaseLeases_FullMethodName,
	}
}

func newCalls(extensive bool) calls {
	c := make(calls)
	for _, d := range []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc,
		pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc, healthpb.Health_ServiceDesc,
	} {
		for _, m := range d.Methods {
			c.add(d.ServiceName, m.MethodName, "unary")
		}
		for _, s := range d.Streams {
			c.add(d.ServiceName, s.StreamName, streamKind(s))
		}
	}
	for name := range requestTypes() {
		c[name].answered, c[name].refused = newSeconds(time.Millisecond, 14), newSeconds(time.Millisecond, 14)
	}
	c[pb.Maintenance_Defragment_FullMethodName].duration = newSeconds(100*time.Millisecond, 13)
	c[pb.Maintenance_Snapshot_FullMethodName].duration = newSeconds(10*time.Millisecond, 17)
	c[pb.Maintenance_Hash_FullMethodName].duration = newSeconds(10*time.Millisecond, 15)
	c[pb.Maintenance_HashKV_FullMethodName].duration = newSeconds(10*time.Millisecond, 15)
	if extensive {
		c.addHandling()
	}
	return c
}

func (c calls) add(service, name, kind string) {
	c["/"+service+"/"+name] = &method{service: service, name: name, kind: kind}
}

func streamKind(s grpc.StreamDesc) string {
	switch {
	case s.ServerStreams && s.ClientStreams:
		return "bidi_stream"
	case s.ServerStreams:
		return "server_stream"
	}
	return "client_stream"
}

func (c calls) addHandling() {
	for _, m := range c {
		m.handling = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds",
			Help: "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
			ConstLabels: prometheus.Labels{
				"grpc_service": m.service, "grpc_method": m.name, "grpc_type": m.kind,
			},
		})
	}
}

// failures counts what ended so that the server, or the client's patience, is to blame and not the request.
func (c calls) failures(methods []string) (n uint64) {
	for _, name := range methods {
		for _, code := range []codes.Code{codes.Canceled, codes.Unknown, codes.DeadlineExceeded, codes.Internal, codes.Unavailable} {
			n += c[name].handled[code].Load()
		}
	}
	return n
}

// pending is the number of calls that were started and not yet handled.
func (c calls) pending(methods ...string) float64 {
	var n float64
	for _, name := range methods {
		// The order of the loads matters: what is handled has been started.
		handled := c[name].total()
		n += float64(c[name].started.Load() - handled)
	}
	return n
}

func (m *method) total() (n uint64) {
	for i := range m.handled {
		n += m.handled[i].Load()
	}
	return n
}

// Started is told of every call that begins; kind is "unary" or "stream".
func (m *Metrics) Started(kind, method, clientVersion string) {
	if c := m.calls[method]; c != nil {
		c.started.Add(1)
	}
	n := m.clients.of(clientVersion)
	if kind == "unary" {
		n.unary.Add(1)
	} else {
		n.stream.Add(1)
	}
}

// Handled is told of every call that has ended.
func (m *Metrics) Handled(_, method string, err error, took time.Duration) {
	c := m.calls[method]
	if c == nil {
		return
	}
	c.handled[codeOf(err)].Add(1)
	m.decided(method, err)
	switch {
	case err != nil && c.refused != nil:
		c.refused.observe(int64(took))
	case err == nil && c.answered != nil:
		c.answered.observe(int64(took))
	case err == nil && c.duration != nil:
		c.duration.observe(int64(took))
	}
	if c.handling != nil {
		c.handling.Observe(took.Seconds())
	}
}

func codeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	var s interface{ GRPCStatus() *status.Status }
	code := codes.Unknown
	if errors.As(err, &s) {
		code = s.GRPCStatus().Code()
	} else {
		code = status.FromContextError(err).Code()
	}
	if int(code) >= codeCount {
		return codes.Unknown
	}
	return code
}

// clients counts calls by what their clients say of their version. Names are few and
// stay, so they are found without a lock.
type clients struct {
	mu    sync.Mutex // for adding one
	known atomic.Pointer[map[string]*clientCalls]
}

type clientCalls struct{ unary, stream atomic.Uint64 }

// maxClients bounds the versions told apart; unknownClient stands for all others.
const (
	maxClients    = 16
	unknownClient = "unknown"
)

func newClients() *clients {
	c := &clients{}
	c.known.Store(&map[string]*clientCalls{unknownClient: {}})
	return c
}

func (c *clients) of(version string) *clientCalls {
	if n := (*c.known.Load())[version]; n != nil {
		return n
	}
	return c.add(version)
}

func (c *clients) add(version string) *clientCalls {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.known.Load()
	if n := old[version]; n != nil {
		return n
	}
	if len(old) > maxClients || !isVersion(version) {
		return old[unknownClient]
	}
	known := make(map[string]*clientCalls, len(old)+1)
	for v, n := range old {
		known[v] = n
	}
	n := &clientCalls{}
	known[strings.Clone(version)] = n
	c.known.Store(&known)
	return n
}

// isVersion tells whether s looks like a version: digits and dots, and not many.
func isVersion(s string) bool {
	return s != "" && len(s) <= 12 && strings.Trim(s, "0123456789.") == "" && s[0] != '.'
}

// Stream counts the messages of streams: a gRPC interceptor.
func (m *Metrics) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c := m.calls[info.FullMethod]
	if c == nil {
		return handler(srv, ss)
	}
	return handler(srv, &counted{ServerStream: ss, method: c, renewed: &m.renewed})
}

// counted is a stream whose messages are counted.
type counted struct {
	grpc.ServerStream
	method  *method
	renewed *atomic.Uint64
}

func (s *counted) RecvMsg(msg any) error {
	err := s.ServerStream.RecvMsg(msg)
	if err == nil {
		s.method.received.Add(1)
	}
	return err
}

func (s *counted) SendMsg(msg any) error {
	err := s.ServerStream.SendMsg(msg)
	if err != nil {
		return err
	}
	s.method.sent.Add(1)
	if r, ok := msg.(*pb.LeaseKeepAliveResponse); ok && r.TTL > 0 {
		s.renewed.Add(1)
	}
	return nil
}
