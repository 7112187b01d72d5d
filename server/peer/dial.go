package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
)

const (
	// A member that was restarted is found again soon, also after a long time.
	firstBackoff, lastBackoff = 100 * time.Millisecond, time.Second
	// defaultDialTimeout has the next SYN go out soon after a network is whole again: the kernel's own pauses double.
	defaultDialTimeout = 1500 * time.Millisecond
	// greetTimeout bounds a connection with its TLS handshake and HTTP/2's SETTINGS.
	greetTimeout = 5 * time.Second
)

// errNoTLS says that a member's URL wants TLS and there is none.
var errNoTLS = errors.New("no TLS configuration for an https or unixs URL")

const unixPrefix = "unix:"

// secureKey marks an address with TLS.
type secureKey struct{}

// parseURL gives the address of a peer URL.
func parseURL(text string) (resolver.Address, error) {
	u, err := url.Parse(text)
	if err != nil {
		return resolver.Address{}, err
	}
	a := resolver.Address{Addr: u.Host, ServerName: u.Hostname()}
	secure := false
	switch u.Scheme {
	case "https", "unixs":
		secure = true
	case "http", "unix":
	default:
		return a, fmt.Errorf("peer URL %q: the scheme must be http, https, unix or unixs", text)
	}
	if strings.HasPrefix(u.Scheme, "unix") {
		path := u.Opaque
		if path == "" {
			path = u.Host + u.Path
		}
		if path == "" {
			return a, fmt.Errorf("peer URL %q: no path", text)
		}
		a.Addr = unixPrefix + path
		if a.ServerName == "" {
			a.ServerName = "localhost"
		}
	} else if u.Port() == "" || u.Hostname() == "" {
		return a, fmt.Errorf("peer URL %q: a host and a port are needed", text)
	}
	a.Attributes = attributes.New(secureKey{}, secure)
	return a, nil
}

func parseURLs(urls []string) ([]resolver.Address, error) {
	var list []resolver.Address
	for _, text := range urls {
		a, err := parseURL(text)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	if len(list) == 0 {
		return nil, errors.New("no peer URLs")
	}
	return list, nil
}

// fixed resolves to addresses that do not change.
type fixed struct{ addresses []resolver.Address }

const scheme = "keelson-peer"

func (f fixed) Scheme() string { return scheme }

func (f fixed) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return f, cc.UpdateState(resolver.State{Addresses: f.addresses})
}

func (fixed) ResolveNow(resolver.ResolveNowOptions) {}
func (fixed) Close()                                {}

// dialer connects to an address of parseURL. Names are resolved at every attempt.
func (o dialOptions) dialer() func(context.Context, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: o.timeout}
	return func(ctx context.Context, address string) (net.Conn, error) {
		network := "tcp"
		if path, ok := strings.CutPrefix(address, unixPrefix); ok {
			network, address = "unix", path
		}
		conn, err := d.DialContext(ctx, network, address)
		if err == nil && o.silence > 0 {
			conn = &watched{conn, o.silence}
		}
		return conn, err
	}
}

// watched is a connection that fails when nothing came for too long.
type watched struct {
	net.Conn
	silence time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	if err := w.SetReadDeadline(time.Now().Add(w.silence)); err != nil {
		return 0, err
	}
	return w.Conn.Read(p)
}

// chosen are credentials with TLS or without, as the address wants it. The configuration is asked for at each handshake.
type chosen struct {
	tls   func() *tls.Config
	count Counter
}

func (c chosen) ClientHandshake(ctx context.Context, name string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := c.handshake(ctx, name, raw)
	if err != nil {
		return nil, nil, err
	}
	return counted(conn, c.count), auth, nil
}

func (c chosen) handshake(ctx context.Context, name string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, _ := credentials.ClientHandshakeInfoFromContext(ctx).Attributes.Value(secureKey{}).(bool)
	if !secure {
		return insecure.NewCredentials().ClientHandshake(ctx, name, raw)
	}
	if c.tls == nil {
		return nil, nil, errNoTLS
	}
	config := c.tls()
	if config == nil {
		return nil, nil, errNoTLS
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, name, raw)
}

func (chosen) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a client's")
}

func (chosen) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{} }
func (c chosen) Clone() credentials.TransportCredentials { return c }
func (chosen) OverrideServerName(string) error           { return errors.ErrUnsupported }

// dialOptions say how to connect to members.
type dialOptions struct {
	tls     func() *tls.Config
	timeout time.Duration // of connecting to one address
	silence time.Duration // after which a connection is given up; 0 means never
	count   Counter       // of the bytes; nil: nobody
}

// dial makes a connection that connects when it is used.
func (o dialOptions) dial(addresses []resolver.Address, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	pause := backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastBackoff}
	all := append([]grpc.DialOption{
		grpc.WithResolvers(fixed{addresses}),
		grpc.WithContextDialer(o.dialer()),
		grpc.WithTransportCredentials(chosen{o.tls, o.count}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pause, MinConnectTimeout: greetTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingTime, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
	}, more...)
	return grpc.NewClient(scheme+":///member", all...)
}
