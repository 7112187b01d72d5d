package load

import (
	"context"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/test/bench/server"
)

// settleTime is how long a server is left alone before its memory is read.
const settleTime = 3 * time.Second

// memory reads the resident memory after as many creates as there are keys in the lists.
func memory(ctx context.Context, r *Run) (Figures, error) {
	n, err := r.fresh(ctx)
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
	return Figures{"memory.10k": float64(rss)}, nil
}

// settledRSS leaves the server alone for a while and reads its resident memory.
func (n *node) settledRSS(ctx context.Context, settle time.Duration) (int64, error) {
	if err := n.rest(ctx, settle); err != nil {
		return 0, err
	}
	return server.ReadRSS(n.Pid())
}

// rest lets time go by, as long as the server lives.
func (n *node) rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("leave the server alone: %w", ctx.Err())
	case <-n.Exited():
		return server.ErrExited
	case <-time.After(d):
		return nil
	}
}
