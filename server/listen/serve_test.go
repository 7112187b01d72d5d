package listen

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// running is a Server under test, with a gRPC health service and a handler that says how it was reached.
type running struct {
	*Server
	stop func() error

	mu   sync.Mutex
	auth credentials.AuthInfo // of the last RPC
}

func parse(t *testing.T, urls ...string) []url.URL {
	t.Helper()
	var list []url.URL
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, *u)
	}
	return list
}

func open(t *testing.T, o Options, urls ...string) []*Listener {
	t.Helper()
	listeners, err := Open(parse(t, urls...), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(listeners) })
	return listeners
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s tls=%t %d", r.Proto, r.URL.Path, r.TLS != nil, len(body))
}

// serve runs a Server until the test ends. change may be nil.
func serve(t *testing.T, listeners []*Listener, change func(*ServerOptions)) *running {
	t.Helper()
	r := &running{}
	grpcServer := grpc.NewServer(grpc.Creds(Credentials()), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			p, _ := peer.FromContext(ctx)
			r.mu.Lock()
			r.auth = p.AuthInfo
			r.mu.Unlock()
			return next(ctx, req)
		}))
	healthpb.RegisterHealthServer(grpcServer, health.NewServer())
	o := ServerOptions{Listeners: listeners, GRPC: grpcServer, HTTP: http.HandlerFunc(echo), Name: "client", StopTimeout: time.Millisecond}
	if change != nil {
		change(&o)
	}
	r.Server = NewServer(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *running) lastAuth() credentials.AuthInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.auth
}

func dialer(l *Listener) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, l.Addr().Network(), l.Addr().String())
	}
}

// check calls the gRPC health service over a new connection.
func check(t *testing.T, l *Listener, config *tls.Config) error {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	c, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(creds), grpc.WithContextDialer(dialer(l)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{})
	return err
}

// get does a request over a new connection with exactly this protocol: 1 or 2.
func get(t *testing.T, l *Listener, version int, config *tls.Config) (string, error) {
	t.Helper()
	return request(t, l, version, config, http.MethodGet, nil)
}

func request(t *testing.T, l *Listener, version int, config *tls.Config, method string, body io.Reader) (string, error) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(version == 1)
	protocols.SetHTTP2(version == 2)
	protocols.SetUnencryptedHTTP2(version == 2)
	transport := &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: config,
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer(l)(ctx, "") },
	}
	defer transport.CloseIdleConnections()
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, scheme+"://localhost/path", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// all three protocols must work on the listener.
func checkAll(t *testing.T, l *Listener, config *tls.Config) {
	t.Helper()
	if err := check(t, l, config); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	for version, want := range map[int]string{1: "HTTP/1.1 /path tls=%t 0", 2: "HTTP/2.0 /path tls=%t 0"} {
		want = fmt.Sprintf(want, config != nil)
		if got, err := get(t, l, version, config); err != nil || got != want {
			t.Errorf("HTTP/%d: got %q (%v), want %q", version, got, err, want)
		}
	}
}

func TestAllProtocolsOnOnePort(t *testing.T) {
	a := newAuthority(t)
	config := a.tls(a.options())
	dir := t.TempDir()
	for _, c := range []struct {
		name          string
		urls          []string
		plain, secure bool
	}{
		{"http", []string{"http://127.0.0.1:0"}, true, false},
		{"https", []string{"https://127.0.0.1:0"}, false, true},
		{"http and https", []string{"http://127.0.0.1:0", "https://127.0.0.1:0"}, true, true},
		{"unix", []string{"unix://" + dir + "/a"}, true, false},
		{"unixs", []string{"unixs://" + dir + "/b"}, false, true},
		{"localhost", []string{"http://localhost:0"}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			listeners := open(t, Options{TLS: config}, c.urls...)
			if len(listeners) != 1 {
				t.Fatalf("%d listeners", len(listeners))
			}
			serve(t, listeners, nil)
			if c.plain {
				checkAll(t, listeners[0], nil)
			} else if err := check(t, listeners[0], nil); err == nil {
				t.Error("gRPC in plaintext got an answer")
			}
			if c.secure {
				checkAll(t, listeners[0], a.client(""))
			} else if _, err := get(t, listeners[0], 1, a.client("")); err == nil {
				t.Error("HTTP with TLS got an answer")
			}
		})
	}
}

// TestBodiesOverHTTP2 has the client's answer to SETTINGS come anywhere in a stream of large frames.
func TestBodiesOverHTTP2(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	serve(t, listeners, nil)
	for _, size := range []int{1, 1000, 100_000, 3_000_000} {
		for range 5 {
			got, err := request(t, listeners[0], 2, nil, http.MethodPost, strings.NewReader(strings.Repeat("x", size)))
			if want := fmt.Sprintf("HTTP/2.0 /path tls=false %d", size); err != nil || got != want {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
		}
	}
}

func TestOneProtocolOnly(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0", "http://[::1]:0")
	serve(t, listeners[:1], func(o *ServerOptions) { o.HTTP = nil })
	serve(t, listeners[1:], func(o *ServerOptions) { o.GRPC = nil })
	if err := check(t, listeners[0], nil); err != nil {
		t.Errorf("gRPC where it is served: %v", err)
	}
	if _, err := get(t, listeners[0], 1, nil); err == nil {
		t.Error("HTTP where gRPC is served got an answer")
	}
	if err := check(t, listeners[1], nil); err == nil {
		t.Error("gRPC where HTTP is served got an answer")
	}
	for version := 1; version <= 2; version++ {
		if _, err := get(t, listeners[1], version, nil); err != nil {
			t.Errorf("HTTP/%d where it is served: %v", version, err)
		}
	}
}

func TestAuthInfo(t *testing.T) {
	a := newAuthority(t)
	o := a.options()
	o.TrustedCAFile = a.file("ca.crt")
	a.issue("alice")
	listeners := open(t, Options{TLS: a.tls(o)}, "https://127.0.0.1:0", "http://127.0.0.1:0")
	r := serve(t, listeners, nil)
	if err := check(t, listeners[0], a.client("alice")); err != nil {
		t.Fatal(err)
	}
	info, ok := r.lastAuth().(credentials.TLSInfo)
	if !ok || info.State.VerifiedChains[0][0].Subject.CommonName != "alice" {
		t.Errorf("AuthInfo with TLS: %#v", r.lastAuth())
	}
	if err := check(t, listeners[0], nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.lastAuth().(credentials.TLSInfo); ok {
		t.Error("AuthInfo without TLS is TLSInfo")
	}
}

func TestDialInProcess(t *testing.T) {
	r := serve(t, nil, nil)
	c, err := grpc.NewClient("passthrough:///", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.Dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if _, err := r.Dial(t.Context()); err == nil {
		t.Error("dialled a Server that has stopped")
	}
}

// TestSilentClients has clients that stop at every point before a request; nobody else may notice.
func TestSilentClients(t *testing.T) {
	a := newAuthority(t)
	listeners := open(t, Options{TLS: a.tls(a.options())}, "http://127.0.0.1:0", "https://127.0.0.1:0")
	serve(t, listeners, nil)
	l := listeners[0]
	for _, said := range []string{"", "P", "PRI * HTTP/2.0\r\n", http2.ClientPreface, "\x16", "\x16\x03\x01\x00\xff", "GET / HTTP/1.1\r\nHost: "} {
		for range 20 {
			conn, err := dialer(l)(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, said); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkAll(t, l, nil)
	checkAll(t, l, a.client(""))
}

// TestSilentClientsAreSentAway waits for the server to close the connection of one who says nothing in time.
func TestSilentClientsAreSentAway(t *testing.T) {
	a := newAuthority(t)
	listeners := open(t, Options{TLS: a.tls(a.options())}, "http://127.0.0.1:0", "https://127.0.0.1:0")
	serve(t, listeners, func(o *ServerOptions) {
		o.HandshakeTimeout = 10 * time.Millisecond
		o.FirstRequestTimeout = 20 * time.Millisecond
	})
	for _, said := range []string{"", "PRI *", "\x16\x03", "GET / HTTP/1.1\r\nHost: "} {
		conn, err := dialer(listeners[0])(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, said)
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v", said, err)
		}
		conn.Close()
	}
}

// TestIdleGRPC has a client that connects and asks nothing, beyond the time that a request may take to come.
func TestIdleGRPC(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	serve(t, listeners, func(o *ServerOptions) { o.FirstRequestTimeout = 20 * time.Millisecond })
	conn, err := dialer(listeners[0])(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	io.WriteString(conn, http2.ClientPreface)
	framer.WriteSettings()
	// The empty SETTINGS come first; the gRPC server's own follow when it was given the connection.
	acks := 0
	for acks < 1 {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && settings.IsAck() {
			acks++
		}
	}
	framer.WritePing(false, [8]byte{1})
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
			return
		}
	}
}

// TestPingBeforeRequest has a client that is unknown yet ask for a sign of life.
func TestPingBeforeRequest(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	serve(t, listeners, nil)
	conn, err := dialer(listeners[0])(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	io.WriteString(conn, http2.ClientPreface)
	framer.WriteSettings()
	framer.WritePing(false, [8]byte{1})
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
			return
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	serve(t, listeners, func(o *ServerOptions) { o.MaxConnections = 1 })
	first, err := dialer(listeners[0])(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(first, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(first), nil); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() { _, err := get(t, listeners[0], 1, nil); second <- err }()
	select {
	case err := <-second:
		t.Fatalf("a second connection was served: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	if err := <-second; err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
}

// TestStop has requests in flight that end in time, and streams that never do.
func TestStop(t *testing.T) {
	began, finish := make(chan struct{}, 2), make(chan struct{})
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	r := serve(t, listeners, func(o *ServerOptions) {
		o.StopTimeout = time.Minute
		o.HTTP = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			began <- struct{}{}
			<-finish
			io.WriteString(w, "done")
		})
	})
	answers := make(chan string, 2)
	for version := 1; version <= 2; version++ {
		go func() {
			got, err := get(t, listeners[0], version, nil)
			if err != nil {
				got = err.Error()
			}
			answers <- got
		}()
		<-began
	}
	silent, err := dialer(listeners[0])(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if _, err := io.Copy(io.Discard, silent); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a silent connection: %v", err)
	}
	close(finish)
	for range 2 {
		if got := <-answers; got != "done" {
			t.Errorf("a request in flight: %s", got)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := dialer(listeners[0])(t.Context(), ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after stop: %v", err)
	}
}

func TestStopEndsStreams(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	r := serve(t, listeners, nil)
	c, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialer(listeners[0])))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream, err := healthpb.NewHealthClient(c).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream: %v", err)
	}
}

func TestRunFailsWithAListener(t *testing.T) {
	listeners := open(t, Options{}, "http://127.0.0.1:0")
	listeners[0].Close()
	if err := NewServer(ServerOptions{Listeners: listeners, HTTP: http.NotFoundHandler()}).Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	taken := open(t, Options{}, "http://127.0.0.1:0")[0].Addr().String()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alive := filepath.Join(dir, "alive")
	open(t, Options{}, "unix://"+alive)
	for _, c := range []struct {
		url  string
		want error
	}{
		{"http://" + taken, syscall.EADDRINUSE},
		{"https://127.0.0.1:0", ErrNoTLS},
		{"unix://" + alive, syscall.EADDRINUSE},
	} {
		if _, err := Open(parse(t, "http://127.0.0.1:0", c.url), Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.url, err, c.want)
		}
	}
	if _, err := Open(parse(t, "unix://"+file), Options{}); err == nil {
		t.Error("listened at a file that is not a socket")
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("and the file: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left := open(t, Options{}, "unix://"+path)[0]
	left.socket.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	listeners := open(t, Options{}, "unix:"+path)
	r := serve(t, listeners, nil)
	checkAll(t, listeners[0], nil)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket file after stop: %v", err)
	}
}

// TestBusySocketStays: a server that does not get to its connections is not a dead one.
func TestBusySocketStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		var conn net.Conn
		if conn, err = net.Dial("unix", path); err != nil {
			break
		}
		defer conn.Close()
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatalf("a socket with many waiting: %v", err)
	}
	if listeners, err := Open(parse(t, "unix://"+path), Options{}); err == nil {
		closeAll(listeners)
		t.Error("two servers on one socket")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestReuse(t *testing.T) {
	o := Options{ReusePort: true, ReuseAddress: true}
	first := open(t, o, "http://127.0.0.1:0")
	second := open(t, o, "http://"+first[0].Addr().String())
	serve(t, second, nil)
	first[0].Close()
	checkAll(t, second[0], nil)
}
