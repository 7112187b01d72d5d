package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Store is what the hub needs of the store.
type Store interface {
	// Index gives the current index.
	Index() *mvcc.Index
	// History gives the events of revision from and later up to the index's
	// current one to fn, in order, in slices that end with a whole revision.
	History(ctx context.Context, ix *mvcc.Index, from int64, fn func([]*mvcc.Event) bool) error
	// Values fetches values by position; drivers.ErrScrubbed if one is gone.
	Values(ctx context.Context, positions []int64) ([][]byte, error)
}

// Options configures a Hub.
type Options struct {
	// Logger gets what operators should know. Default: slog.Default.
	Logger *slog.Logger
	// RecentBytes bounds the memory for recent events, from which watchers that
	// are a little behind catch up without the log. Default 4 MiB.
	RecentBytes int
	// StreamBytes bounds the events due on one stream; beyond it, its watchers lag. Default 8 MiB.
	StreamBytes int
}

// EnsureDefaults fills in what was left out.
func (o *Options) EnsureDefaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.RecentBytes == 0 {
		o.RecentBytes = 4 << 20
	}
	if o.StreamBytes == 0 {
		o.StreamBytes = 8 << 20
	}
}

// Hub publishes events to watchers.
type Hub struct {
	opts  Options
	store Store

	// rev is the revision up to which events have been published (W2, W3).
	rev atomic.Int64
	// woken tells Run that a lagging watcher may be caught up.
	woken chan struct{}

	mu      sync.Mutex
	synced  intervals
	lagging map[*watcher]struct{}
	recent  recent
	touched []*watcher // scratch of Publish
	waiting []*Stream  // to be told their progress after the next commit
	streams map[*Stream]struct{}
	broken  error // set for good by Break
	stats   Stats
}

// Stats are figures for metrics.
type Stats struct {
	Streams  int
	Watchers int
	Lagging  int
	Events   int64 // put on streams since the start
}

// NewHub makes a hub. It takes commits at once; watchers need Run.
func NewHub(opts Options) *Hub {
	opts.EnsureDefaults()
	return &Hub{opts: opts, woken: make(chan struct{}, 1), lagging: make(map[*watcher]struct{}), streams: make(map[*Stream]struct{})}
}

// Attach gives the hub its store, before any commit and any stream.
func (h *Hub) Attach(store Store) {
	h.store = store
	rev := store.Index().Rev
	h.rev.Store(rev)
	h.recent.from = rev + 1
}

// Stats gives current figures.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stats
	s.Lagging = len(h.lagging)
	return s
}

// recent holds the last events: all of revision from and later.
type recent struct {
	events []*Event
	from   int64
	bytes  int
}

// add takes in the events of whole revisions and lets go of the oldest.
func (r *recent) add(events []*Event, limit int) {
	for _, e := range events {
		r.bytes += e.cost()
	}
	r.events = append(r.events, events...)
	n := 0
	for n < len(r.events) && r.bytes > limit {
		main := r.events[n].Main
		for n < len(r.events) && r.events[n].Main == main {
			r.bytes -= r.events[n].cost()
			r.events[n].forget()
			r.events[n] = nil
			n++
		}
		r.from = main + 1
	}
	r.events = r.events[n:]
}

// since gives the events of revision rev and later.
func (r *recent) since(rev int64) []*Event {
	return r.events[sort.Search(len(r.events), func(i int) bool { return r.events[i].Main >= rev }):]
}

// Publish takes the events of one commit, whole revisions in order, which end at revision rev. It does
// not wait for anybody.
func (h *Hub) Publish(ix *mvcc.Index, changes []*mvcc.Event) {
	slab := make([]Event, len(changes))
	events := make([]*Event, len(changes))
	for i, c := range changes {
		slab[i].Event = c
		events[i] = &slab[i]
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.synced.find(e.Key, func(w *watcher) {
			if !w.wants(e) {
				return
			}
			if len(w.batch) == 0 {
				h.touched = append(h.touched, w)
			}
			w.batch = append(w.batch, e)
		})
	}
	for i, w := range h.touched {
		h.stats.Events += int64(len(w.batch))
		if !w.stream.due(w, w.batch, 0) {
			h.lag(w, w.batch[0].Main)
		}
		w.batch = nil
		h.touched[i] = nil
	}
	h.touched = h.touched[:0]
	h.recent.add(events, h.opts.RecentBytes)
	h.rev.Store(ix.Rev)
	for _, s := range h.waiting {
		s.signal()
	}
	h.waiting = h.waiting[:0]
}

// Reloaded takes in that the index was loaded anew: what happened since the last commit published was not told. All
// watchers are behind, and get it from the log, or are cancelled if it was compacted.
func (h *Hub) Reloaded(ix *mvcc.Index) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rev := h.rev.Load()
	for s := range h.streams {
		for _, w := range s.all() {
			if _, ok := h.lagging[w]; !ok && !w.hasEnded() {
				h.lag(w, max(w.next, rev+1))
				s.behind(w)
			}
		}
	}
	h.recent = recent{from: ix.Rev + 1}
	h.rev.Store(ix.Rev)
	h.wake()
}

// Break ends all streams, and every one to come, with an error: what they were told does not hold.
func (h *Hub) Break(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = err
	for s := range h.streams {
		s.fail(err)
	}
}

// lag takes a watcher out of the synced ones: it has everything below next. Called with mu held.
func (h *Hub) lag(w *watcher, next int64) {
	h.synced.remove(w)
	w.next = next
	h.lagging[w] = struct{}{}
}

// wake tells Run to look at lagging watchers.
func (h *Hub) wake() {
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// Run catches up lagging watchers until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.woken:
		}
		for ctx.Err() == nil {
			group := h.pick()
			if len(group) == 0 {
				break
			}
			if err := h.catchUp(ctx, group); err != nil && ctx.Err() == nil {
				h.opts.Logger.Error("watchers cannot be caught up from the log", "watchers", len(group), "error", err)
				h.breakStreams(group, err)
			}
		}
	}
}

// pick takes the lagging watchers whose streams have room, and brings those up
// to date that need only recent events.
func (h *Hub) pick() (group []*watcher) {
	compact := h.store.Index().Compact
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.lagging {
		switch {
		case w.next < compact:
			delete(h.lagging, w)
			w.stream.compacted(w, compact)
		case w.stream.room() && !h.sync(w, compact):
			group = append(group, w)
		}
	}
	return group
}

// sync gives a lagging watcher the recent events it has not had and makes it a
// synced one, if those are all it lacks. It gives false if it needs the log. Called with mu held.
func (h *Hub) sync(w *watcher, compact int64) bool {
	if w.next < h.recent.from {
		return false
	}
	var events []*Event
	for _, e := range h.recent.since(w.next) {
		if !w.r.Contains(e.Key) || !w.wants(e) {
			continue
		}
		if e.Main <= compact {
			e = e.withoutPrev() // what it replaced is compacted
		}
		events = append(events, e)
	}
	h.stats.Events += int64(len(events))
	if len(events) > 0 && !w.stream.due(w, events, h.rev.Load()) {
		return true // no room after all: it stays behind until there is
	}
	w.next = max(w.next, h.rev.Load()+1)
	delete(h.lagging, w)
	h.synced.add(w)
	w.stream.synced(w)
	return true
}

// catchUp reads the log once for a group of watchers, from the earliest revision that any of
// them needs. Afterwards each is close enough to be synced, has no room, or was cancelled.
func (h *Hub) catchUp(ctx context.Context, group []*watcher) error {
	ix := h.store.Index()
	group = h.dropCompacted(group, ix.Compact)
	if len(group) == 0 {
		return nil
	}
	from := group[0].next
	for _, w := range group {
		from = min(from, w.next)
	}
	err := h.store.History(ctx, ix, from, func(changes []*mvcc.Event) bool {
		events := make([]*Event, len(changes))
		for i, c := range changes {
			events[i] = &Event{Event: c}
		}
		// What was read may have been incomplete if it has been compacted since.
		group = h.dropCompacted(group, h.store.Index().Compact)
		group = h.deliver(group, events)
		return len(group) > 0
	})
	if err != nil {
		return err
	}
	// Where nothing was found, there may have been something that was freed meanwhile.
	group = h.dropCompacted(group, h.store.Index().Compact)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range group {
		w.next = max(w.next, ix.Rev+1)
	}
	return nil
}

// deliver gives each of the group what it wants of the events, and gives back those with room for more.
func (h *Hub) deliver(group []*watcher, events []*Event) (rest []*watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := events[len(events)-1].Main
	for _, w := range group {
		if _, ok := h.lagging[w]; !ok {
			continue // cancelled meanwhile
		}
		var wanted []*Event
		for _, e := range events {
			if w.r.Contains(e.Key) && w.wants(e) {
				wanted = append(wanted, e)
			}
		}
		h.stats.Events += int64(len(wanted))
		if len(wanted) > 0 && !w.stream.due(w, wanted, h.rev.Load()) {
			continue
		}
		w.next = max(w.next, last+1)
		if w.stream.room() {
			rest = append(rest, w)
		}
	}
	return rest
}

// dropCompacted cancels the watchers whose next revision was compacted away.
func (h *Hub) dropCompacted(group []*watcher, compact int64) (rest []*watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range group {
		if w.next >= compact {
			rest = append(rest, w)
			continue
		}
		if _, ok := h.lagging[w]; ok {
			delete(h.lagging, w)
			w.stream.compacted(w, compact)
		}
	}
	return rest
}

// breakStreams ends the streams of watchers for which the log could not be read: their clients resume.
func (h *Hub) breakStreams(group []*watcher, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range group {
		delete(h.lagging, w)
		w.stream.fail(fmt.Errorf("read the history of watched keys: %w", err))
	}
}

// prevAtOnce is how many events' previous values are fetched together, before they are encoded one by one.
const prevAtOnce = 256

// prefetch brings the previous values that encoding these events needs into the store's cache, in one go. What
// is wrong with one of them is told when it is needed.
func (h *Hub) prefetch(ctx context.Context, events []*Event) {
	var positions []int64
	for _, e := range events {
		if e.Prev.Size > 0 && e.prev.Load() == nil {
			positions = append(positions, e.Prev.Position)
		}
	}
	if len(positions) > 1 {
		_, _ = h.store.Values(ctx, positions)
	}
}

// prevValue fetches the value of the version that an event replaced. It is not
// there any more if it was compacted away, which leaves prev_kv out if it was so when the watcher could
// still be given the event, and otherwise ends the watcher.
func (h *Hub) prevValue(ctx context.Context, e *Event) (value []byte, ok bool, err error) {
	if e.Prev.Size == 0 {
		return nil, true, nil
	}
	got, err := h.store.Values(ctx, []int64{e.Prev.Position})
	switch {
	case errors.Is(err, drivers.ErrScrubbed) && h.store.Index().Compact <= e.Main:
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	return got[0], true, nil
}
