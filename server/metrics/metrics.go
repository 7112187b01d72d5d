package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/compact"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Options say what is counted.
type Options struct {
	// SlowApply is the time from which on an append counts as slow: --warning-apply-duration.
	SlowApply time.Duration
	// Extensive adds histograms of the RPCs: --metrics=extensive.
	Extensive bool
}

// Metrics counts what a server does.
type Metrics struct {
	opts    Options
	calls   calls
	clients *clients

	received, sent atomic.Uint64 // bytes

	syncs     *histogram // of what makes a write durable
	commits   *histogram // of transactions of the database
	slow      atomic.Uint64
	puts      atomic.Uint64
	putBytes  atomic.Int64
	deletes   atomic.Uint64
	granted   atomic.Uint64
	revoked   atomic.Uint64
	expired   atomic.Uint64
	renewed   atomic.Uint64
	ttls      *histogram
	scrubbed  atomic.Uint64
	scrubbedS atomic.Int64 // when last, in seconds since 1970; 0: not yet
	scrubs    *histogram
	slices    *histogram

	peers    peers
	promoted promotions
	leads    func() bool // set by Register
}

// New makes the counters. They count from here on; Register shows them.
func New(opts Options) *Metrics {
	return &Metrics{
		opts:    opts,
		calls:   newCalls(opts.Extensive),
		clients: newClients(),
		syncs:   newSeconds(time.Millisecond, 14),
		commits: newSeconds(time.Millisecond, 14),
		ttls:    newHistogram(1, 1, 24),
		scrubs:  newMilliseconds(100*time.Millisecond, 14),
		slices:  newMilliseconds(time.Millisecond, 13),

		peers:    peers{known: map[uint64]*Peer{}},
		promoted: promotions{failed: map[string]uint64{}},
		leads:    func() bool { return false },
	}
}

// Appended is told of every append to the log and says whether it was slow.
func (m *Metrics) Appended(took time.Duration) (slow bool) {
	if slow = took > m.opts.SlowApply; slow {
		m.slow.Add(1)
	}
	return slow
}

// Synced is told of each sync that makes writes durable, and Committed of each transaction of the database. For a log that is one file, or a
// database elsewhere, an append is both.
func (m *Metrics) Synced(took time.Duration)    { m.syncs.observe(int64(took)) }
func (m *Metrics) Committed(took time.Duration) { m.commits.observe(int64(took)) }

// Published is told of the events of every commit.
func (m *Metrics) Published(events []*mvcc.Event) {
	puts, bytes := uint64(0), int64(0)
	for _, e := range events {
		if !e.Tombstone() {
			puts++
			bytes += int64(len(e.Key)) + int64(e.Size)
		}
	}
	m.puts.Add(puts)
	m.putBytes.Add(bytes)
	m.deletes.Add(uint64(len(events)) - puts)
}

// Remaining tells what is left of a lease, and whether there is one, before a commit.
type Remaining func(id int64) (time.Duration, bool)

// LeasesChanged is told of the leases that a commit granted, checkpointed or revoked, with the
// index after it, before the lessor is.
func (m *Metrics) LeasesChanged(ix *mvcc.Index, ids []int64, before Remaining) {
	for _, id := range ids {
		left, known := before(id)
		l := ix.Lease(id)
		switch {
		case l != nil && !known:
			m.granted.Add(1)
			m.ttls.observe(l.TTL)
		case l == nil && known:
			m.revoked.Add(1)
			if left <= 0 {
				m.expired.Add(1)
			}
		}
	}
}

// Compactions gives a store that does what s does, and counts what its prunings free.
func (m *Metrics) Compactions(s compact.Store) compact.Store { return pruned{Store: s, m: m} }

type pruned struct {
	compact.Store
	m *Metrics
}

func (p pruned) Prune(ctx context.Context, rest func(context.Context) error) (int, error) {
	start := time.Now()
	slice := start
	n, err := p.Store.Prune(ctx, func(ctx context.Context) error {
		p.m.slices.observe(int64(time.Since(slice)))
		err := rest(ctx)
		slice = time.Now()
		return err
	})
	if n > 0 {
		p.m.scrubbed.Add(uint64(n))
		p.m.scrubs.observe(int64(time.Since(start)))
		p.m.scrubbedS.Store(time.Now().Unix())
	}
	return n, err
}
