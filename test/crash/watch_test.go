package crash

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watcher follows a part of the keys over all restarts, and holds what it was
// told since the last settlement.
type watcher struct {
	name string
	key  string
	opts []clientv3.OpOption

	mu      sync.Mutex
	next    int64 // the revision to go on from
	events  []event
	seen    map[int64]time.Time
	err     error
	changed chan struct{} // closed and replaced at each change
}

func newWatcher(name, key string, opts ...clientv3.OpOption) *watcher {
	return &watcher{name: name, key: key, opts: opts, next: 2, seen: map[int64]time.Time{}, changed: make(chan struct{})}
}

// run watches from where the watcher is until ctx ends or the watch is lost.
func (w *watcher) run(ctx context.Context, client *clientv3.Client) {
	w.mu.Lock()
	start := w.next
	w.mu.Unlock()
	opts := append([]clientv3.OpOption{clientv3.WithRev(start)}, w.opts...)
	for resp := range client.Watch(ctx, w.key, opts...) {
		err := resp.Err()
		w.mu.Lock()
		if err == nil {
			err = w.take(resp)
		}
		if err != nil && ctx.Err() == nil && w.err == nil {
			w.err = fmt.Errorf("watcher %s: %w", w.name, err)
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
	}
}

// take checks the order of a response's events: revisions rise from one response to the next, and are never split.
func (w *watcher) take(resp clientv3.WatchResponse) error {
	last := w.next
	for _, e := range resp.Events {
		if e.Kv.ModRevision < last {
			return fmt.Errorf("revision %d after %d", e.Kv.ModRevision, last-1)
		}
		last = e.Kv.ModRevision
		if _, ok := w.seen[last]; !ok {
			w.seen[last] = time.Now()
		}
		ev := event{kv: toKV(e.Kv), deleted: e.Type == clientv3.EventTypeDelete}
		if e.PrevKv != nil {
			prev := toKV(e.PrevKv)
			ev.prev = &prev
		}
		w.events = append(w.events, ev)
	}
	if len(resp.Events) > 0 {
		if resp.Header.Revision < last {
			return fmt.Errorf("header revision %d with an event of revision %d", resp.Header.Revision, last)
		}
		w.next = last + 1
	}
	return nil
}

// await waits until the watcher has been told of rev.
func (w *watcher) await(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		w.mu.Lock()
		next, err, changed := w.next, w.err, w.changed
		w.mu.Unlock()
		if err != nil || next > rev {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("watcher %s waits for revision %d, it is at %d: %w", w.name, rev, next-1, ctx.Err())
		}
	}
}

// position is the last revision that the watcher was told of.
func (w *watcher) position() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next - 1
}

// collect adds what the watcher was told to the history.
func (w *watcher) collect(history map[int64]*revision) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		r := history[e.mod]
		if r == nil {
			r = &revision{seen: w.seen[e.mod]}
			history[e.mod] = r
		}
		e.prev = nil // the ledger knows it
		r.events = append(r.events, e)
	}
	w.events, w.seen = nil, map[int64]time.Time{}
	return w.err
}

// compare holds what the watcher was told up to end against what it ought to have been told.
func (w *watcher) compare(want []event, end int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.events) && w.events[n].mod <= end {
		n++
	}
	got := w.events[:n]
	w.events, w.seen = slices.Clone(w.events[n:]), map[int64]time.Time{}
	return differ(w.name, got, want)
}

func differ(name string, got, want []event) error {
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		if g.kv != w.kv || g.deleted != w.deleted || !equalKV(g.prev, w.prev) {
			return fmt.Errorf("watcher %s was told %v (before: %v), want %v (before: %v)", name, g, g.prev, w, w.prev)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("watcher %s was told %d events, want %d", name, len(got), len(want))
	}
	return nil
}

func toKV(p *mvccpb.KeyValue) kv {
	return kv{key: string(p.Key), value: string(p.Value), create: p.CreateRevision, mod: p.ModRevision, version: p.Version, lea: p.Lease}
}
