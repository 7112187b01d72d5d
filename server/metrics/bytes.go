package metrics

import (
	"context"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
)

// Credentials gives credentials that do what these do, and count the bytes of every connection that
// they let in.
func (m *Metrics) Credentials(c credentials.TransportCredentials) credentials.TransportCredentials {
	return countingCredentials{TransportCredentials: c, m: m}
}

type countingCredentials struct {
	credentials.TransportCredentials
	m *Metrics
}

func (c countingCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, auth, err
	}
	return &countingConn{Conn: conn, received: &c.m.received, sent: &c.m.sent}, auth, nil
}

func (c countingCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ClientHandshake(ctx, authority, raw)
}

func (c countingCredentials) Clone() credentials.TransportCredentials {
	return countingCredentials{TransportCredentials: c.TransportCredentials.Clone(), m: c.m}
}

// countingConn is a connection whose bytes are counted.
type countingConn struct {
	net.Conn
	received, sent *atomic.Uint64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(uint64(n))
	return n, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(uint64(n))
	return n, err
}
