package load

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/test/bench/server"
	"github.com/keelson-io/keelson/test/bench/stats"
)

const (
	failoverKills   = 10
	failoverClients = 9                      // as many at each member
	failoverAttempt = 100 * time.Millisecond // then a client tries the next member
	failoverPause   = 5 * time.Millisecond   // of a client after each attempt
	failoverRest    = 2 * time.Second        // of the cluster, whole again, before the next kill
)

// failover kills the leader while clients create keys, again and again, and takes the time in which none of them got a
// write done. Each client has a member of its own, where it begins every create, and goes on to the next one when an attempt
// has failed or taken too long. The member is started again before the next kill.
func failover(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, everywhere)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	before, err := n.revision(ctx)
	if err != nil {
		return nil, err
	}
	f := newFailing(r, n)
	gaps, err := f.run(ctx, r.number(failoverKills, 1))
	if err != nil {
		return nil, err
	}
	out := &outcome{least: slices.Min(f.done)}
	for _, done := range f.done {
		out.done += done
	}
	if err := f.writes.verify(ctx, n, r.Values, result{before, out}); err != nil {
		return nil, err
	}
	spread := stats.Of(gaps)
	return Figures{"failover.gap": spread.Median, "failover.longest": spread.Max}, nil
}

// failing is a cluster that fails under its clients.
type failing struct {
	*Run
	n       *node
	members []*clientv3.Client // a connection to each, which the clients share
	writes  *writes
	stop    chan struct{} // closed when the clients shall end, each when its create is acknowledged
	done    []int         // creates of each client, which it alone writes until it has ended
	gap     gap
}

func newFailing(r *Run, n *node) *failing {
	f := &failing{
		Run: r, n: n, stop: make(chan struct{}), done: make([]int, failoverClients),
		writes: &writes{keys: pods, size: valueSize, clients: failoverClients},
	}
	for at := range n.procs {
		f.members = append(f.members, n.first(at).Client)
	}
	return f
}

// run has the clients write until the leader has been killed so many times, and gives the time of each in seconds.
func (f *failing) run(ctx context.Context, kills int) ([]float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	for client := range failoverClients {
		group.Go(func() error { return f.create(ctx, client) })
	}
	var gaps []float64
	group.Go(func() error {
		defer close(f.stop)
		for i := range kills {
			d, err := f.kill(ctx)
			if err != nil {
				return fmt.Errorf("kill %d: %w", i+1, err)
			}
			gaps = append(gaps, d.Seconds())
		}
		return nil
	})
	err := group.Wait()
	return gaps, err
}

// create has one client create one key after the other.
func (f *failing) create(ctx context.Context, client int) error {
	for {
		i := f.done[client]*failoverClients + client
		if err := f.createOne(ctx, client, i); err != nil {
			return err
		}
		f.gap.success()
		f.done[client]++
		select {
		case <-f.stop:
			return nil
		default:
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// createOne tries one member after the other until one has acknowledged the create of the key of index i.
func (f *failing) createOne(ctx context.Context, client, i int) error {
	key, value := f.writes.keys.key(i), f.Values.at(i, 0, valueSize)
	for attempt := 0; ; attempt++ {
		err := try(ctx, f.members[(client+attempt)%len(f.members)], known{key, value}, attempt > 0)
		if err == nil || errors.Is(err, ErrWrong) {
			return err
		}
		if stopped := pause(ctx); stopped != nil {
			return fmt.Errorf("create %s: %w, at last %w", key, stopped, err)
		}
	}
}

// try makes one attempt. If there was one before, of which nothing was heard, its write may be there.
func try(ctx context.Context, c *clientv3.Client, k known, again bool) error {
	ctx, cancel := context.WithTimeout(ctx, failoverAttempt)
	defer cancel()
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(k.key), "=", 0)).
		Then(clientv3.OpPut(k.key, k.value)).
		Else(clientv3.OpGet(k.key)).
		Commit()
	switch {
	case err != nil:
		return err
	case resp.Succeeded:
		return nil
	case len(resp.Responses) != 1 || !again:
		return fmt.Errorf("%w: the create of %s, a new key, was refused", ErrWrong, k.key)
	}
	kvs := resp.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) != 1 || string(kvs[0].Value) != k.value {
		return fmt.Errorf("%w: the create of %s was refused, and it has not the value of an earlier attempt", ErrWrong, k.key)
	}
	return nil
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(failoverPause):
		return nil
	}
}

// kill lets the cluster rest, kills the leader, and starts it again when the others have written on. It gives the time
// without a write.
func (f *failing) kill(ctx context.Context) (time.Duration, error) {
	if err := f.n.rest(ctx, f.time(failoverRest)); err != nil {
		return 0, err
	}
	old, err := f.n.agreement(ctx, f.n.all())
	if err != nil {
		return 0, err
	}
	f.gap.begin()
	if err := f.n.procs[old.leader].Kill(); err != nil {
		return 0, err
	}
	others := slices.DeleteFunc(f.n.all(), func(at int) bool { return at == old.leader })
	if _, err := f.n.agreement(ctx, others); err != nil {
		return 0, err
	}
	select { // what is acknowledged from now on comes from the new leader
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-f.gap.next():
	}
	longest := f.gap.end()
	f.Log.Debug("the leader was killed", "server", f.Spec.Name, "without writes", longest)
	return longest, f.n.restart(ctx, old.leader)
}

// restart starts a server again that has ended, and waits until it serves and all members have a leader.
func (n *node) restart(ctx context.Context, at int) error {
	p, err := server.Start(n.spec, n.opts[at])
	if err != nil {
		return err
	}
	n.procs[at] = p
	if err := n.awaitOne(ctx, at, known{key: probe}); err != nil {
		return fmt.Errorf("wait until a member serves again: %w", err)
	}
	_, err = n.agreement(ctx, n.all())
	return err
}

// gap finds the longest time between two successes one after the other. Its methods may be called from several goroutines.
type gap struct {
	mu      sync.Mutex
	last    time.Time     // the last success
	longest time.Duration // since begin, up to the last success
	waiting chan struct{} // closed by the next success; nil when nobody waits
}

func (g *gap) success() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !g.last.IsZero() {
		g.longest = max(g.longest, now.Sub(g.last))
	}
	g.last = now
	if g.waiting != nil {
		close(g.waiting)
		g.waiting = nil
	}
}

// begin forgets what was before; but a gap that has begun with the last success before it counts from there.
func (g *gap) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.longest = 0
}

// next is closed by the next success.
func (g *gap) next() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == nil {
		g.waiting = make(chan struct{})
	}
	return g.waiting
}

// end gives the longest gap since begin.
func (g *gap) end() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.longest
}
