package load

import (
	"context"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/test/bench/server"
)

const (
	// settleTime is how long a server is left alone before its memory is read.
	settleTime    = 3 * time.Second
	memoryUpdates = 1_000_000
	memoryClients = 100
)

// memory reads the resident memory after as many creates as there are keys in the lists.
func memory(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, everywhere)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	if _, err := r.fill(ctx, n, r.keys()); err != nil {
		return nil, err
	}
	rss, err := n.settledRSS(ctx, r.time(settleTime))
	if err != nil {
		return nil, err
	}
	return Figures{"memory.10k": rss.largest}, nil
}

// memoryOfMembers reads the resident memory of a cluster's members after the same creates, and again after many more
// updates of the same keys, without a compaction. That they are all there is looked at last, since that is work.
func memoryOfMembers(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx, atLeader)
	if err != nil {
		return nil, err
	}
	defer n.stop(ctx)
	u := newUpdates(r.Values, r.keys(), memoryClients)
	if err := u.createAll(ctx, r, n); err != nil {
		return nil, err
	}
	few, err := n.settledRSS(ctx, r.time(settleTime))
	if err != nil {
		return nil, err
	}
	p := plan{clients: memoryClients, ops: r.number(memoryUpdates/memoryClients, 10)}
	if _, err := r.drive(ctx, n, p, u.update); err != nil {
		return nil, fmt.Errorf("update %d times: %w", p.clients*p.ops, err)
	}
	many, err := n.settledRSS(ctx, r.time(settleTime))
	if err != nil {
		return nil, err
	}
	return Figures{
		"memory.10k-largest": few.largest, "memory.10k-mean": few.mean,
		"memory.1m-largest": many.largest, "memory.1m-mean": many.mean,
	}, u.verify(ctx, n)
}

// resident is how much memory the servers have, in bytes.
type resident struct{ largest, mean float64 }

// settledRSS leaves the servers alone for a while and reads their resident memory.
func (n *node) settledRSS(ctx context.Context, settle time.Duration) (resident, error) {
	if err := n.rest(ctx, settle); err != nil {
		return resident{}, err
	}
	var all resident
	for _, p := range n.procs {
		rss, err := server.ReadRSS(p.Pid())
		if err != nil {
			return resident{}, err
		}
		all.largest = max(all.largest, float64(rss))
		all.mean += float64(rss) / float64(len(n.procs))
	}
	return all, nil
}

// rest lets time go by. That a server did not live through it is an error.
func (n *node) rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("leave the servers alone: %w", ctx.Err())
	case <-time.After(d):
	}
	for _, p := range n.procs {
		select {
		case <-p.Exited():
			return server.ErrExited
		default:
		}
	}
	return nil
}
