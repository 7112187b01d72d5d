package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// relay passes connections on, until it loses those that it has: they stay open, and nothing gets through any more.
type relay struct {
	listener net.Listener
	target   string

	mu   sync.Mutex
	lost chan struct{} // closed for the connections that are lost
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, target: target, lost: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { r.relay(ctx, conn) })
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); running.Wait() })
	return r
}

func (r *relay) lose() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.lost)
	r.lost = make(chan struct{})
}

func (r *relay) relay(ctx context.Context, a net.Conn) {
	defer a.Close()
	r.mu.Lock()
	lost := r.lost
	r.mu.Unlock()
	b, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer b.Close()
	var both sync.WaitGroup
	defer both.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	pass := func(to, from net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			select {
			case <-lost: // what comes is taken, and goes nowhere
				io.Copy(io.Discard, from)
				return
			default:
			}
			if _, werr := to.Write(buf[:n]); errors.Join(err, werr) != nil {
				cancel()
				return
			}
		}
	}
	both.Go(func() { pass(b, a) })
	pass(a, b)
	<-ctx.Done()
}

// TestHalfOpen: connections that are dead without a word are given up, and new ones made.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	m := start(t, memberOptions{})
	r := newRelay(t, m.url[len("http://"):])
	n, reports := network(t, nil, "http://"+r.listener.Addr().String())
	reach(t, n, m, 1)
	r.lose()
	began := time.Now()
	await(t, reports.unreachable, "the loss to be noticed")
	reach(t, n, m, 2)
	t.Logf("reached again after %v", time.Since(began))
}
