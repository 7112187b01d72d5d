package load

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	listKeys    = 10_000
	listClients = 4
	pageSize    = 500
	getTime     = 3 * time.Second
	listWarm    = 500 * time.Millisecond
	listTime    = 2 * time.Second
)

// fill creates total keys with 100 clients and checks them.
func (r *Run) fill(ctx context.Context, n *node, total int) (*writes, error) {
	const clients = 100
	ws := &writes{keys: pods, size: valueSize, clients: clients}
	before, err := n.revision(ctx)
	if err != nil {
		return nil, err
	}
	out, err := r.drive(ctx, n, plan{clients: clients, ops: total / clients}, ws.create(r.Values))
	if err != nil {
		return nil, fmt.Errorf("create %d keys: %w", total, err)
	}
	return ws, ws.verify(ctx, n, r.Values, result{before, out})
}

// keys is the number of keys in the loads that read, a multiple of fill's clients.
func (r *Run) keys() int { return r.number(listKeys/100, 10) * 100 }

// get reads single keys at random, linearizable if opts do not say otherwise, by clients that are there where at says.
func get(name string, at where, opts ...clientv3.OpOption) func(context.Context, *Run) (Figures, error) {
	return func(ctx context.Context, r *Run) (Figures, error) {
		n, err := r.fresh(ctx, at)
		if err != nil {
			return nil, err
		}
		defer n.stop(ctx)
		total := r.keys()
		ws, err := r.fill(ctx, n, total) // and every server has been seen with all of it, so that serializable reads find it
		if err != nil {
			return nil, err
		}
		p := plan{clients: 100, warm: r.time(warmTime), measure: r.time(getTime)}
		profiled := r.profile(ctx, n, p)
		out, err := r.drive(ctx, n, p, func(ctx context.Context, w *worker) error {
			// A stride that is prime to the number of keys visits all of them without an order.
			i := (w.id*total/100 + w.done*7919) % total
			return checkValue(ctx, w.client, ws.keys.key(i), r.Values.at(i, 0, ws.size), opts...)
		})
		if err := firstError(err, profiled()); err != nil {
			return nil, err
		}
		return Figures{name + ".rate": out.rate(), name + ".p99": out.p99()}, nil
	}
}

// list reads the same keys whole, in pages, without values, and as a count, one way after the other.
func list(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, everywhere)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	l := &lister{total: r.keys(), prefix: pods.prefix(), end: clientv3.GetPrefixRangeEnd(pods.prefix())}
	if _, err := r.fill(ctx, n, l.total); err != nil {
		return nil, err
	}
	figures := Figures{}
	p := plan{clients: listClients, warm: r.time(listWarm), measure: r.time(listTime)}
	profiled := r.profile(ctx, n, plan{warm: p.warm, measure: 4 * (p.warm + p.measure)})
	for _, way := range []struct {
		name string
		op   operation
	}{
		{"list.unpaged", l.unpaged}, {"list.paged", l.paged}, {"list.keys-only", l.keysOnly}, {"list.count", l.count},
	} {
		out, err := r.drive(ctx, n, p, way.op)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", way.name, firstError(err, profiled()))
		}
		figures[way.name] = out.rate()
	}
	return figures, profiled()
}

type lister struct {
	total       int
	prefix, end string
}

func (l *lister) unpaged(ctx context.Context, w *worker) error {
	resp, err := w.client.Get(ctx, l.prefix, clientv3.WithRange(l.end))
	if err != nil {
		return err
	}
	return l.check(w, resp, valueSize)
}

func (l *lister) keysOnly(ctx context.Context, w *worker) error {
	resp, err := w.client.Get(ctx, l.prefix, clientv3.WithRange(l.end), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	return l.check(w, resp, 0)
}

func (l *lister) count(ctx context.Context, w *worker) error {
	resp, err := w.client.Get(ctx, l.prefix, clientv3.WithRange(l.end), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if resp.Count != int64(l.total) || len(resp.Kvs) != 0 {
		return fmt.Errorf("%w: a count of %d, want %d", ErrWrong, resp.Count, l.total)
	}
	return nil
}

// check wants all keys, in order (looked at in full by each client's first list alone), with values of the given size.
func (l *lister) check(w *worker, resp *clientv3.GetResponse, size int) error {
	if len(resp.Kvs) != l.total || resp.Count != int64(l.total) || resp.More {
		return fmt.Errorf("%w: a list of %d keys, count %d, want %d", ErrWrong, len(resp.Kvs), resp.Count, l.total)
	}
	step := 1
	if w.done > 0 {
		step = l.total / 10
	}
	last := ""
	for i := 0; i < len(resp.Kvs); i += step {
		kv := resp.Kvs[i]
		if string(kv.Key) <= last || len(kv.Value) != size || indexOf(kv.Key) < 0 {
			return fmt.Errorf("%w: %q with a value of %d bytes after %q", ErrWrong, kv.Key, len(kv.Value), last)
		}
		last = string(kv.Key)
	}
	return nil
}

// paged walks all pages as kube-apiserver does: from the key after the last, at the first page's revision.
func (l *lister) paged(ctx context.Context, w *worker) error {
	opts := []clientv3.OpOption{clientv3.WithRange(l.end), clientv3.WithLimit(pageSize)}
	from, last, seen := l.prefix, "", 0
	for {
		resp, err := w.client.Get(ctx, from, opts...)
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 || len(resp.Kvs) > pageSize || string(resp.Kvs[0].Key) <= last {
			return fmt.Errorf("%w: a page of %d keys after %q", ErrWrong, len(resp.Kvs), last)
		}
		if seen == 0 {
			opts = append(opts, clientv3.WithRev(resp.Header.Revision))
		}
		seen += len(resp.Kvs)
		final := resp.Kvs[len(resp.Kvs)-1]
		if len(final.Value) != valueSize {
			return fmt.Errorf("%w: a value of %d bytes", ErrWrong, len(final.Value))
		}
		last = string(final.Key)
		if !resp.More {
			break
		}
		from = last + "\x00"
	}
	if seen != l.total {
		return fmt.Errorf("%w: pages with %d keys together, want %d", ErrWrong, seen, l.total)
	}
	return nil
}
