package sqllog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Options configures a Store.
type Options struct {
	// Log is the log to serve. Required.
	Log drivers.Log
	// Logger gets what operators should know. Default: slog.Default.
	Logger *slog.Logger
	// Server gives the member id that is written into batches. Default: 0.
	Server func() uint64
	// MinLeaseTTL is the shortest TTL in seconds that a lease is granted. Default 2.
	MinLeaseTTL int64
	// Term gives the term in which this server leads the others: what was decided by the deadlines of leases in another one is refused. Default: 0.
	Term func() uint64
	// CacheBytes bounds the memory for cached values. Default 16 MiB.
	CacheBytes int
	// MaxBatchRequests and MaxBatchBytes bound what one append carries; a single
	// request may exceed the bytes. Defaults 1,024 and 4 MiB.
	MaxBatchRequests int
	MaxBatchBytes    int
	// MaxWaiting bounds the requests waiting for the commit loop; beyond it,
	// callers of Do block. Default 4,096.
	MaxWaiting int
	// Timeout is how long a batch may take before its callers, and those
	// waiting behind it, are told ErrTimeout. Default 7 s.
	Timeout time.Duration
	// Publish gets the events of every commit in order of revision, with the index after
	// it, once readers see that index and before the commit's requests are
	// answered. It must not block. Optional.
	Publish func(*mvcc.Index, []*mvcc.Event)
	// Leases gets the ids of the leases that a commit granted, checkpointed or
	// revoked, with the index after it; otherwise like Publish. Optional.
	Leases func(*mvcc.Index, []int64)
	// Members gets the index after a commit that changed the members of the cluster; otherwise like Publish. Optional.
	Members func(*mvcc.Index)
	// Alarms gets the index after a commit that raised or disarmed an alarm; otherwise like Publish. Optional.
	Alarms func(*mvcc.Index)
	// Corrupt tells by the alarms of an index whether this server must not change the data. Default: if any CORRUPT alarm is raised.
	Corrupt func(*mvcc.Index) bool
	// Reloaded gets the index when it was loaded anew, since this server had fallen behind what was
	// scrubbed: what lies between it and the last one published was not told. It must not block. Optional.
	Reloaded func(*mvcc.Index)
	// Diverged is told once that the log has another history than the one served, from when on
	// every request is refused with ErrStorage. It must not block. Optional.
	Diverged func(error)
	// Compacted is told that there is something for Prune to free, after a compaction by whatever server. It must not block. Optional.
	Compacted func()
	// Retain is how long entries stay in the log, for Changes and Rewound, after a later one has superseded them, although a compaction has freed
	// them. See retain.go. Default: not at all.
	Retain time.Duration
	// Pressed tells that the log has come to a size at which Retain is to give way. needed, which takes a while, counts the entries that are kept or not
	// superseded, and the bytes of their keys and values. It is not to be called later. Optional.
	Pressed func(ctx context.Context, needed func() (entries, bytes int64)) bool
	// Peers are the other servers on a log that is shared. Without it this server scrubs, at once, and trusts the log to keep
	// what it has scrubbed.
	Peers Peers
	// Appended is told of every append: how many requests and entries it
	// carried and how long it took. For metrics. Optional.
	Appended func(requests, entries int, took time.Duration)
	// Now is the clock for batch times. Default time.Now.
	Now func() time.Time

	// loadAtOnce is how many entries are loaded, at least, before what is superseded among them is taken out of the index.
	loadAtOnce int
	// waitingMost is how many bytes there are for what is to be scrubbed (T4).
	waitingMost int
}

// EnsureDefaults fills in what was left out.
func (o *Options) EnsureDefaults() {
	setDefault(&o.MinLeaseTTL, 2)
	setDefault(&o.CacheBytes, 16<<20)
	setDefault(&o.MaxBatchRequests, 1024)
	setDefault(&o.MaxBatchBytes, 4<<20)
	setDefault(&o.MaxWaiting, 4096)
	setDefault(&o.Timeout, 7*time.Second)
	setDefault(&o.loadAtOnce, 1<<18)
	setDefault(&o.waitingMost, waitingBytes)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Publish == nil {
		o.Publish = func(*mvcc.Index, []*mvcc.Event) {}
	}
	if o.Leases == nil {
		o.Leases = func(*mvcc.Index, []int64) {}
	}
	if o.Members == nil {
		o.Members = func(*mvcc.Index) {}
	}
	if o.Alarms == nil {
		o.Alarms = func(*mvcc.Index) {}
	}
	if o.Server == nil {
		o.Server = func() uint64 { return 0 }
	}
	if o.Term == nil {
		o.Term = func() uint64 { return 0 }
	}
	if o.Reloaded == nil {
		o.Reloaded = func(*mvcc.Index) {}
	}
	if o.Diverged == nil {
		o.Diverged = func(error) {}
	}
	if o.Compacted == nil {
		o.Compacted = func() {}
	}
	if o.Appended == nil {
		o.Appended = func(int, int, time.Duration) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Peers is what the store needs to know of the servers that share its log.
type Peers interface {
	// Keeper tells whether it is this server that scrubs.
	Keeper() bool
	// Reached waits until every server that is alive has taken in the log up to a position, so that none needs to read what was
	// superseded before.
	Reached(ctx context.Context, position int64) error
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// The errors of a Store beside those of mvcc and drivers.
var (
	// ErrStopped: the store has been shut down.
	ErrStopped = errors.New("sqllog: the store has stopped")
	// ErrTimeout: the log took too long; the request may or may not take effect.
	ErrTimeout = errors.New("sqllog: the log took too long")
	// ErrHalted: this server stands still (drivers.Replica), and another one may lead by now; the request may or may not take effect.
	ErrHalted = errors.New("sqllog: this server stands still")
	// ErrStorage: the log could not be written or read; nothing was changed.
	ErrStorage = errors.New("sqllog: storage failed")
)

// Store serves a log.
type Store struct {
	opts Options
	log  drivers.Log
	// The log, as far as it is such a one.
	followed drivers.Followed
	shared   drivers.Shared
	replica  drivers.Replica
	index    atomic.Pointer[mvcc.Index]
	cache    *cache
	fence    fence
	hashes   hashes

	calls   chan *call
	unused  sync.Pool // of calls
	edits   chan edit
	stopped chan struct{}
	failure atomic.Pointer[error] // of the last append
	// unreadable is the failure of the last read from the log.
	unreadable atomic.Pointer[error]
	stalled    atomic.Pointer[stall]
	// diverged is set for good when the log turned out to have another history.
	diverged atomic.Pointer[error]
	// doubt is the last append while it is not known whether it is in the log, and contended the number of batches that
	// are still to begin with a turn, since other servers were met. The commit loop alone uses them.
	doubt     *doubt
	contended int

	arrivals arrivals // who waits for the index to come somewhere

	pruning chan struct{} // holds a token while a Prune runs
	backlog backlog       // guarded by pruning
	kept    atomic.Pointer[Kept]
	// dropped is how often superseded entries were left out of the index that is served, and out of the backlog (S3).
	dropped atomic.Uint64
	// retention says what of the log is kept, with Options.Retain.
	retention retention
}

// Open loads the log and builds the index. The store serves reads from then on,
// and writes once Run is running.
func Open(ctx context.Context, opts Options) (*Store, error) {
	opts.EnsureDefaults()
	s := &Store{
		opts:    opts,
		log:     opts.Log,
		cache:   newCache(opts.CacheBytes),
		calls:   make(chan *call, opts.MaxWaiting),
		edits:   make(chan edit),
		stopped: make(chan struct{}),
		pruning: make(chan struct{}, 1),
	}
	s.unused.New = func() any { return &call{done: make(chan struct{}, 1)} }
	s.followed, _ = s.log.(drivers.Followed)
	s.shared, _ = s.log.(drivers.Shared)
	s.replica, _ = s.log.(drivers.Replica)
	epoch := s.epoch()
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("load the log: %w", err)
	}
	// Whatever is superseded is in the index, or in the backlog.
	s.backlog.whole, s.backlog.epoch = s.epoch() == epoch, epoch
	s.stalled.Store(&stall{make(chan struct{})})
	return s, nil
}

// open loads the log for the first time.
func (s *Store) open(ctx context.Context) error {
	load := s.load
	if s.opts.Retain > 0 {
		load = s.loadFreed
	}
	ix, err := load(ctx, func(freed []mvcc.Freed) { s.backlog.waiting.add(freed, s.opts.waitingMost) })
	if err != nil || s.opts.Retain <= 0 {
		s.index.Store(ix)
		return err
	}
	s.index.Store(ix)
	s.retention.period = s.opts.Retain
	if err := s.recall(ctx); err != nil {
		return fmt.Errorf("times of batches: %w", err)
	}
	s.retention.note(ix.End.Position)
	return nil
}

// Index gives the current index: every acknowledged write of this server is in it.
func (s *Store) Index() *mvcc.Index { return s.index.Load() }

// Linearizable gives an index that has every write acknowledged, by any server
// on the log, before the call.
func (s *Store) Linearizable(ctx context.Context) (*mvcc.Index, error) {
	if err := s.refused(); err != nil {
		return nil, err
	}
	before := s.index.Load()
	bounds, err := s.log.ReadIndex(ctx)
	if err != nil {
		return nil, s.readFailed(ctx, err)
	}
	ix := s.index.Load()
	switch {
	case behind(bounds.End, before.End):
		// The loop will make sure of it, with nothing under way.
		err = s.edit(ctx, edit{fn: func(*mvcc.Builder) {}})
	case ix.End.Position < bounds.End.Position:
		err = s.edit(ctx, edit{upTo: bounds.End.Position})
	default:
		return ix, nil
	}
	if err != nil {
		return nil, err
	}
	return s.index.Load(), nil
}

// behind tells whether a log that ends at end has lost what was seen.
func behind(end, seen drivers.End) bool {
	return end.Position < seen.Position || end.Position == seen.Position && end.Batch != seen.Batch
}

// refused says why nothing is answered at all.
func (s *Store) refused() error {
	if p := s.diverged.Load(); p != nil {
		return *p
	}
	return nil
}

// halted gives the channel that is closed once this server stands still, nil if it never does.
func (s *Store) halted() <-chan struct{} {
	if s.replica == nil {
		return nil
	}
	return s.replica.Halted()
}

// closed tells whether a channel is.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// unled tells whether an error is of servers that have found no leader, and so no failure of the storage.
func unled(err error) bool {
	return errors.Is(err, drivers.ErrNotLeader) || errors.Is(err, drivers.ErrNoLeader) || errors.Is(err, drivers.ErrNoQuorum)
}

// Failure tells what keeps the store from writing or reading, as far as the
// last attempts showed, or nil.
func (s *Store) Failure() error {
	for _, p := range []*error{s.diverged.Load(), s.failure.Load(), s.unreadable.Load()} {
		if p != nil {
			return *p
		}
	}
	return nil
}

// readFailed remembers, for the health checks, that the log could not be read.
func (s *Store) readFailed(ctx context.Context, err error) error {
	if errors.Is(err, drivers.ErrScrubbed) || unled(err) || ctx.Err() != nil {
		return err // no failure of the storage
	}
	if s.unreadable.Swap(&err) == nil {
		s.opts.Logger.Error("the log cannot be read", "error", err)
	}
	return fmt.Errorf("%w: %w", ErrStorage, err)
}

// probeRoom is what a log must have room for to be taken for writable again. Less might still
// fit on a disk that is too full for the writes of clients.
const probeRoom = 64 << 10

// Probe tells whether the log still fails: it appends an entry that says nothing, and
// after a read that failed it reads one back.
func (s *Store) Probe(ctx context.Context) error {
	switch _, err := s.Do(ctx, &mvcc.Barrier{Room: probeRoom}, probeRoom); {
	case errors.Is(err, drivers.ErrNotLeader):
		s.failure.Store(nil) // writing is another server's
	case err != nil:
		return err
	}
	if s.unreadable.Load() == nil {
		return s.Failure()
	}
	bounds, err := s.log.ReadIndex(ctx)
	if err == nil {
		// The last entry of the log is always there.
		err = s.log.Values(ctx, []int64{bounds.End.Position}, make([][]byte, 1))
	}
	switch {
	case errors.Is(err, drivers.ErrScrubbed):
		// It was the last one a moment ago: that much could be read.
	case err != nil:
		return s.readFailed(ctx, err)
	}
	s.unreadable.Store(nil)
	return s.Failure()
}

// fetch fetches values by position, through the cache.
func (s *Store) fetch(ctx context.Context, positions []int64) ([][]byte, error) {
	out := make([][]byte, len(positions))
	var missing []int64
	var index []int
	for i, pos := range positions {
		v, ok := s.cache.get(pos)
		if ok {
			out[i] = v
			continue
		}
		missing, index = append(missing, pos), append(index, i)
	}
	if len(missing) == 0 {
		return out, nil
	}
	got := make([][]byte, len(missing))
	if err := s.log.Values(ctx, missing, got); err != nil {
		return nil, s.readFailed(ctx, err)
	}
	if s.unreadable.Load() != nil {
		s.unreadable.Store(nil)
	}
	for i, v := range got {
		out[index[i]] = v
		if len(missing) <= maxCachedFetch {
			s.cache.put(missing[i], v)
		}
	}
	return out, nil
}

// maxCachedFetch is the most values that one read may bring into the cache.
const maxCachedFetch = 1000

// Values fetches values by position. The bytes are shared: they are not to be
// changed. drivers.ErrScrubbed if one is gone; then the index knows of the compaction that freed it.
func (s *Store) Values(ctx context.Context, positions []int64) ([][]byte, error) {
	got, err := s.fetch(ctx, positions)
	if errors.Is(err, drivers.ErrScrubbed) && s.followed != nil {
		if terr := s.takeIn(ctx); terr != nil {
			return nil, terr
		}
	}
	return got, err
}
