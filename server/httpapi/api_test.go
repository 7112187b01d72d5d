package httpapi

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// newServer returns a healthy server with everything that it may have. change may be nil.
func newServer(t *testing.T, change func(*Options)) *server {
	t.Helper()
	s := &server{}
	o := Options{
		Health: s, Versions: s, Members: s, Metrics: prometheus.NewRegistry(), Gateway: newGateway(t),
		Pprof: true, CheckTimeout: time.Millisecond, CORS: []string{"*"},
	}
	if change != nil {
		change(&o)
	}
	var err error
	if s.api, err = New(o); err != nil {
		t.Fatal(err)
	}
	return s
}

// store is the least that the gateway can be tried on: one key.
type store struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	kv *mvccpb.KeyValue
}

func (s *store) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	s.kv = &mvccpb.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: 2, ModRevision: 2, Version: 1}
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 2}}, nil
}

func (s *store) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 2}, Count: 1}
	if !r.CountOnly {
		resp.Kvs = []*mvccpb.KeyValue{s.kv}
	}
	return resp, nil
}

func (s *store) Watch(stream pb.Watch_WatchServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	for id := range int64(2) {
		if err := stream.Send(&pb.WatchResponse{WatchId: id, Created: id == 0}); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return nil
}

func newGateway(t *testing.T) *Gateway {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, backend := &store{}, grpc.NewServer()
	pb.RegisterKVServer(backend, s)
	pb.RegisterWatchServer(backend, s)
	go backend.Serve(listener)
	t.Cleanup(backend.Stop)
	g, err := NewGateway(1<<10, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// TestGatewayStreams reads a watch's responses while it goes on.
func TestGatewayStreams(t *testing.T) {
	front := httptest.NewServer(newServer(t, nil).api.Client())
	defer front.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, front.URL+"/v3/watch", strings.NewReader(`{"create_request":{"key":"Zm9v"}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{`"created":true`, `"watch_id":"1"`} {
		if !lines.Scan() || !strings.Contains(strings.ReplaceAll(lines.Text(), " ", ""), want) {
			t.Fatalf("got %q (%v), want %s", lines.Text(), lines.Err(), want)
		}
	}
}

// TestGatewayBoundsRequests: a body without end is refused, a stream of small messages without end is not.
func TestGatewayBoundsRequests(t *testing.T) {
	s := newServer(t, func(o *Options) { o.Gateway = newGateway(t) })
	web := httptest.NewServer(s.api.Client())
	defer web.Close()
	body := &endless{head: `{"key":"Zm9v","value":"`}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, web.URL+"/v3/kv/put", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(got), "request is too large") {
		t.Errorf("a body without end: %s, %s, %v", resp.Status, got, err)
	}
	decoder := (&marshaler{max: 100}).NewDecoder(io.LimitReader(&endless{head: "", fill: `{"key":"Zm9v"}`}, 14*1000))
	for range 1000 {
		if err := decoder.Decode(new(pb.PutRequest)); err != nil {
			t.Fatal(err)
		}
	}
}

// endless is a body that goes on.
type endless struct{ head, fill string }

func (e *endless) Read(p []byte) (int, error) {
	if e.head == "" {
		e.head = cmp.Or(e.fill, "AAAA")
	}
	n := copy(p, e.head)
	e.head = e.head[n:]
	return n, nil
}

func (e *endless) Close() error { return nil }

func TestHosts(t *testing.T) {
	api := newServer(t, func(o *Options) { o.HostWhitelist = []string{"a.test", "::1"} }).api
	for _, c := range []struct {
		host   string
		tls    bool
		status int
	}{
		{"a.test", false, 200}, {"a.test:2379", false, 200}, {"[::1]:2379", false, 200},
		{"b.test:2379", false, 421}, {"", false, 421}, {"b.test", true, 200},
	} {
		r := httptest.NewRequest(http.MethodGet, "/health", nil)
		r.Host = c.host
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		w := httptest.NewRecorder()
		api.Client().ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%q, tls %t: %d, want %d", c.host, c.tls, w.Code, c.status)
		}
		if c.status == 421 && !strings.Contains(w.Body.String(), "--host-whitelist \""+strings.TrimSuffix(c.host, ":2379")+"\"") {
			t.Errorf("%q: %s", c.host, w.Body)
		}
	}
}

func TestOrigins(t *testing.T) {
	api := newServer(t, func(o *Options) { o.CORS = []string{"http://a.test:80"} }).api
	for origin, want := range map[string]string{"http://a.test:80": "http://a.test:80", "http://b.test:80": "", "": ""} {
		r := httptest.NewRequest(http.MethodGet, "/health", nil)
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		api.Client().ServeHTTP(w, r)
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != want || w.Code != 200 {
			t.Errorf("origin %q: %d, allowed %q, want %q", origin, w.Code, got, want)
		}
	}
}

// TestCertificateNames has the gateway asked by who expects to be known by the certificate.
func TestCertificateNames(t *testing.T) {
	on := false
	api := newServer(t, func(o *Options) { o.RejectCertificateName = func() bool { return on } }).api
	chain := func(name string) *tls.ConnectionState {
		return &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: name}}}}}
	}
	for _, c := range []struct {
		on     bool
		path   string
		state  *tls.ConnectionState
		status int
	}{
		{false, "/v3/kv/nope", chain("alice"), 404},
		{true, "/v3/kv/nope", chain("alice"), 400},
		{true, "/v3beta/kv/nope", chain("alice"), 400},
		{true, "/v3/kv/nope", chain(""), 404},
		{true, "/v3/kv/nope", &tls.ConnectionState{}, 404},
		{true, "/v3/kv/nope", nil, 404},
		{true, "/nope", chain("alice"), 404},
	} {
		on = c.on
		r := httptest.NewRequest(http.MethodPost, c.path, nil)
		r.TLS = c.state
		w := httptest.NewRecorder()
		api.Client().ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%+v: %d", c, w.Code)
		}
	}
}

func TestLeftOut(t *testing.T) {
	s := newServer(t, func(o *Options) { o.Metrics, o.Gateway, o.Members, o.Pprof = nil, nil, nil, false })
	for path, handler := range map[string]http.Handler{
		"/metrics": s.api.Client(), "/v3/kv/range": s.api.Client(), "/debug/pprof/": s.api.Client(), "/members": s.api.Peer(),
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestMembers(t *testing.T) {
	w := httptest.NewRecorder()
	newServer(t, nil).api.Peer().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/members", nil))
	want := `[{"id":7,"peerURLs":["http://127.0.0.1:2380"],"name":"m1","clientURLs":["http://127.0.0.1:2379"]}]` + "\n"
	if w.Body.String() != want || w.Header().Get("X-Etcd-Cluster-ID") != "cdf818194e3a8c32" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

// TestMetrics looks for the names that etcd's dashboards know.
func TestMetrics(t *testing.T) {
	s := newServer(t, nil)
	get := func(path string) string {
		w := httptest.NewRecorder()
		s.api.Metrics().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		body, _ := io.ReadAll(w.Body)
		return string(body)
	}
	get("/health")
	get("/health")
	get("/livez")
	s.learner, s.leaderless = true, true
	get("/health")
	get("/readyz?exclude=linearizable_read")
	shown := get("/metrics")
	for _, want := range []string{
		"etcd_server_health_success 2", "etcd_server_health_failures 1",
		`etcd_server_healthcheck{name="serializable_read",type="livez"} 1`,
		`etcd_server_healthcheck{name="non_learner",type="readyz"} 0`,
		`etcd_server_healthchecks_total{name="serializable_read",status="success",type="livez"} 1`,
		`etcd_server_healthchecks_total{name="non_learner",status="error",type="readyz"} 1`,
	} {
		if !strings.Contains(shown, want+"\n") {
			t.Errorf("no %s in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "linearizable_read") {
		t.Error("an excluded check was made")
	}
}

func TestNewTwiceOnOneRegistry(t *testing.T) {
	s := newServer(t, nil)
	if _, err := New(s.api.o); err == nil {
		t.Error("metrics were registered twice")
	}
}

func TestVarsAreJSON(t *testing.T) {
	w := httptest.NewRecorder()
	newServer(t, nil).api.Client().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/vars", nil))
	var shown map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &shown); err != nil || shown["memstats"] == nil {
		t.Errorf("%v: %s", err, w.Body)
	}
}
