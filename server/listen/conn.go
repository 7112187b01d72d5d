package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// conn is a connection of which a part was read to see what it is. The part is read again by whom it is for.
type conn struct {
	net.Conn                      // the TLS connection if there is TLS
	state    *tls.ConnectionState // nil without TLS
	replay   []byte               // read already, to be read again
	acks     *ackFilter           // not nil while the answer to our own SETTINGS is awaited
	closed   sync.Once
	release  func()
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.replay) > 0 {
		n := copy(p, c.replay)
		if c.replay = c.replay[n:]; len(c.replay) == 0 {
			c.replay = nil
		}
		return n, nil
	}
	if c.acks != nil {
		n, err := c.acks.Read(p)
		if c.acks.finished() {
			c.acks = nil
		}
		return n, err
	}
	return c.Conn.Read(p)
}

func (c *conn) Close() error {
	err := net.ErrClosed
	c.closed.Do(func() {
		err = c.Conn.Close()
		c.release()
	})
	return err
}

// fill reads once more, and keeps it to be read again. It returns what is kept so far.
func (c *conn) fill(at []byte) ([]byte, error) {
	buf := make([]byte, sniffChunk)
	n, err := c.Conn.Read(buf)
	c.replay = append(at, buf[:n]...)
	if n > 0 {
		err = nil
	}
	return c.replay, err
}

const sniffChunk = 512

// queue is a net.Listener of connections that were accepted elsewhere.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// offer hands a connection over, or says that nobody takes any more.
func (q *queue) offer(ctx context.Context, c net.Conn) error {
	select {
	case q.conns <- c:
		return nil
	case <-q.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }

// Credentials are what a gRPC server needs (grpc.Creds) so that a peer's TLS, whose handshake was done here, is
// found in the peer's AuthInfo as credentials.TLSInfo.
func Credentials() credentials.TransportCredentials { return passed{} }

type passed struct{}

var errServerOnly = errors.New("these credentials are a server's")

func (passed) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c, ok := raw.(*conn); ok && c.state != nil {
		return raw, credentials.TLSInfo{
			State:          *c.state,
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}, nil
	}
	return insecure.NewCredentials().ServerHandshake(raw)
}

func (passed) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errServerOnly
}

func (passed) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (p passed) Clone() credentials.TransportCredentials { return p }

func (passed) OverrideServerName(string) error { return errServerOnly }
