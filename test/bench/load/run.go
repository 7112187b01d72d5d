package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/test/bench/server"
)

// Connections is how many connections the clients of a load share, the same for every server.
const Connections = 4

// probe is a key that nobody writes.
const probe = "/bench/probe"

// Run is one run of one load on one server.
type Run struct {
	// Spec is the server.
	Spec server.Spec
	// Scale multiplies durations and numbers of keys; 1 is the real thing.
	Scale float64
	// Ops, when it is not 0, bounds each client of a measure by a number of operations instead of a time.
	Ops int
	// Connections is how many connections the clients share.
	Connections int
	// Dir is an empty directory of this run alone, deleted by the caller afterwards.
	Dir string
	// Keep is a directory for data that later rounds of the same load and server use again.
	Keep string
	// LogFile takes the server's output.
	LogFile string
	// Profile is a file for the server's CPU profile during the measure, empty for none.
	Profile string
	// Values are the values to write.
	Values *Values
	// Log tells what goes on.
	Log *slog.Logger
}

// Do runs the load within its timeout. Whatever it started has ended when it returns.
func (l Load) Do(ctx context.Context, r *Run) (Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	figures, err := l.run(ctx, r)
	if err != nil {
		return nil, err // whoever has called knows which load and server
	}
	for _, m := range l.Measures {
		if _, ok := figures[m.ID]; !ok {
			return nil, fmt.Errorf("%w: the load has given no figure %s", ErrWrong, m.ID)
		}
	}
	return figures, nil
}

// time scales a duration.
func (r *Run) time(d time.Duration) time.Duration { return time.Duration(float64(d) * r.Scale) }

// number scales a number of keys, to no less than least.
func (r *Run) number(n, least int) int { return max(least, int(float64(n)*r.Scale)) }

// node is a running server with connections to it.
type node struct {
	*server.Process
	conns  []*clientv3.Client
	shared int // the first of conns, which the clients share
	// serving is when the first read was answered.
	serving time.Time
}

// start starts the server on dir and waits until it has answered a linearizable read of what is known to be there.
func (r *Run) start(ctx context.Context, dir string, k known) (*node, error) {
	p, err := server.Start(r.Spec, server.Options{Dir: dir, Log: r.LogFile, Pprof: r.Profile != ""})
	if err != nil {
		return nil, err
	}
	n := &node{Process: p}
	if err := n.await(ctx, k); err != nil {
		_, stopErr := n.stop(ctx)
		return nil, fmt.Errorf("wait until it serves: %w (%v), see %s", err, stopErr, r.LogFile)
	}
	return n, nil
}

// known is a key with the value that a server must give once it serves, empty for a key that is not there.
type known struct{ key, value string }

// fresh starts the server on a new data directory, with all connections open.
func (r *Run) fresh(ctx context.Context) (*node, error) {
	n, err := r.start(ctx, filepath.Join(r.Dir, "data"), known{key: probe})
	if err != nil {
		return nil, err
	}
	if err := n.connectAll(ctx, r.Connections); err != nil {
		_, _ = n.stop(ctx)
		return nil, err
	}
	return n, nil
}

// connectAll opens the connections that the clients share.
func (n *node) connectAll(ctx context.Context, total int) error {
	for len(n.conns) < total {
		if _, err := n.connect(ctx); err != nil {
			return err
		}
	}
	n.shared = total
	return nil
}

// await asks until the server answers. The other process has no signal to give, so it is asked every few milliseconds.
func (n *node) await(ctx context.Context, k known) error {
	var lastErr error
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, at last %v", ctx.Err(), lastErr)
		case <-n.Exited():
			return server.ErrExited
		case <-tick.C:
		}
		// A plain dial first: gRPC would wait a second after its first failure.
		conn, err := net.Dial("tcp", n.Client)
		if err != nil {
			lastErr = err
			continue
		}
		_ = conn.Close()
		if lastErr = n.ask(ctx, k); lastErr == nil || errors.Is(lastErr, ErrWrong) {
			return lastErr
		}
	}
}

// ask opens a connection and reads the known key. The connection is kept when the answer is right.
func (n *node) ask(ctx context.Context, k known) error {
	client, err := dial(n.Client)
	if err != nil {
		return err
	}
	resp, err := client.Get(ctx, k.key)
	if err != nil {
		_ = client.Close()
		return err
	}
	n.serving = time.Now()
	if got := string(firstValue(resp)); got != k.value {
		_ = client.Close()
		return fmt.Errorf("%w: %s has a value of %d bytes, want %d", ErrWrong, k.key, len(got), len(k.value))
	}
	n.conns = append(n.conns, client)
	return nil
}

func firstValue(resp *clientv3.GetResponse) []byte {
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0].Value
}

// connect opens one more connection and proves it with a read.
func (n *node) connect(ctx context.Context) (*clientv3.Client, error) {
	client, err := dial(n.Client)
	if err != nil {
		return nil, err
	}
	n.conns = append(n.conns, client)
	if _, err := client.Get(ctx, probe); err != nil {
		return nil, fmt.Errorf("open a connection: %w", err)
	}
	return client, nil
}

func dial(address string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:       []string{"http://" + address},
		Logger:          zap.NewNop(),
		MaxUnaryRetries: 1, // an error is an error
	})
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return client, nil
}

// conn gives client i its connection.
func (n *node) conn(i int) *clientv3.Client { return n.conns[i%n.shared] }

// stop closes the connections and ends the server.
func (n *node) stop(ctx context.Context) (server.IO, error) {
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
	// Also when the load's time is over the server may end in peace.
	return n.Process.Stop(context.WithoutCancel(ctx))
}

// revision asks for the store's current revision.
func (n *node) revision(ctx context.Context) (int64, error) {
	resp, err := n.conns[0].Get(ctx, probe)
	if err != nil {
		return 0, fmt.Errorf("read the revision: %w", err)
	}
	return resp.Header.Revision, nil
}
