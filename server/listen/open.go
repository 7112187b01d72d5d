package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive is the interval of TCP's own probes.
const keepAlive = 30 * time.Second

// ErrNoTLS says that a URL wants TLS and there is none.
var ErrNoTLS = errors.New("no TLS key and certificate")

// Options are how to listen.
type Options struct {
	// TLS is for https and unixs URLs. It may be nil if there are none.
	TLS *TLS
	// ReusePort and ReuseAddress set SO_REUSEPORT and SO_REUSEADDR.
	ReusePort, ReuseAddress bool
}

// Listener is a bound socket. It serves plaintext, TLS, or both, told apart by the first byte.
type Listener struct {
	socket net.Listener
	tls    *TLS // for connections with TLS
	plain  bool // takes connections without
	secure bool // takes connections with
}

// Addr is the address that was bound, the port chosen by the system if it was 0.
func (l *Listener) Addr() net.Addr { return l.socket.Addr() }

// Close gives up a socket that no Server has run. It may be called again.
func (l *Listener) Close() error {
	err := l.socket.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Open binds the URLs: http and https ones to TCP, unix and unixs ones to a socket file. URLs with one address and
// different schemes share a socket. The listeners come in the order of the addresses' first URLs. If one cannot be
// bound, none is.
func Open(urls []url.URL, o Options) ([]*Listener, error) {
	var listeners []*Listener
	byAddress := map[string]*Listener{}
	for _, u := range urls {
		network, address := resolve(u)
		l := byAddress[network+address]
		if l == nil {
			socket, err := bind(network, address, o)
			if err != nil {
				closeAll(listeners)
				return nil, fmt.Errorf("listen on %s: %w", u.String(), err)
			}
			l = &Listener{socket: socket, tls: o.TLS}
			byAddress[network+address] = l
			listeners = append(listeners, l)
		}
		switch u.Scheme {
		case "https", "unixs":
			l.secure = true
		default:
			l.plain = true
		}
		if l.secure && o.TLS == nil {
			closeAll(listeners)
			return nil, fmt.Errorf("listen on %s: %w", u.String(), ErrNoTLS)
		}
	}
	return listeners, nil
}

func closeAll(listeners []*Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

func resolve(u url.URL) (network, address string) {
	if u.Scheme != "unix" && u.Scheme != "unixs" {
		return "tcp", u.Host
	}
	if u.Opaque != "" {
		return "unix", u.Opaque
	}
	return "unix", u.Host + u.Path
}

func bind(network, address string, o Options) (net.Listener, error) {
	if network == "unix" {
		if err := removeStale(address); err != nil {
			return nil, err
		}
	}
	config := net.ListenConfig{KeepAlive: keepAlive}
	if network == "tcp" && (o.ReusePort || o.ReuseAddress) {
		config.Control = o.control
	}
	return config.Listen(context.Background(), network, address)
}

func (o *Options) control(_, _ string, socket syscall.RawConn) error {
	var failed error
	err := socket.Control(func(fd uintptr) {
		if o.ReusePort {
			failed = errors.Join(failed, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		}
		if o.ReuseAddress {
			failed = errors.Join(failed, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		}
	})
	return errors.Join(err, failed)
}

// removeStale removes the socket file that a server left which was killed. One that somebody listens to, and any other
// file, stays.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	case !errors.Is(err, syscall.ECONNREFUSED):
		// A server that has too many waiting, or one that we may not ask.
		return err
	}
	return os.Remove(path)
}
