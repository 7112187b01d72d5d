package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// ServerOptions say what a Server serves.
type ServerOptions struct {
	// Listeners are served, and closed in the end.
	Listeners []*Listener
	// GRPC gets the gRPC connections. It should have Credentials. The Server stops it. If nil, all is HTTP.
	GRPC *grpc.Server
	// HTTP gets every other request. If nil, all is gRPC.
	HTTP http.Handler
	// Name is what the log calls the endpoint: "client", "peer", "metrics".
	Name string
	// HandshakeTimeout bounds a TLS handshake; 0 means 10 s.
	HandshakeTimeout time.Duration
	// FirstRequestTimeout bounds what comes then: until the protocol is known, and an HTTP request's header; 0
	// means a minute.
	FirstRequestTimeout time.Duration
	// StopTimeout is how long requests that are being served may take to end when the Server stops; 0 means 5 s.
	StopTimeout time.Duration
	// MaxConnections bounds the open connections; more wait to be accepted. 0 means what the limit on file
	// descriptors allows, less some for files.
	MaxConnections int
	// MaxConcurrentStreams bounds the HTTP/2 requests of one connection that are not gRPC; 0 means no bound.
	MaxConcurrentStreams uint32
	// Log hears of rejected connections. Nil discards.
	Log *slog.Logger
}

// Server brings the connections of some listeners to a gRPC server and an http.Handler.
type Server struct {
	o     ServerOptions
	grpc  *queue
	http  *queue
	slots chan struct{} // one token for each open connection

	mu      sync.Mutex
	pending map[net.Conn]struct{} // connections of which it is not known what they are
	stopped bool
}

// reservedFiles is how many file descriptors etcd keeps from its clients, for its files and peers.
const reservedFiles = 150

// NewServer returns a Server that does nothing until it is Run.
func NewServer(o ServerOptions) *Server {
	setDefault(&o.HandshakeTimeout, 10*time.Second)
	setDefault(&o.FirstRequestTimeout, time.Minute)
	setDefault(&o.StopTimeout, 5*time.Second)
	setDefault(&o.MaxConnections, fileLimit())
	setDefault(&o.MaxConcurrentStreams, math.MaxInt32)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var addr net.Addr = inProcess{}
	if len(o.Listeners) > 0 {
		addr = o.Listeners[0].Addr()
	}
	return &Server{
		o:       o,
		grpc:    newQueue(addr),
		http:    newQueue(addr),
		slots:   make(chan struct{}, o.MaxConnections),
		pending: map[net.Conn]struct{}{},
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// maxSlots keeps the bound on connections where it takes no memory to speak of: a slot is nothing but a count.
const maxSlots = 1 << 20

func fileLimit() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > maxSlots {
		return maxSlots
	}
	return max(int(limit.Cur)-reservedFiles, 1)
}

// Run serves until ctx ends, and then stops: it takes no more connections, lets the requests that are being served
// end for StopTimeout, and closes what is left. It returns an error if a listener failed.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	web := s.webServer()
	if s.o.GRPC != nil {
		group.Go(func() error { return unlessStopped(s.o.GRPC.Serve(s.grpc)) })
	}
	if s.o.HTTP != nil {
		group.Go(func() error { return unlessStopped(web.Serve(s.http)) })
	}
	for _, l := range s.o.Listeners {
		group.Go(func() error { return s.accept(ctx, l) })
	}
	group.Go(func() error {
		<-ctx.Done()
		s.stop(web)
		return nil
	})
	return group.Wait()
}

func unlessStopped(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) webServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	// TLS is over when a connection gets here: as far as net/http can see, HTTP/2 is unencrypted.
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           restoreTLS(s.o.HTTP),
		ReadHeaderTimeout: s.o.FirstRequestTimeout,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: int(min(s.o.MaxConcurrentStreams, math.MaxInt32))},
		ErrorLog:          log.New(io.Discard, "", 0), // clients' errors
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
}

type connKey struct{}

// restoreTLS gives requests the TLS state that net/http would have found, had it done the handshake.
func restoreTLS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok && c.state != nil {
			r.TLS = c.state
		}
		next.ServeHTTP(w, r)
	})
}

// stop ends serving. It is called once, when the context of Run has ended.
func (s *Server) stop(web *http.Server) {
	for _, l := range s.o.Listeners {
		l.Close()
	}
	s.closePending()
	ctx, cancel := context.WithTimeout(context.Background(), s.o.StopTimeout)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if web.Shutdown(ctx) != nil {
			web.Close()
		}
	})
	if s.o.GRPC != nil {
		// GracefulStop waits for streams, which may have no end; Stop interrupts it.
		hurry := context.AfterFunc(ctx, s.o.GRPC.Stop)
		s.o.GRPC.GracefulStop()
		hurry()
	}
	wg.Wait()
	s.grpc.Close()
	s.http.Close()
}

// accept takes connections until the listener is closed. Each is looked at in a goroutine of its own.
func (s *Server) accept(ctx context.Context, l *Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	pause := time.Duration(0)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		raw, err := l.socket.Accept()
		switch {
		case err == nil:
			pause = 0
			c := &conn{Conn: raw, release: func() { <-s.slots }}
			wg.Go(func() { s.receive(ctx, l, c) })
			continue
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			<-s.slots
			if ctx.Err() == nil {
				return err
			}
			return nil
		}
		<-s.slots
		if !isTemporary(err) {
			return err
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.o.Log.Warn("accept failed; trying again", "endpoint", s.o.Name, "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// isTemporary says that connections may be accepted again when others have been closed.
func isTemporary(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// receive finds out what a connection is and hands it over, or closes it.
func (s *Server) receive(ctx context.Context, l *Listener, c *conn) {
	if !s.addPending(c) {
		c.Close()
		return
	}
	known, kind, err := s.identify(ctx, l, c)
	s.removePending(c)
	if err != nil {
		c.Close()
		return
	}
	target := s.http
	if kind == trafficGRPC {
		target = s.grpc
	}
	if target.offer(ctx, known) != nil {
		known.Close()
	}
}

// identify does the TLS handshake, if there is one, and finds out what the connection carries. The connection that
// it returns takes the place of the one that it was given.
func (s *Server) identify(ctx context.Context, l *Listener, c *conn) (*conn, traffic, error) {
	now := time.Now()
	c.SetDeadline(now.Add(s.o.HandshakeTimeout))
	withTLS := l.secure
	if l.secure && l.plain {
		first, err := c.fill(nil)
		if err != nil {
			return nil, 0, err
		}
		withTLS = first[0] == recordTypeHandshake
	}
	if withTLS {
		secured, err := s.handshake(ctx, l, c)
		if err != nil {
			return nil, 0, err
		}
		c = secured
	}
	c.SetDeadline(now.Add(s.o.FirstRequestTimeout))
	kind, err := s.kindOf(c)
	c.SetDeadline(time.Time{})
	return c, kind, err
}

// recordTypeHandshake is the first byte of every TLS connection, and of no HTTP request.
const recordTypeHandshake = 0x16

func (s *Server) kindOf(c *conn) (traffic, error) {
	switch {
	case s.o.GRPC == nil:
		return trafficHTTP, nil
	case s.o.HTTP == nil:
		return trafficGRPC, greeting(c)
	}
	return sniff(c)
}

func (s *Server) handshake(ctx context.Context, l *Listener, c *conn) (*conn, error) {
	secured := tls.Server(c, l.tls.ServerConfig())
	err := secured.HandshakeContext(ctx)
	state := secured.ConnectionState()
	if err == nil && l.tls.options.CheckRemoteSAN && len(state.PeerCertificates) > 0 {
		err = checkRemote(ctx, state.PeerCertificates[0], c.RemoteAddr())
	}
	if err != nil {
		s.logRejected(c, state, err)
		return nil, err
	}
	return &conn{Conn: secured, state: &state, release: func() {}}, nil
}

// logRejected logs a failed handshake. That a client has gone, as port scans and probes do, is nothing to warn of.
func (s *Server) logRejected(c *conn, state tls.ConnectionState, err error) {
	level := slog.LevelWarn
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{
		slog.String("remote-addr", c.RemoteAddr().String()),
		slog.String("server-name", state.ServerName),
		slog.String("error", err.Error()),
	}
	if len(state.PeerCertificates) > 0 {
		cert := state.PeerCertificates[0]
		attrs = append(attrs, slog.Any("ip-addresses", cert.IPAddresses), slog.Any("dns-names", cert.DNSNames))
	}
	s.o.Log.LogAttrs(context.Background(), level, "rejected connection on "+s.o.Name+" endpoint", attrs...)
}

func (s *Server) addPending(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.pending[c] = struct{}{}
	}
	return !s.stopped
}

func (s *Server) removePending(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, c)
}

// closePending ends the connections that nobody has been given, and all that are accepted from now on.
func (s *Server) closePending() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for c := range s.pending {
		c.Close()
	}
}

// Dial returns a connection to the gRPC server that stays in the process. It waits for the Server to run.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	if err := s.grpc.offer(ctx, server); err != nil {
		client.Close()
		server.Close()
		return nil, err
	}
	return client, nil
}

// inProcess is the address of a Server without listeners.
type inProcess struct{}

func (inProcess) Network() string { return "pipe" }
func (inProcess) String() string  { return "in-process" }
