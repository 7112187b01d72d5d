// Package lessor counts down leases. That leases exist, and which keys they
// hold, is in the log and the index; when they end is known here, in memory, by the
// monotonic clock. An expired lease is revoked by a request through the log like any other.
//
// What is left of a lease is checkpointed into the log from time to time, so
// that its deadline survives a restart: the time during which nothing served
// does not count. A renewal of a lease with a checkpoint, or with one that may come to the log yet, takes that back, durably, before it is
// acknowledged; one without writes nothing.
package lessor

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Store is what the lessor needs of the store.
type Store interface {
	Index() *mvcc.Index
	Do(ctx context.Context, request any, size int) (any, error)
	// Linearizable asks the log where it ends.
	Linearizable(ctx context.Context) (*mvcc.Index, error)
}

// Options configures a Lessor.
type Options struct {
	// Logger gets what operators should know. Required.
	Logger *slog.Logger
	// Keeper, set if several servers share the log, tells whether it is this one that comes first in what one does for
	// all: it expires leases at once and records what is left of them; the others
	// expire them a moment later, should they still be there.
	Keeper func() bool
	// Lead, set if one server leads the others, gives the term and whether this server leads in it. Leases are counted by the leader alone, from Promote on for as
	// long as it leads in that term. A server that is alone leads, in term 0.
	Lead func() (term uint64, leads bool)
	// Halted gives a channel that is closed while this server stands still: another one may lead by then, which this one does not hear of. Nil if it never does.
	Halted func() <-chan struct{}
}

// Bounds of the lessor's work.
const (
	checkpointEvery = 5 * time.Second
	retryAfter      = time.Second // an expired lease that could not be revoked
	revokesAtOnce   = 64
	maxPerRound     = 1000 // leases checkpointed or revoked in one go

	// Where the log is shared: how often it is asked whether it answers, how long it may have been silent without
	// the time being given back to leases, and how much later those expire leases who are not the keeper.
	hearEvery  = time.Second
	silence    = 2 * time.Second
	keeperLead = time.Second
)

// Lessor holds the deadlines of all leases.
type Lessor struct {
	opts  Options
	store Store
	wake  chan struct{} // the earliest deadline may have changed
	heard time.Time     // when the log answered last; Run's alone

	mu     sync.Mutex
	leases map[int64]*lease
	queue  queue
	// idle is set while another server counts, and term is the one in which this server does, or did.
	idle bool
	term uint64
	// ceded is closed when this server counts no more, or in another term: who waits for a lease's end waits at another server then.
	ceded chan struct{}
}

// lease is the deadline of one lease. Guarded by Lessor.mu.
type lease struct {
	id       int64
	grant    int64 // mvcc.Lease.Grant
	entry    int64 // mvcc.Lease.Entry
	renewal  int64 // mvcc.Lease.Renewal
	ttl      time.Duration
	deadline time.Time
	recorded time.Duration // what the log says is left: a restart would begin there
	renewed  bool
	expiring bool // being revoked: it cannot be renewed any more
	gone     chan struct{}
	// recording is closed when the checkpoint in flight that has this lease is done; nil: none is.
	recording <-chan struct{}
	// doubtful is the last checkpoint in flight that has this lease and was given up: it may come to the log yet, before what is asked for later. Nil: there is none, or it has
	// been taken back.
	doubtful *mvcc.Checkpoint
	at       int // in the queue
}

// New makes a lessor. Attach comes before anything else.
func New(opts Options) *Lessor {
	return &Lessor{opts: opts, wake: make(chan struct{}, 1), leases: make(map[int64]*lease), ceded: make(chan struct{})}
}

// Attach gives the lessor its store; leases that exist begin to count now.
func (l *Lessor) Attach(store Store) {
	l.store = store
	l.Reloaded(store.Index())
}

// Reloaded takes note of all leases there are.
func (l *Lessor) Reloaded(ix *mvcc.Index) {
	var ids []int64
	for le := range ix.Leases() {
		ids = append(ids, le.ID)
	}
	l.mu.Lock()
	for id := range l.leases {
		if ix.Lease(id) == nil {
			ids = append(ids, id)
		}
	}
	l.mu.Unlock()
	l.Changed(ix, ids)
}

// Promote has this server count, which leads from now on, in this term: every lease has what the log says is left of it, or its whole TTL. It does nothing if
// this server counts in this term already. In an earlier one it may have: others have led since, and have renewed leases.
func (l *Lessor) Promote(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.idle && l.term == term {
		return
	}
	l.cede()
	l.idle, l.term = false, term
	now := time.Now()
	for _, le := range l.leases {
		// Checkpoints of earlier terms are passed over.
		le.deadline, le.renewed, le.expiring, le.doubtful = now.Add(le.recorded), false, false, nil
	}
	heap.Init(&l.queue)
	l.signal()
}

// Demote has this server count no more.
func (l *Lessor) Demote() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.idle {
		l.idle = true
		l.cede()
	}
}

// cede sends away who waits for a lease's end. Called with mu held.
func (l *Lessor) cede() {
	close(l.ceded)
	l.ceded = make(chan struct{})
}

// Counting tells whether this server counts, now.
func (l *Lessor) Counting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts()
}

// counts is Counting with mu held. That this server leads is asked for anew: Demote may come late, and the lead may have been lost and won
// without one.
func (l *Lessor) counts() bool {
	if l.idle || l.opts.Lead == nil {
		return !l.idle
	}
	term, leads := l.opts.Lead()
	return leads && term == l.term
}

func (l *Lessor) shared() bool { return l.opts.Keeper != nil }

// Changed takes note of leases granted, renewed, checkpointed or revoked.
func (l *Lessor) Changed(ix *mvcc.Index, ids []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		le, known := l.leases[id]
		granted := ix.Lease(id)
		if known && (granted == nil || granted.Grant != le.grant) {
			// Revoked; the same commit may have granted another lease of this id.
			heap.Remove(&l.queue, le.at)
			delete(l.leases, id)
			close(le.gone)
			known = false
		}
		switch {
		case granted == nil:
		case known:
			renewed := granted.Renewal() != le.renewal
			le.recorded, le.entry, le.renewal = left(granted), granted.Entry(), granted.Renewal()
			if renewed {
				// An expiry under way names an older entry, and is refused. What is left counts from a checkpoint, if one came since.
				le.renewed, le.expiring = true, false
				if deadline := time.Now().Add(le.recorded); deadline.After(le.deadline) {
					le.deadline = deadline
					heap.Fix(&l.queue, le.at)
				}
			}
		default:
			le = &lease{id: id, grant: granted.Grant, entry: granted.Entry(), renewal: granted.Renewal(), ttl: seconds(granted.TTL), recorded: left(granted), gone: make(chan struct{})}
			le.deadline = time.Now().Add(le.recorded)
			l.leases[id] = le
			heap.Push(&l.queue, le)
		}
	}
	l.signal()
}

// left is what the log says is left of a lease.
func left(le *mvcc.Lease) time.Duration {
	if le.Remaining > 0 {
		return seconds(le.Remaining)
	}
	return seconds(le.TTL)
}

// seconds converts, for TTLs as long as etcd allows (285 years), without overflow.
func seconds(n int64) time.Duration {
	return time.Duration(min(n, int64(1<<63-1)/int64(time.Second))) * time.Second
}

func (l *Lessor) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// extend sets a deadline. Called with mu held.
func (l *Lessor) extend(le *lease, deadline time.Time) {
	le.deadline = deadline
	if l.leases[le.id] == le {
		heap.Fix(&l.queue, le.at)
		l.signal()
	}
}

// Remaining gives what is left of a lease; ok is false if there is none.
func (l *Lessor) Remaining(id int64) (left time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le, ok := l.leases[id]
	if !ok {
		return 0, false
	}
	return time.Until(le.deadline), true
}

// ByDeadline gives the leases among ids that are counted down, the one that ends first first.
func (l *Lessor) ByDeadline(ids []int64) []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids = slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return l.leases[id] == nil })
	slices.SortFunc(ids, func(a, b int64) int { return l.leases[a].deadline.Compare(l.leases[b].deadline) })
	return ids
}

// Run revokes leases that expire and checkpoints the others until ctx ends;
// then it checkpoints once more, with what time stop gives.
func (l *Lessor) Run(ctx context.Context) error {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	hear := time.NewTicker(hearEvery)
	defer hear.Stop()
	if !l.shared() {
		hear.Stop()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	l.heard = time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if l.keeper() {
				l.checkpoint(ctx, false)
			}
		case <-hear.C:
			l.hear(ctx)
			continue
		case <-l.wake:
		case <-timer.C:
		}
		if err := l.expire(ctx); err != nil && ctx.Err() == nil {
			l.opts.Logger.Warn("expired leases could not be revoked, trying again", "error", err)
			timer.Reset(retryAfter)
			continue
		}
		if next, ok := l.next(); ok {
			timer.Reset(time.Until(next))
		}
	}
}

func (l *Lessor) keeper() bool { return l.Counting() && (!l.shared() || l.opts.Keeper()) }

// hear asks the log whether it answers. If it has been silent, that time is given back to all leases: their
// clients could not be heard either.
func (l *Lessor) hear(ctx context.Context) error {
	if l.count() == 0 {
		l.heard = time.Now()
		return nil
	}
	if _, err := l.store.Linearizable(ctx); err != nil {
		return err
	}
	now := time.Now()
	if gap := now.Sub(l.heard); gap > silence {
		l.postpone(gap)
	}
	l.heard = now
	return nil
}

func (l *Lessor) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.leases)
}

// postpone puts off every deadline, which leaves their order as it is.
func (l *Lessor) postpone(by time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, le := range l.leases {
		le.deadline = le.deadline.Add(by)
	}
}

// expire revokes the leases whose time is up. What it asks for may wait, and come to the log in a later term: then it is refused.
func (l *Lessor) expire(ctx context.Context) error {
	if l.shared() && l.due() {
		if err := l.hear(ctx); err != nil {
			return err
		}
	}
	due, term := l.expired()
	return l.revoke(ctx, due, term)
}

// lead is how much earlier than this server another one expires leases.
func (l *Lessor) lead() time.Duration {
	if l.keeper() {
		return 0
	}
	return keeperLead
}

// next is when the earliest lease is to be expired.
func (l *Lessor) next() (time.Time, bool) {
	lead := l.lead()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 || !l.counts() {
		return time.Time{}, false
	}
	return l.queue[0].deadline.Add(lead), true
}

// due tells whether any lease is to be expired.
func (l *Lessor) due() bool {
	next, ok := l.next()
	return ok && !next.After(time.Now())
}

// expired takes leases whose time is up, in the term in which this server counts.
func (l *Lessor) expired() (due []*lease, term uint64) {
	now := time.Now().Add(-l.lead())
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.counts() {
		return nil, 0
	}
	l.queue.before(now, 0, func(le *lease) bool {
		le.expiring = true
		due = append(due, &lease{id: le.id, entry: le.entry})
		return len(due) < maxPerRound
	})
	return due, l.term
}

func (l *Lessor) revoke(ctx context.Context, due []*lease, term uint64) error {
	var g errgroup.Group
	g.SetLimit(revokesAtOnce)
	for _, le := range due {
		g.Go(func() error {
			_, err := l.store.Do(ctx, &mvcc.Expire{ID: le.id, Entry: le.entry, Term: term}, 0)
			if errors.Is(err, mvcc.ErrLeaseNotFound) {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// Stop records what is left of every lease, before the store stops. Where others go on counting, the keeper's word is enough.
func (l *Lessor) Stop(ctx context.Context) {
	if l.keeper() {
		l.checkpoint(ctx, true)
	}
}

// checkpoint records what is left of the leases for which the log says much
// more. A lease whose client keeps it alive needs none: it is not let down so far.
func (l *Lessor) checkpoint(ctx context.Context, all bool) {
	for {
		done := make(chan struct{})
		c := l.overdue(all, done)
		if len(c.Leases) == 0 {
			return
		}
		_, err := l.store.Do(ctx, c, 0)
		l.recorded(c, done, err)
		if err != nil {
			l.opts.Logger.Warn("what is left of leases could not be recorded", "error", err)
			return
		}
	}
}

// recorded ends what overdue began, with what came of it. An error does not say that the checkpoint never comes to the log.
func (l *Lessor) recorded(c *mvcc.Checkpoint, done chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(done)
	for _, r := range c.Leases {
		le, ok := l.leases[r.ID]
		if !ok {
			continue
		}
		le.recording = nil
		if err != nil && le.grant == r.Grant && l.term == c.Term {
			le.doubtful = c
		}
	}
}

// overdue makes the next checkpoint; its leases are marked as being recorded until done is closed.
func (l *Lessor) overdue(all bool, done <-chan struct{}) *mvcc.Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	c := &mvcc.Checkpoint{Term: l.term}
	for _, le := range l.leases {
		left := le.deadline.Sub(now)
		drift := max(time.Second, le.ttl/20)
		switch {
		case all:
			drift = time.Second
		case le.renewed && left > le.ttl/2:
			continue
		}
		if le.expiring || left < time.Second || le.recorded-left < drift {
			continue
		}
		le.recording = done
		// Rounded up: no lease ends before the time that was promised.
		c.Leases = append(c.Leases, mvcc.Remaining{ID: le.id, Grant: le.grant, Entry: le.entry, Remaining: int64((left + time.Second - 1) / time.Second)})
		if len(c.Leases) == maxPerRound {
			break
		}
	}
	return c
}

// queue orders leases by deadline.
type queue []*lease

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].deadline.Before(q[j].deadline) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	le := x.(*lease)
	le.at = len(*q)
	*q = append(*q, le)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	le := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return le
}

// before visits the leases of the heap below i whose deadline has come, until fn returns false.
func (q queue) before(now time.Time, i int, fn func(*lease) bool) bool {
	if i >= len(q) || q[i].deadline.After(now) {
		return true
	}
	return fn(q[i]) && q.before(now, 2*i+1, fn) && q.before(now, 2*i+2, fn)
}
