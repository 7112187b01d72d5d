package sqllog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// call is a request on its way through the loop.
type call struct {
	request any
	size    int
	fence   ticket
	result  mvcc.Result
	done    chan struct{}
}

// edit is a change of the index that appends nothing.
type edit struct {
	// fn changes it, at the current end of the log: housekeeping.
	fn func(*mvcc.Builder)
	// upTo, without fn, is the position up to which the log is to be taken in at least.
	upTo int64
	done chan error
}

// Do commits a request (see mvcc.Evaluate for which there are) and returns its response with
// all values, after it is durable. The request must not be changed after; size is about what it
// takes in the log.
//
// If ctx ends first, the request may or may not take effect. Errors: those of mvcc;
// drivers.ErrUncertain, when the request may or may not take effect; ErrTimeout and ErrHalted, likewise;
// drivers.ErrNotLeader, when it certainly does not; ErrStorage; ErrStopped; the context's.
func (s *Store) Do(ctx context.Context, request any, size int) (any, error) {
	if err := s.refused(); err != nil {
		return nil, err
	}
	stalled, halted := s.stalled.Load().c, s.halted()
	if closed(halted) {
		return nil, drivers.ErrNotLeader
	}
	c := s.unused.Get().(*call)
	c.request, c.size = request, size
	select {
	case s.calls <- c:
	default:
		if err := s.enqueue(ctx, c, stalled, halted); err != nil {
			s.unused.Put(c)
			return nil, err
		}
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		s.abandon(c)
		return nil, ctx.Err()
	case <-stalled:
		s.abandon(c)
		return nil, ErrTimeout
	case <-halted:
		s.abandon(c)
		return nil, ErrHalted
	case <-s.stopped:
		select {
		case <-c.done:
		default:
			return nil, ErrStopped
		}
	}
	r, t := c.result, c.fence
	c.request, c.result = nil, mvcc.Result{}
	s.unused.Put(c)
	defer s.fence.leave(t)
	if r.Err != nil {
		return nil, r.Err
	}
	if len(r.Fills) == 0 {
		return r.Response, nil
	}
	err := mvcc.Fetch(r.Fills, func(positions []int64) ([][]byte, error) { return s.fetch(ctx, positions) })
	if err != nil {
		// It is done and durable, but the answer cannot be given whole.
		return nil, fmt.Errorf("%w: values of the response: %w", drivers.ErrUncertain, err)
	}
	return r.Response, nil
}

// enqueue waits for a place among the calls.
func (s *Store) enqueue(ctx context.Context, c *call, stalled, halted <-chan struct{}) error {
	select {
	case s.calls <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-stalled:
		return ErrTimeout
	case <-halted:
		return drivers.ErrNotLeader
	case <-s.stopped:
		return ErrStopped
	}
}

// abandon leaves a call to the loop, which still owns it.
func (s *Store) abandon(c *call) {
	go func() {
		select {
		case <-c.done:
			s.fence.leave(c.fence)
		case <-s.stopped:
		}
	}()
}

// stall is closed when a batch takes longer than Options.Timeout; whoever waits gives up then, rather
// than each request with a timer of its own.
type stall struct{ c chan struct{} }

// bounded runs fn and lets the waiting callers go if it takes too long. A log that hangs is no healthier than one
// that fails.
func (s *Store) bounded(fn func()) {
	current := s.stalled.Load()
	timer := time.AfterFunc(s.opts.Timeout, func() {
		s.notWritable(ErrTimeout)
		close(current.c)
	})
	fn()
	if !timer.Stop() {
		s.stalled.Store(&stall{make(chan struct{})})
	}
}

// Run is the commit loop. It returns when ctx ends, after the batch in hand is answered.
func (s *Store) Run(ctx context.Context) error {
	defer close(s.stopped)
	batch := make([]*call, 0, s.opts.MaxBatchRequests)
	for ctx.Err() == nil { // or, of several cases, any is chosen
		select {
		case <-ctx.Done():
		case e := <-s.edits:
			e.done <- s.runEdit(ctx, e)
		case first := <-s.calls:
			batch = s.commit(ctx, append(batch[:0], first))
			clear(batch)
		}
	}
	return nil
}

const (
	// turns is how often a batch lets everybody else run before it is closed.
	turns = 4
	// turnsTime ends that early: on a machine with much else to do a turn takes long.
	turnsTime = 200 * time.Microsecond
)

// collect takes what else is waiting, and what those bring who were about to. An append costs nearly
// the same for a hundred requests as for one, so whoever can run does so first: it may be a
// request half decoded, or the client of the last answer. If nobody can, the turns take no time.
func (s *Store) collect(batch []*call) []*call {
	start := time.Now()
	for i := 0; i < turns && time.Since(start) < turnsTime; i++ {
		runtime.Gosched()
	}
	size := batch[0].size
	for len(batch) < s.opts.MaxBatchRequests && size < s.opts.MaxBatchBytes {
		select {
		case c := <-s.calls:
			batch = append(batch, c)
			size += c.size
		default:
			return batch
		}
	}
	return batch
}

// commit collects a batch, evaluates, appends, publishes and answers it. Where other servers append too, it takes its turn
// before it collects: what comes in while it waits goes along.
func (s *Store) commit(ctx context.Context, batch []*call) []*call {
	var results []mvcc.Result
	var err error
	s.bounded(func() {
		var t drivers.Turn
		if t, err = s.takeTurn(context.WithoutCancel(ctx)); err != nil {
			err = s.failed(err)
		}
		batch = s.collect(batch)
		if err == nil {
			requests := make([]any, len(batch))
			for i, c := range batch {
				requests[i] = c.request
			}
			results, err = s.decide(ctx, &decision{requests: requests, turn: t})
		}
	})
	for i, c := range batch {
		if err != nil {
			c.result = mvcc.Result{Err: err}
		} else {
			c.result = results[i]
		}
		c.fence = s.fence.enter()
		c.done <- struct{}{}
	}
	return batch
}

// decision is a batch on its way to an outcome.
type decision struct {
	requests []any
	turn     drivers.Turn // nil: none is held
	term     uint64       // as of the last evaluation
	stale    int          // how often values were gone
}

// decide evaluates requests until their outcome stands. Every answer speaks for the end of the log, also one
// that appends nothing (I10). It ends the turn, if there is one.
//
// What has begun to be appended is seen through, also when ctx ends, which it does when the server is stopping. But what became of an append that was
// left in doubt is not found out then: in a cluster without a quorum that takes long, and leads to nothing.
func (s *Store) decide(ctx context.Context, d *decision) ([]mvcc.Result, error) {
	serving := ctx
	ctx = context.WithoutCancel(ctx)
	for {
		end := s.index.Load().End
		var results []mvcc.Result
		err := s.refused()
		if err == nil && s.doubt != nil {
			err = s.catchUp(serving)
		}
		if err == nil {
			results, err = s.tryOnce(ctx, d)
		}
		if d.turn != nil {
			d.turn.Release()
			d.turn = nil
		}
		switch {
		case err == nil:
			return results, nil
		case errors.Is(err, drivers.ErrConflict):
			d.turn, err = s.afterConflict(ctx, end, err)
		case errors.Is(err, drivers.ErrUnresolved), errors.Is(err, errStale):
			// Unresolved may be a scrub, of which this loop knows nothing.
			err = s.catchUp(ctx)
		case errors.Is(err, drivers.ErrUncertain):
			switch landed, rerr := s.resolve(serving); {
			case rerr != nil:
				err = fmt.Errorf("%w; %w", err, rerr)
			case landed:
				return results, nil
			default:
				err = nil // it is not in the log, and never will be: once more
			}
		}
		switch {
		case err == nil:
		case serving.Err() == nil, !errors.Is(err, serving.Err()):
			return nil, s.failed(err)
		case errors.Is(err, drivers.ErrUncertain):
			return nil, err // that the server stops is no failure of the log
		default:
			return nil, ErrStopped
		}
	}
}

// afterConflict takes in what another server has appended, in a turn where there are turns: whoever was first could be so again.
func (s *Store) afterConflict(ctx context.Context, end drivers.End, conflict error) (drivers.Turn, error) {
	s.contended = contendedBatches
	t, err := s.takeTurn(ctx)
	if err == nil && t == nil {
		err = s.catchUp(ctx)
	}
	if err == nil && s.index.Load().End == end {
		// The log says that it has moved, and has not: trying again would not end.
		err = fmt.Errorf("%w: the log refuses its own end: %v", ErrStorage, conflict)
		if t != nil {
			t.Release()
		}
	}
	return t, err
}

// errStale: values needed to decide were scrubbed by another server, so the index is an old one.
var errStale = errors.New("the index is behind the log")

// tryOnce evaluates requests on the current index and makes the outcome stand, in a turn if there is one. A value
// that is gone again and again is missing, and the failure of the request that needs it.
func (s *Store) tryOnce(ctx context.Context, d *decision) ([]mvcc.Result, error) {
	var stale error
	d.term = s.opts.Term()
	env := mvcc.Env{
		MinLeaseTTL: s.opts.MinLeaseTTL, Term: d.term, Corrupt: s.opts.Corrupt,
		Values: func(positions []int64) ([][]byte, error) {
			got, err := s.fetch(ctx, positions)
			if errors.Is(err, drivers.ErrScrubbed) {
				stale = fmt.Errorf("%w: %w", errStale, err)
			}
			return got, err
		},
	}
	ix := s.index.Load()
	b, results := mvcc.Evaluate(ix, env, d.requests)
	switch {
	case stale != nil && s.followed != nil && d.stale < readAttempts:
		d.stale++
		return nil, stale
	case len(b.Entries()) > 0:
		return results, s.append(ctx, ix, b, d)
	}
	// Also in a turn: it may have ended by itself before the last of the requests came.
	return results, s.proveCurrent(ctx, ix)
}

// proveCurrent succeeds if ix is still the end of the log, and otherwise gives ErrConflict.
func (s *Store) proveCurrent(ctx context.Context, ix *mvcc.Index) error {
	bounds, err := s.log.ReadIndex(ctx)
	if err == nil && bounds.End != ix.End {
		err = drivers.ErrConflict
	}
	return err
}

// append makes the builder's entries durable and publishes what it built.
func (s *Store) append(ctx context.Context, ix *mvcc.Index, b *mvcc.Builder, d *decision) error {
	batch := drivers.Batch{Time: s.opts.Now(), Server: s.opts.Server(), Term: d.term, Entries: b.Entries()}
	if _, err := rand.Read(batch.ID[:]); err != nil {
		return err
	}
	start := time.Now()
	if err := s.log.Append(ctx, ix.End, &batch); err != nil {
		if errors.Is(err, drivers.ErrUncertain) {
			s.doubt = &doubt{after: ix.End, id: batch.ID}
		}
		return err
	}
	s.opts.Appended(len(d.requests), len(batch.Entries), time.Since(start))
	s.failure.Store(nil)
	end := drivers.End{Position: ix.End.Position + int64(len(batch.Entries)), Batch: batch.ID}
	s.publish(b, end)
	return nil
}

// publish shows what a builder made to readers, and then to the hub.
func (s *Store) publish(b *mvcc.Builder, end drivers.End) {
	events := b.Events()
	for _, ev := range events {
		if len(ev.Value) > 0 {
			s.cache.put(ev.Position, ev.Value)
		}
	}
	old := s.index.Load()
	ix := b.Index(end)
	s.index.Store(ix)
	s.arrivals.arrived(end.Position)
	if ix.Compact != old.Compact {
		s.opts.Compacted()
	}
	if !ix.SameMembers(old) {
		s.opts.Members(ix)
	}
	if !ix.SameAlarms(old) {
		s.opts.Alarms(ix)
	}
	if len(events) > 0 {
		s.opts.Publish(ix, events)
	}
	if ids := b.Leases(); len(ids) > 0 {
		s.opts.Leases(ix, ids)
	}
}

// notWritable remembers for the health checks why nothing is written.
func (s *Store) notWritable(err error) {
	if s.failure.Swap(&err) == nil {
		s.opts.Logger.Error("the log cannot be written", "error", err)
	}
}

// failed remembers a storage error for the health checks and makes it the requests' answer.
func (s *Store) failed(err error) error {
	if d := s.refused(); d != nil {
		return d
	}
	if unled(err) {
		return err // no failure of the storage
	}
	s.notWritable(err)
	if errors.Is(err, drivers.ErrUncertain) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrStorage, err)
}

// edit has the loop do an edit.
func (s *Store) edit(ctx context.Context, e edit) error {
	e.done = make(chan error, 1)
	select {
	case s.edits <- e:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return ErrStopped
	}
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped:
		return ErrStopped
	}
}

func (s *Store) runEdit(ctx context.Context, e edit) error {
	if err := s.refused(); err != nil {
		return err
	}
	// That the server stops is no failure of the log.
	ctx = context.WithoutCancel(ctx)
	if e.fn == nil {
		if err := s.reach(ctx, e.upTo); err != nil {
			return s.failed(err)
		}
		return nil
	}
	// A replica takes in the log as it comes, and housekeeping waits for nobody's answer.
	if s.replica == nil || s.doubt != nil {
		if err := s.catchUp(ctx); err != nil {
			return s.failed(err)
		}
	}
	ix := s.index.Load()
	b := ix.Edit(false)
	e.fn(b)
	s.index.Store(b.Index(ix.End))
	return nil
}
