package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

var (
	rounds = flag.Int("rounds", 18, "how often the server is killed")
	seed   = flag.Uint64("seed", 0, "seed of everything random; 0 takes the time")
)

// keptRevisions is how much checked history is kept for watchers that read it anew.
const keptRevisions = 20_000

// crasher kills a server again and again and checks what is left.
type crasher struct {
	srv       *server
	rng       *rand.Rand
	seed      uint64
	round     int
	ledger    *ledger
	history   map[int64]*revision
	main      *watcher         // opened anew after each start
	prefix    *watcher         // so too
	resuming  *watcher         // goes on by itself, as the client does
	client    *clientv3.Client // of this round
	stop      context.CancelFunc
	floor     int64
	compacted int64
	acks      int64
}

func newClient(endpoint string) (*clientv3.Client, error) {
	connect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}
	return clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(), DialTimeout: patience,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(connect)},
	})
}

// newCrasher makes a server, not started, and the watchers that follow it.
func newCrasher(t *testing.T, s uint64, flags ...string) *crasher {
	t.Helper()
	srv := newServer(t, t.TempDir(), flags...)
	c := &crasher{
		srv: srv, rng: rand.New(rand.NewPCG(s, 0)), seed: s, ledger: newLedger(), history: map[int64]*revision{},
		main:     newWatcher("main", "\x00", clientv3.WithFromKey()),
		prefix:   newWatcher("prefix", "writer/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithFragment()),
		resuming: newWatcher("resuming", "\x00", clientv3.WithFromKey(), clientv3.WithPrevKV()),
	}
	client, err := newClient(srv.client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	go c.resuming.run(t.Context(), client)
	return c
}

// TestKill kills the server under load.
func TestKill(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d -rounds=%d", s, *rounds)
	c := newCrasher(t, s, "--auto-compaction-mode=periodic", "--auto-compaction-retention=2s")
	for c.round = 1; c.round <= *rounds; c.round++ {
		if err := c.crash(t.Context(), c.srv.kill); err != nil {
			t.Fatalf("round %d (-seed=%d): %v", c.round, s, err)
		}
	}
	if err := c.finish(t.Context()); err != nil {
		t.Fatalf("after the last round (-seed=%d): %v", s, err)
	}
	t.Logf("%d rounds, %d revisions, %d changes acknowledged", *rounds, c.ledger.settled, c.acks)
}

// TestTerminate stops the server by SIGTERM under load: it ends well, and nothing acknowledged is lost.
func TestTerminate(t *testing.T) {
	c := newCrasher(t, uint64(time.Now().UnixNano()))
	for c.round = 1; c.round <= 3; c.round++ {
		if err := c.crash(t.Context(), c.srv.terminate); err != nil {
			t.Fatalf("round %d: %v", c.round, err)
		}
	}
	if err := c.finish(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crash is one round: start, check what the last one left, load, end.
func (c *crasher) crash(ctx context.Context, end func() error) error {
	if err := c.startAndVerify(ctx); err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &load{client: c.client, ledger: c.ledger, round: c.round, compactTo: c.compactTo, rng: func(worker int) *rand.Rand {
		return rand.New(rand.NewPCG(c.seed, uint64(c.round)<<16|uint64(worker)))
	}}
	l.floor.Store(c.floor)
	l.compacted.Store(c.compacted)
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()

	moment := time.NewTimer(c.moment())
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-c.srv.exited:
		return fmt.Errorf("the server ended by itself: %v", c.srv.err)
	}
	l.ending.Store(true)
	at := time.Now()
	if err := end(); err != nil {
		return fmt.Errorf("the end of the server: %w", err)
	}
	cancel()
	if err := <-done; err != nil {
		return err
	}
	c.ledger.ended(at)
	c.floor, c.compacted, c.acks = l.floor.Load(), l.compacted.Load(), c.acks+l.acks.Load()
	return nil
}

// moment is how long a load goes on: mostly short, sometimes long enough for checkpoints.
func (c *crasher) moment() time.Duration {
	if c.rng.IntN(6) == 0 {
		return 7 * time.Second
	}
	return time.Duration(100+c.rng.IntN(3000)) * time.Millisecond
}

// compactTo leaves all watchers a little behind it.
func (c *crasher) compactTo() int64 {
	return min(c.main.position(), c.prefix.position(), c.resuming.position()) - 200
}

// close ends the round's client and watchers.
func (c *crasher) close() {
	c.stop()
	c.client.Close()
}

// startAndVerify starts the server, sometimes after kills while it starts, and checks everything.
func (c *crasher) startAndVerify(ctx context.Context) error {
	for range c.rng.IntN(3) {
		if err := c.killedStart(); err != nil {
			return err
		}
	}
	if c.ledger.settled > 1 { // before, there may be no store yet
		if err := checkStore(ctx, c.srv); err != nil {
			return err
		}
	}
	if err := c.srv.start(ctx); err != nil {
		return err
	}
	c.ledger.restarted(time.Now())
	client, err := newClient(c.srv.client)
	if err != nil {
		return err
	}
	c.client = client
	var watching context.Context
	watching, c.stop = context.WithCancel(ctx)
	go c.main.run(watching, client)
	go c.prefix.run(watching, client)
	if err := c.verify(ctx); err != nil {
		c.close()
		return err
	}
	return nil
}

func (c *crasher) killedStart() error {
	if err := c.srv.launch(); err != nil {
		return err
	}
	moment := time.NewTimer(time.Duration(c.rng.IntN(150)) * time.Millisecond)
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-c.srv.exited:
		return fmt.Errorf("the server does not start: %v", c.srv.err)
	}
	return c.srv.kill()
}

// verify checks that what is there is what was acknowledged.
func (c *crasher) verify(ctx context.Context) error {
	resp, err := c.client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	end := resp.Header.Revision
	if end < c.floor {
		return fmt.Errorf("the revision is %d after the restart, %d was answered before", end, c.floor)
	}
	if err := c.main.await(ctx, end); err != nil {
		return err
	}
	if err := c.main.collect(c.history); err != nil {
		return err
	}
	from := c.ledger.settled
	if err := c.ledger.settle(c.history, end); err != nil {
		return err
	}
	return errors.Join(
		c.verifyWatchers(ctx, from, end), c.verifyReplay(ctx, end), c.verifyState(ctx, end),
		c.verifyCompaction(ctx), c.ledger.checkLeases(ctx, c.client), c.prune())
}

// between gives the events after from up to end on keys of a prefix.
func (c *crasher) between(from, end int64, prefix string) []event {
	var out []event
	for rev := from + 1; rev <= end; rev++ {
		for _, e := range c.history[rev].events {
			if strings.HasPrefix(e.key, prefix) {
				out = append(out, e)
			}
		}
	}
	return out
}

// verifyWatchers checks that the other watchers were told what the main one was.
func (c *crasher) verifyWatchers(ctx context.Context, from, end int64) error {
	for _, w := range []*watcher{c.prefix, c.resuming} {
		want := c.between(from, end, strings.TrimPrefix(w.key, "\x00"))
		if len(want) == 0 {
			continue
		}
		if err := w.await(ctx, want[len(want)-1].mod); err != nil {
			return err
		}
		if err := w.compare(want, end); err != nil {
			return err
		}
	}
	return nil
}

// verifyReplay reads the history anew, as far back as it goes.
func (c *crasher) verifyReplay(ctx context.Context, end int64) error {
	first := end
	for c.history[first-1] != nil {
		first--
	}
	first = max(first, 2)
	for end >= first {
		w := newWatcher("replay", "\x00", clientv3.WithFromKey())
		w.next = first
		wctx, cancel := context.WithCancel(ctx)
		var compacted int64
		for resp := range c.client.Watch(wctx, w.key, clientv3.WithFromKey(), clientv3.WithRev(first)) {
			if compacted = resp.CompactRevision; compacted != 0 {
				break
			}
			if err := w.take(resp); err != nil {
				cancel()
				return err
			}
			if w.next > end {
				break
			}
		}
		cancel()
		if compacted != 0 {
			if compacted > end {
				return fmt.Errorf("compacted at %d, the end was %d", compacted, end)
			}
			first = compacted + 1
			continue
		}
		want := c.between(first-1, end, "")
		for i := range want {
			want[i].prev = nil
		}
		return w.compare(want, end)
	}
	return nil
}

// verifyState reads everything at end.
func (c *crasher) verifyState(ctx context.Context, end int64) error {
	resp, err := c.client.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(end))
	if err != nil {
		return err
	}
	if got, want := toKVs(resp.Kvs), c.ledger.all(); !slices.Equal(got, want) {
		return fmt.Errorf("a read of everything at %d gave %v, want %v", end, got, want)
	}
	return nil
}

// verifyCompaction checks that an acknowledged compaction still holds.
func (c *crasher) verifyCompaction(ctx context.Context) error {
	if c.compacted < 2 {
		return nil
	}
	_, err := c.client.Get(ctx, "\x00", clientv3.WithRev(c.compacted-1))
	if !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("a read below the acknowledged compaction at %d gave %v, want %v", c.compacted, err, rpctypes.ErrCompacted)
	}
	return nil
}

// prune forgets history that no watcher will ask for.
func (c *crasher) prune() error {
	for rev := range c.history {
		if rev <= c.ledger.settled-keptRevisions {
			delete(c.history, rev)
		}
	}
	return nil
}

// finish waits until the leases that were left alone have expired, compacts
// everything, stops the server, and starts it once more.
func (c *crasher) finish(ctx context.Context) error {
	if err := c.startAndVerify(ctx); err != nil {
		return err
	}
	err := errors.Join(c.awaitExpiry(ctx), c.verify(ctx), c.compactAll(ctx))
	c.close()
	if err != nil {
		return err
	}
	at := time.Now()
	if err := c.srv.terminate(); err != nil {
		return fmt.Errorf("on SIGTERM: %w", err)
	}
	c.ledger.ended(at)
	if err := c.startAndVerify(ctx); err != nil {
		return err
	}
	c.close()
	if err := c.srv.terminate(); err != nil {
		return fmt.Errorf("on SIGTERM: %w", err)
	}
	return checkStore(ctx, c.srv)
}

// awaitExpiry waits for the end of the leases that were left alone.
func (c *crasher) awaitExpiry(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, le := range c.ledger.leases {
		if le.ttl > abandoned {
			continue
		}
		for i := range keysPerLease {
			key := leaseKey(le.id, i)
			resp, err := c.client.Get(ctx, key)
			if err != nil {
				return err
			}
			if len(resp.Kvs) == 0 {
				continue
			}
			wctx, stop := context.WithCancel(ctx)
			events := c.client.Watch(wctx, key, clientv3.WithRev(resp.Header.Revision+1))
			_, ok := <-events
			stop()
			if !ok {
				return fmt.Errorf("lease %x does not expire: %w", le.id, ctx.Err())
			}
		}
	}
	return nil
}

func (c *crasher) compactAll(ctx context.Context) error {
	rev := c.ledger.settled
	_, err := c.client.Compact(ctx, rev, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	c.compacted = max(c.compacted, rev)
	return err
}

func toKVs(in []*mvccpb.KeyValue) []kv {
	out := []kv{}
	for _, p := range in {
		out = append(out, toKV(p))
	}
	return out
}
