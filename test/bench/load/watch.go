package load

import (
	"bytes"
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

const (
	watchWriters  = 100
	watchedKeys   = 1000
	watchPerGroup = 10
	watchTime     = 3 * time.Second
)

// watcher follows one prefix and checks what it is told: every write once, in order. Its fields belong to its goroutine
// until follow has returned.
type watcher struct {
	prefix string
	prevKV bool
	events clientv3.WatchChan

	count  int
	sum    uint64  // of mix over the events
	last   int64   // revision of the last event
	byKey  []int64 // with prevKV: the revision of each key as the watcher knows it, 0 for unknown
	ending time.Time
}

// watch opens a watch on the connection from the revision on and waits until the server has confirmed it.
func (w *watcher) watch(ctx context.Context, c *clientv3.Client, from int64) error {
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify()}
	if w.prevKV {
		opts = append(opts, clientv3.WithPrevKV())
	}
	w.events = c.Watch(clientv3.WithRequireLeader(ctx), w.prefix, opts...)
	resp, ok := <-w.events
	if !ok || resp.Err() != nil || !resp.Created {
		return fmt.Errorf("open a watch of %s: %w", w.prefix, firstError(ctx.Err(), resp.Err(), ErrWrong))
	}
	return nil
}

// follow takes events until it has seen the marker.
func (w *watcher) follow(ctx context.Context, marker string) error {
	for resp := range w.events {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("watch %s: %w", w.prefix, err)
		}
		for _, ev := range resp.Events {
			if string(ev.Kv.Key) == marker {
				w.ending = time.Now()
				return nil
			}
			if err := w.take(ev); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("watch %s: %w", w.prefix, firstError(ctx.Err(), ErrWrong))
}

func (w *watcher) take(ev *clientv3.Event) error {
	i := indexOf(ev.Kv.Key)
	if i < 0 || ev.Kv.ModRevision <= w.last || !bytes.HasPrefix(ev.Kv.Key, []byte(w.prefix)) || len(ev.Kv.Value) != valueSize {
		return fmt.Errorf("%w: watch %s: %q at revision %d after %d", ErrWrong, w.prefix, ev.Kv.Key, ev.Kv.ModRevision, w.last)
	}
	if w.prevKV {
		prev := ev.PrevKv
		if prev == nil || !bytes.Equal(prev.Key, ev.Kv.Key) || (w.byKey[i] != 0 && prev.ModRevision != w.byKey[i]) {
			return fmt.Errorf("%w: watch %s: %q at revision %d has not the right prev_kv", ErrWrong, w.prefix, ev.Kv.Key, ev.Kv.ModRevision)
		}
		w.byKey[i] = ev.Kv.ModRevision
	}
	w.last = ev.Kv.ModRevision
	w.count++
	w.sum += mix(i, ev.Kv.ModRevision)
	return nil
}

// watchUpdates has 100 clients update 1,000 keys under a prefix that ten watchers, each on a connection of its own,
// follow with prev_kv. The rate is that of all events delivered, from the first write until the last watcher has the last.
// Where there are several servers, one takes all writes, the leader in a cluster, and another one has all watchers.
func watchUpdates(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, atLeader)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	u := newUpdates(r.Values, watchedKeys, watchWriters)
	if err := u.createAll(ctx, r, n); err != nil {
		return nil, err
	}
	watchers, err := tenWatchers(ctx, n, u.keys)
	if err != nil {
		return nil, err
	}
	warm := phase{name: "warm", plan: plan{clients: watchWriters, measure: r.time(warmTime)}}
	if _, err := r.updatePhase(ctx, n, warm, u, watchers); err != nil {
		return nil, err
	}
	p := plan{clients: watchWriters, measure: r.time(watchTime)}
	profiled := r.profile(ctx, n, p)
	res, err := r.updatePhase(ctx, n, phase{name: "measure", plan: p}, u, watchers)
	if err := firstError(err, profiled()); err != nil {
		return nil, err
	}
	return Figures{
		"watch-10.events": float64(res.events) / res.delivered.Seconds(),
		"watch-10.writes": res.out.rate(),
	}, nil
}

func tenWatchers(ctx context.Context, n *node, keys keyspace) ([]*watcher, error) {
	rev, err := n.revision(ctx)
	if err != nil {
		return nil, err
	}
	watchers := make([]*watcher, watchPerGroup)
	for i := range watchers {
		c, err := n.connect(ctx, n.follower())
		if err != nil {
			return nil, err
		}
		watchers[i] = &watcher{prefix: keys.prefix(), prevKV: true, byKey: make([]int64, watchedKeys)}
		if err := watchers[i].watch(ctx, c.Client, rev+1); err != nil {
			return nil, err
		}
	}
	return watchers, nil
}

// phase is a time of writing that ends with a marker, a key that comes after all of them.
type phase struct {
	name string
	plan plan
}

type phaseResult struct {
	out       *outcome
	events    int
	delivered time.Duration // from the first write until the last watcher had the last event
}

// updatePhase writes while the watchers follow, then checks that each of them was told of every write.
func (r *Run) updatePhase(ctx context.Context, n *node, ph phase, u *updates, watchers []*watcher) (*phaseResult, error) {
	marker := u.keys.prefix() + "~" + ph.name
	var group errgroup.Group
	for _, w := range watchers {
		w.count, w.sum = 0, 0
		group.Go(func() error { return w.follow(ctx, marker) })
	}
	begin := time.Now()
	out, err := r.drive(ctx, n, ph.plan, u.update)
	if err != nil {
		return nil, err
	}
	if _, err := createKey(ctx, n.conns[0].Client, marker, ph.name); err != nil {
		return nil, err
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	res := &phaseResult{out: out}
	for i, w := range watchers {
		if w.count != out.done || w.sum != out.sum {
			return nil, fmt.Errorf("%w: watcher %d was told of %d of %d writes, or of others", ErrWrong, i, w.count, out.done)
		}
		res.events += w.count
		res.delivered = max(res.delivered, w.ending.Sub(begin))
	}
	return res, nil
}

// watchPrefixes has 100 clients create keys under 1,000 prefixes, each with its own watcher; the watchers share the
// connections. The rate is that of the writes; whether everything was delivered, and how late, is looked at afterwards.
func watchPrefixes(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, everywhere)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	ws := &writes{keys: keyspace{resource: "secrets", namespaces: 1000}, size: valueSize, clients: watchWriters}
	rev, err := n.revision(ctx)
	if err != nil {
		return nil, err
	}
	watchers := make([]*watcher, ws.keys.namespaces)
	var group errgroup.Group
	for i := range watchers {
		w := &watcher{prefix: ws.keys.namespace(i)}
		if err := w.watch(ctx, n.conn(i).Client, rev+1); err != nil {
			return nil, err
		}
		watchers[i] = w
		group.Go(func() error { return w.follow(ctx, w.prefix+"~end") })
	}
	p := plan{clients: watchWriters, warm: r.time(warmTime), measure: r.time(watchTime)}
	profiled := r.profile(ctx, n, p)
	out, err := r.drive(ctx, n, p, ws.create(r.Values))
	if err := firstError(err, profiled()); err != nil {
		return nil, err
	}
	stopped := time.Now()
	if err := ws.endAll(ctx, r, n); err != nil {
		return nil, err
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	lag, err := allTold(watchers, out, stopped)
	if err != nil {
		return nil, err
	}
	return Figures{"watch-1000.rate": out.rate(), "watch-1000.lag": lag.Seconds()}, nil
}

// endAll writes the marker of every prefix.
func (ws *writes) endAll(ctx context.Context, r *Run, n *node) error {
	p := plan{clients: watchWriters, ops: ws.keys.namespaces / watchWriters}
	_, err := r.drive(ctx, n, p, func(ctx context.Context, w *worker) error {
		_, err := createKey(ctx, w.client, ws.keys.namespace(ws.index(w))+"~end", "end")
		return err
	})
	return err
}

// allTold checks that the watchers together were told of every write. Each has checked its own prefix and order, so
// nobody was told of another's. It gives the time from the last write until the last watcher had its marker.
func allTold(watchers []*watcher, out *outcome, stopped time.Time) (time.Duration, error) {
	var count int
	var sum uint64
	var lag time.Duration
	for _, w := range watchers {
		count += w.count
		sum += w.sum
		lag = max(lag, w.ending.Sub(stopped))
	}
	if count != out.done || sum != out.sum {
		return 0, fmt.Errorf("%w: the watchers were told of %d of %d writes, or of others", ErrWrong, count, out.done)
	}
	return lag, nil
}
