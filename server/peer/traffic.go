package peer

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// Counter counts what passes between this member and another one, for metrics. Its methods are called concurrently, and must not wait.
type Counter interface {
	// Sent and Received are told of bytes, at every write and read of a socket.
	Sent(bytes int)
	Received(bytes int)
	// SendFailed is told of Raft messages that were dropped, ReceiveFailed of one that has come and was not taken in.
	SendFailed(messages int)
	ReceiveFailed()
	// Disconnected is told that a connection to the member has broken: the one for calls, as ActiveSince says it.
	Disconnected()
	// RoundTrip is told how long a question to the member took that costs it nothing.
	RoundTrip(took time.Duration)
}

// countedConn is a connection whose bytes are counted: for a member, once it is known which one it is of.
type countedConn struct {
	net.Conn
	of             atomic.Pointer[Counter]
	received, sent atomic.Int64 // not told yet
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	if of := c.of.Load(); of != nil {
		(*of).Received(int(c.received.Swap(0)))
	}
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	if of := c.of.Load(); of != nil {
		(*of).Sent(int(c.sent.Swap(0)))
	}
	return n, err
}

// counted gives a connection to a member with its bytes counted.
func counted(conn net.Conn, of Counter) net.Conn {
	if of == nil {
		return conn
	}
	c := &countedConn{Conn: conn}
	c.of.Store(&of)
	return c
}

// Credentials gives a server's credentials that do what these do, and count the bytes of each connection for the member that a Guard finds it to be of.
func Credentials(c credentials.TransportCredentials) credentials.TransportCredentials {
	return counting{c}
}

type counting struct {
	credentials.TransportCredentials
}

func (c counting) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, auth, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, auth, err
	}
	counted := &countedConn{Conn: conn}
	return counted, countedAuth{auth, counted}, nil
}

func (c counting) Clone() credentials.TransportCredentials {
	return counting{c.TransportCredentials.Clone()}
}

// countedAuth lets a call find its connection.
type countedAuth struct {
	credentials.AuthInfo
	conn *countedConn
}

// count has the connection of a call counted for the member that calls.
func (g *Guard) count(ctx context.Context, from uint64) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok || g.o.Count == nil {
		return
	}
	if a, ok := p.AuthInfo.(countedAuth); ok && a.conn.of.Load() == nil {
		of := g.o.Count(from)
		a.conn.of.Store(&of)
	}
}

// receiveFailed tells who counts for the member that calls.
func receiveFailed(ctx context.Context) {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if a, ok := p.AuthInfo.(countedAuth); ok {
			if of := a.conn.of.Load(); of != nil {
				(*of).ReceiveFailed()
			}
		}
	}
}

// probeTime is the pause between two questions to a member for the round trip, as in etcd; probeTimeout bounds one.
const (
	probeTime    = 4 * time.Second
	probeTimeout = 10 * time.Second
)

// probe tells of round trips to a member until ctx ends, as long as there is a connection: the one on which heartbeats go. The question is for no hashes, which
// every member answers at once.
func probe(ctx context.Context, conn *grpc.ClientConn, of Counter) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
			if !conn.WaitForStateChange(ctx, state) {
				return
			}
		}
		call, cancel := context.WithTimeout(ctx, probeTimeout)
		start := time.Now()
		_, err := peerpb.NewPeerClient(conn).Hashes(call, &peerpb.HashesRequest{})
		cancel()
		if err == nil {
			of.RoundTrip(time.Since(start))
		}
		timer.Reset(probeTime)
	}
}
