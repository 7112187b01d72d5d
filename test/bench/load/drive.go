package load

import (
	"context"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/test/bench/stats"
)

// plan says how long clients work: for a time or for a number of operations, whichever is over first; a zero is no bound.
type plan struct {
	clients int
	warm    time.Duration // operations that end in it are done but not counted
	measure time.Duration
	ops     int // of each client
}

// worker is one client in a closed loop: its next operation begins when the last one has ended.
type worker struct {
	id     int
	client *clientv3.Client
	at     int   // the server's index
	done   int   // operations answered
	last   int64 // revision of its last write

	sum  uint64 // of mix over its writes
	hist stats.Histogram
}

// wrote takes note of an acknowledged write. A client's revisions rise, since it waits for each.
func (w *worker) wrote(index int, revision int64) error {
	if revision <= w.last {
		return fmt.Errorf("%w: a write at revision %d after one at %d", ErrWrong, revision, w.last)
	}
	w.last = revision
	w.sum += mix(index, revision)
	return nil
}

// outcome is what all workers did together.
type outcome struct {
	done    int           // operations answered, those that were not counted included
	least   int           // operations that every client has done
	sum     uint64        // of mix over all writes
	counted int           // operations that ended within the measure
	elapsed time.Duration // of the measure
	hist    stats.Histogram
	servers []int // counted, of each server's clients
}

func (o *outcome) rate() float64 { return float64(o.counted) / o.elapsed.Seconds() }

func (o *outcome) p99() float64 { return o.hist.Quantile(0.99).Seconds() }

// leastShare gives the share of the server that has done least, of 1.
func (o *outcome) leastShare() float64 { return float64(slices.Min(o.servers)) / float64(o.counted) }

// drive has p.clients workers do op until the plan is over. The first error ends all. In a cluster it is an error, too,
// when the leader is another one afterwards.
func (r *Run) drive(ctx context.Context, n *node, p plan, op func(context.Context, *worker) error) (*outcome, error) {
	if r.Ops > 0 && p.ops == 0 {
		p = plan{clients: p.clients, ops: r.Ops}
	}
	workers := make([]*worker, p.clients)
	for i := range workers {
		c := n.conn(i)
		workers[i] = &worker{id: i, client: c.Client, at: c.at}
	}
	from := time.Now().Add(p.warm)
	to := from.Add(p.measure)
	if p.measure == 0 {
		to = from.Add(time.Hour)
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, w := range workers {
		group.Go(func() error { return w.loop(gctx, p.ops, window{from, to}, op) })
	}
	if err := n.stayed(ctx, group.Wait()); err != nil {
		return nil, err
	}
	out := &outcome{elapsed: p.measure, least: workers[0].done, servers: make([]int, len(n.procs))}
	if out.elapsed == 0 {
		out.elapsed = time.Since(from)
	}
	for _, w := range workers {
		out.done += w.done
		out.least = min(out.least, w.done)
		out.sum += w.sum
		out.hist.Merge(&w.hist)
		out.servers[w.at] += int(w.hist.Count())
	}
	out.counted = int(out.hist.Count())
	if out.counted == 0 {
		return nil, fmt.Errorf("%w: not one operation ended in %v", ErrWrong, out.elapsed)
	}
	return out, nil
}

// window is the time in which operations must end to count.
type window struct{ from, to time.Time }

func (w *worker) loop(ctx context.Context, ops int, in window, op func(context.Context, *worker) error) error {
	begin := time.Now()
	for ops == 0 || w.done < ops {
		if err := op(ctx, w); err != nil {
			return fmt.Errorf("operation %d of client %d: %w", w.done, w.id, err)
		}
		w.done++
		end := time.Now()
		if end.After(in.to) {
			return nil
		}
		if !end.Before(in.from) {
			w.hist.Record(end.Sub(begin))
		}
		begin = end
	}
	return nil
}
