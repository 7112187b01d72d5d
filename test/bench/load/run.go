package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

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

// Do runs the load within its timeout, once more where the leader of a cluster did not stay the same. Whatever it started has ended when it returns.
func (l Load) Do(ctx context.Context, r *Run) (Figures, error) {
	figures, err := l.untilOneLeads(ctx, r)
	if err != nil {
		return nil, err // whoever has called knows which load and server
	}
	for _, m := range l.Measures {
		if _, ok := figures[m.ID]; !ok && l.gives(m, r.Spec) {
			return nil, fmt.Errorf("%w: the load has given no figure %s", ErrWrong, m.ID)
		}
	}
	return figures, nil
}

// time scales a duration.
func (r *Run) time(d time.Duration) time.Duration { return time.Duration(float64(d) * r.Scale) }

// number scales a number of keys, to no less than least.
func (r *Run) number(n, least int) int { return max(least, int(float64(n)*r.Scale)) }

// node is a running server, or several that serve the same data, with connections to them.
type node struct {
	spec     server.Spec
	procs    []*server.Process
	opts     []server.Options // with which they were started
	database *server.Postgres // nil where there is none
	log      string
	conns    []conn
	shared   []conn // those of conns which the clients share
	reign    reign  // of the leader when the cluster was new
	// serving is when the first read was answered.
	serving time.Time
}

// conn is a connection to one of the servers.
type conn struct {
	*clientv3.Client
	at int // the server's index
}

// start starts the server on dir, and the database where it wants one, and waits until it has answered a linearizable read
// of what is known to be there.
func (r *Run) start(ctx context.Context, dir string, k known) (*node, error) {
	n := &node{spec: r.Spec, log: r.LogFile}
	err := r.startAll(ctx, n, dir)
	if err == nil {
		err = n.await(ctx, k)
	}
	if err == nil && r.Spec.Raft {
		n.reign, err = n.agreement(ctx, n.all())
	}
	if err != nil {
		_, stopErr := n.stop(ctx)
		return nil, fmt.Errorf("wait until it serves: %w (%v), see %s", err, stopErr, r.LogFile)
	}
	return n, nil
}

// startAll starts the processes. What was started before an error is in n.
func (r *Run) startAll(ctx context.Context, n *node, dir string) error {
	opts := server.Options{Dir: dir, Log: r.LogFile, Pprof: r.Profile != ""}
	if r.Spec.Raft {
		var err error
		if opts.Cluster, err = server.NewCluster(r.Spec); err != nil {
			return err
		}
	}
	for i := range max(1, r.Spec.Processes) {
		if r.Spec.Postgres {
			var err error
			if n.database == nil {
				n.database, err = server.StartPostgres(ctx)
			}
			if err != nil {
				return err
			}
			opts.Database = n.database.URL(i)
		}
		opts.Member = i
		p, err := server.Start(r.Spec, opts)
		if err != nil {
			return err
		}
		n.procs, n.opts = append(n.procs, p), append(n.opts, opts)
		opts.Dir, opts.Log = fmt.Sprintf("%s-%d", dir, i+2), fmt.Sprintf("%s-%d", r.LogFile, i+2)
	}
	return nil
}

// known is a key with the value that a server must give once it serves, empty for a key that is not there.
type known struct{ key, value string }

// fresh starts the server on a new data directory or database, with all connections open, in turn to those that w says.
func (r *Run) fresh(ctx context.Context, w where) (*node, error) {
	n, err := r.start(ctx, filepath.Join(r.Dir, "data"), known{key: probe})
	if err != nil {
		return nil, err
	}
	if err := n.connectAll(ctx, r.Connections, n.at(w)); err != nil {
		_, _ = n.stop(ctx)
		return nil, err
	}
	return n, nil
}

// connectAll makes the connections that the clients share, to the servers in turn, of which each gets as many.
func (n *node) connectAll(ctx context.Context, total int, servers []int) error {
	among := len(servers)
	total += (among - total%among) % among
	n.shared = nil
	open := slices.Clone(n.conns)
	for len(n.shared) < total {
		at := servers[len(n.shared)%among]
		if i := slices.IndexFunc(open, func(c conn) bool { return c.at == at }); i >= 0 {
			n.shared = append(n.shared, open[i])
			open = slices.Delete(open, i, i+1)
			continue
		}
		c, err := n.connect(ctx, at)
		if err != nil {
			return err
		}
		n.shared = append(n.shared, c)
	}
	return nil
}

// await asks until all servers answer. The first connection to each is kept.
func (n *node) await(ctx context.Context, k known) error {
	for at := range n.procs {
		if err := n.awaitOne(ctx, at, k); err != nil {
			return err
		}
	}
	return nil
}

// awaitOne asks until the server answers. The other process has no signal to give, so it is asked every few milliseconds.
func (n *node) awaitOne(ctx context.Context, at int, k known) error {
	p := n.procs[at]
	var lastErr error
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, at last %v", ctx.Err(), lastErr)
		case <-p.Exited():
			return server.ErrExited
		case <-tick.C:
		}
		// A plain dial first: gRPC would wait a second after its first failure.
		conn, err := net.Dial("tcp", p.Client)
		if err != nil {
			lastErr = err
			continue
		}
		_ = conn.Close()
		if lastErr = n.ask(ctx, at, k); lastErr == nil || errors.Is(lastErr, ErrWrong) {
			return lastErr
		}
	}
}

// ask opens a connection and reads the known key. The connection is kept when the answer is right.
func (n *node) ask(ctx context.Context, at int, k known) error {
	client, err := dial(n.procs[at].Client)
	if err != nil {
		return err
	}
	resp, err := client.Get(ctx, k.key)
	if err != nil {
		_ = client.Close()
		return err
	}
	if n.serving.IsZero() {
		n.serving = time.Now()
	}
	if got := string(firstValue(resp)); got != k.value {
		_ = client.Close()
		return fmt.Errorf("%w: %s has a value of %d bytes, want %d", ErrWrong, k.key, len(got), len(k.value))
	}
	n.conns = append(n.conns, conn{client, at})
	return nil
}

func firstValue(resp *clientv3.GetResponse) []byte {
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0].Value
}

// connect opens one more connection to a server and proves it with a read.
func (n *node) connect(ctx context.Context, at int) (conn, error) {
	client, err := dial(n.procs[at].Client)
	if err != nil {
		return conn{}, err
	}
	c := conn{client, at}
	n.conns = append(n.conns, c)
	if _, err := c.Get(ctx, probe); err != nil {
		return conn{}, fmt.Errorf("open a connection: %w", err)
	}
	return c, nil
}

// redialDelay is how soon a lost connection is tried again: a server that was killed comes back.
const redialDelay = 50 * time.Millisecond

func dial(address string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:       []string{"http://" + address},
		Logger:          zap.NewNop(),
		MaxUnaryRetries: 1, // an error is an error
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: redialDelay, Multiplier: 1, MaxDelay: redialDelay}, MinConnectTimeout: time.Second,
		})},
	})
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return client, nil
}

// conn gives client i its connection.
func (n *node) conn(i int) conn { return n.shared[i%len(n.shared)] }

// stop closes the connections and ends the servers and the database. It gives the sum of the servers' accounts.
func (n *node) stop(ctx context.Context) (server.IO, error) {
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
	var sum server.IO
	var errs []error
	for i := range n.procs {
		// A cluster's leader comes last: it would spend seconds on a successor among those that are about to end.
		p := n.procs[(n.reign.leader+1+i)%len(n.procs)]
		// Also when the load's time is over the server may end in peace.
		io, err := p.Stop(context.WithoutCancel(ctx))
		sum.WriteBytes += io.WriteBytes
		errs = append(errs, err)
	}
	if n.database != nil {
		errs = append(errs, n.database.Close(n.log))
		n.database = nil
	}
	return sum, errors.Join(errs...)
}

// revision asks for the store's current revision.
func (n *node) revision(ctx context.Context) (int64, error) {
	resp, err := n.conns[0].Get(ctx, probe)
	if err != nil {
		return 0, fmt.Errorf("read the revision: %w", err)
	}
	return resp.Header.Revision, nil
}
