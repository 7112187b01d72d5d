package compact

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Store is what compaction needs of the store.
type Store interface {
	Index() *mvcc.Index
	Do(ctx context.Context, request any, size int) (any, error)
	// Prune frees what is unreachable, calling rest between slices, and gives the number of entries removed.
	Prune(ctx context.Context, rest func(context.Context) error) (int, error)
}

// Mode is etcd's --auto-compaction-mode.
type Mode string

// The modes.
const (
	Periodic Mode = "periodic"
	Revision Mode = "revision"
)

// Options configures a Compactor.
type Options struct {
	Store  Store
	Logger *slog.Logger
	// Mode and Retention are etcd's --auto-compaction-mode and -retention: how
	// long (Periodic) or for how many revisions (Revision) history is kept. No retention: clients compact.
	Mode      Mode
	Period    time.Duration
	Revisions int64
	// Due tells whether something that the log has kept for a while is to be removed by now, and is asked every DueEvery, a minute at most. Optional.
	Due      func(context.Context) bool
	DueEvery time.Duration
}

// Times that rule the compactor; the first two are etcd's.
const (
	revisionEvery = 5 * time.Minute // between compactions by revision
	periodicEvery = time.Hour       // between compactions by time, if the period is no shorter
	samples       = 10              // of the revision per interval
	garbageEvery  = time.Minute     // looks for superseded entries that no compaction freed
	retryEvery    = 30 * time.Second
)

// Compactor compacts, and scrubs after compactions whoever made them.
type Compactor struct {
	opts  Options
	work  chan struct{}
	hurry atomic.Int32 // callers of Finish
}

// New makes a compactor.
func New(opts Options) *Compactor {
	c := &Compactor{opts: opts, work: make(chan struct{}, 1)}
	c.Compacted() // what a crash left over
	return c
}

// Compacted tells the compactor that there is something to free.
func (c *Compactor) Compacted() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// Finish frees everything that is free now, without pauses: etcd's physical compaction.
func (c *Compactor) Finish(ctx context.Context) error {
	c.hurry.Add(1)
	defer c.hurry.Add(-1)
	_, err := c.opts.Store.Prune(ctx, func(ctx context.Context) error { return ctx.Err() })
	return err
}

// Run works until ctx ends.
func (c *Compactor) Run(ctx context.Context) error {
	interval := c.interval()
	seen := history{period: c.opts.Period}
	seen.add(time.Now(), c.opts.Store.Index().Rev) // history is kept from here on
	ticker := time.NewTicker(max(interval/samples, time.Millisecond))
	if interval == 0 {
		ticker.Stop()
	}
	defer ticker.Stop()
	garbage := time.NewTicker(c.garbageEvery())
	defer garbage.Stop()
	retry := time.NewTimer(0)
	retry.Stop()
	ticks := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			seen.add(time.Now(), c.opts.Store.Index().Rev)
			if ticks++; ticks >= samples && (c.compact(ctx, &seen) || c.opts.Mode == Revision) {
				ticks = 0
			}
			continue
		case <-garbage.C:
			if !c.garbage(ctx) {
				continue
			}
		case <-c.work:
		case <-retry.C:
		}
		if !c.scrub(ctx) {
			retry.Reset(retryEvery)
		}
	}
}

func (c *Compactor) garbageEvery() time.Duration {
	if c.opts.DueEvery <= 0 {
		return garbageEvery
	}
	return min(c.opts.DueEvery, garbageEvery)
}

// garbage tells whether there is something to free, by no compaction of late.
func (c *Compactor) garbage(ctx context.Context) bool {
	due := c.opts.Due != nil && c.opts.Due(ctx)
	return due || c.opts.Store.Index().Garbage() > 0
}

// interval is the time between automatic compactions, 0 for none.
func (c *Compactor) interval() time.Duration {
	switch {
	case c.opts.Mode == Revision && c.opts.Revisions > 0:
		return revisionEvery
	case c.opts.Mode == Periodic && c.opts.Period > 0:
		return min(c.opts.Period, periodicEvery)
	}
	return 0
}

// compact makes the automatic compaction that is due; false means that it is due still: by time
// it is tried again at the next sample, as in etcd.
func (c *Compactor) compact(ctx context.Context, seen *history) bool {
	rev := seen.before(time.Now())
	if c.opts.Mode == Revision {
		rev = c.opts.Store.Index().Rev - c.opts.Revisions
	}
	if rev <= max(c.opts.Store.Index().Compact, 0) {
		return false
	}
	_, err := c.opts.Store.Do(ctx, &pb.CompactionRequest{Revision: rev}, 0)
	switch {
	case err == nil:
		c.opts.Logger.Info("compacted", "revision", rev, "mode", string(c.opts.Mode))
		c.Compacted()
	case ctx.Err() == nil && !errors.Is(err, mvcc.ErrCompacted):
		c.opts.Logger.Warn("automatic compaction failed", "revision", rev, "error", err)
		return false
	}
	return true
}

// scrub frees what is free, a quarter of the time at most; false means that it is to be tried again.
func (c *Compactor) scrub(ctx context.Context) bool {
	start := time.Now()
	last := start
	removed, err := c.opts.Store.Prune(ctx, func(ctx context.Context) error {
		if c.hurry.Load() > 0 {
			return ctx.Err()
		}
		pause := time.NewTimer(3 * time.Since(last))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		last = time.Now()
		return ctx.Err()
	})
	if removed > 0 {
		c.opts.Logger.Info("scrubbed the log", "entries", removed, "took", time.Since(start))
	}
	if err != nil && ctx.Err() == nil {
		c.opts.Logger.Warn("scrubbing failed, trying again later", "error", err)
		return false
	}
	return true
}

// history remembers which revision was current when, for compactions by time.
type history struct {
	period time.Duration
	seen   []struct {
		at  time.Time
		rev int64
	}
}

func (h *history) add(now time.Time, rev int64) {
	h.seen = append(h.seen, struct {
		at  time.Time
		rev int64
	}{now, rev})
}

// before gives the revision that was current a period ago, or 0 if that is not
// known yet, and forgets what came before.
func (h *history) before(now time.Time) int64 {
	i := 0
	for i < len(h.seen) && !h.seen[i].at.After(now.Add(-h.period)) {
		i++
	}
	if i == 0 {
		return 0
	}
	h.seen = h.seen[i-1:]
	return h.seen[0].rev
}
