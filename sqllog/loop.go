package sqllog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
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

var callPool = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// edit is a change of the index that appends nothing: housekeeping.
type edit struct {
	fn   func(*mvcc.Builder)
	done chan error
}

// Do commits a request (see mvcc.Evaluate for which there are) and returns its response with
// all values, after it is durable. The request must not be changed after; size is about what it
// takes in the log.
//
// If ctx ends first, the request may or may not take effect. Errors: those of mvcc;
// drivers.ErrUncertain, when the request may or may not take effect; ErrTimeout, likewise;
// ErrStorage; ErrStopped; the context's.
func (s *Store) Do(ctx context.Context, request any, size int) (any, error) {
	c := callPool.Get().(*call)
	c.request, c.size = request, size
	stalled := s.stalled.Load().c
	select {
	case s.calls <- c:
	default:
		if err := s.enqueue(ctx, c, stalled); err != nil {
			callPool.Put(c)
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
	case <-s.stopped:
		select {
		case <-c.done:
		default:
			return nil, ErrStopped
		}
	}
	r, t := c.result, c.fence
	c.request, c.result = nil, mvcc.Result{}
	callPool.Put(c)
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
func (s *Store) enqueue(ctx context.Context, c *call, stalled <-chan struct{}) error {
	select {
	case s.calls <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-stalled:
		return ErrTimeout
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
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.edits:
			e.done <- s.runEdit(ctx, e.fn)
		case first := <-s.calls:
			batch = s.collect(append(batch[:0], first))
			s.commit(ctx, batch)
			clear(batch)
		}
	}
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

// commit evaluates, appends, publishes and answers one batch.
func (s *Store) commit(ctx context.Context, batch []*call) {
	requests := make([]any, len(batch))
	for i, c := range batch {
		requests[i] = c.request
	}
	var results []mvcc.Result
	var err error
	s.bounded(func() { results, err = s.decide(ctx, requests) })
	for i, c := range batch {
		if err != nil {
			c.result = mvcc.Result{Err: err}
		} else {
			c.result = results[i]
		}
		c.fence = s.fence.enter()
		c.done <- struct{}{}
	}
}

// decide evaluates requests until their outcome stands. Every answer speaks for the end of the log, also one
// that appends nothing (I10).
func (s *Store) decide(ctx context.Context, requests []any) ([]mvcc.Result, error) {
	// What has begun to be appended is seen through, also when the server is stopping.
	ctx = context.WithoutCancel(ctx)
	if s.uncertain {
		if err := s.catchUp(ctx); err != nil {
			return nil, s.failed(err)
		}
	}
	env := mvcc.Env{
		MinLeaseTTL: s.opts.MinLeaseTTL,
		Values:      func(positions []int64) ([][]byte, error) { return s.fetch(ctx, positions) },
	}
	for {
		ix := s.index.Load()
		b, results := mvcc.Evaluate(ix, env, requests)
		var err error
		if len(b.Entries()) == 0 {
			err = s.proveCurrent(ctx, ix)
		} else {
			err = s.append(ctx, ix, b, len(requests))
		}
		switch {
		case err == nil:
			return results, nil
		case errors.Is(err, drivers.ErrConflict), errors.Is(err, drivers.ErrUnresolved):
			// Unresolved may be a scrub, of which this loop knows nothing.
			if cerr := s.catchUp(ctx); cerr != nil {
				return nil, s.failed(cerr)
			}
			if errors.Is(err, drivers.ErrConflict) && s.index.Load().End == ix.End {
				// The log says that it has moved, and has not: trying again would not end.
				return nil, s.failed(fmt.Errorf("%w: the log refuses its own end: %v", ErrStorage, err))
			}
		default:
			return nil, s.failed(err)
		}
	}
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
func (s *Store) append(ctx context.Context, ix *mvcc.Index, b *mvcc.Builder, requests int) error {
	batch := drivers.Batch{Time: s.opts.Now(), Server: s.opts.Server, Entries: b.Entries()}
	if _, err := rand.Read(batch.ID[:]); err != nil {
		return err
	}
	start := time.Now()
	if err := s.log.Append(ctx, ix.End, &batch); err != nil {
		return err
	}
	s.opts.Appended(requests, len(batch.Entries), time.Since(start))
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
	ix := b.Index(end)
	s.index.Store(ix)
	if len(events) > 0 {
		s.opts.Publish(ix, events)
	}
	if ids := b.Leases(); len(ids) > 0 {
		s.opts.Leases(ix, ids)
	}
}

// catchUp takes in what stands in the log after the index's end.
func (s *Store) catchUp(ctx context.Context) error {
	bounds, err := s.log.ReadIndex(ctx)
	if err != nil {
		return err
	}
	ix := s.index.Load()
	if bounds.End == ix.End {
		s.known()
		return nil
	}
	if bounds.End.Position <= ix.End.Position {
		return fmt.Errorf("the log ends at %d, %d was seen: %w", bounds.End.Position, ix.End.Position, drivers.ErrDiverged)
	}
	// Follow, unlike Scan, makes sure that what comes is a continuation of what was seen.
	b, end := ix.Edit(true), ix.End
	err = s.log.Follow(ctx, ix.End, func(batch *drivers.Batch) error {
		if err := b.Load(batch.Entries); err != nil {
			return err
		}
		end = drivers.End{Position: end.Position + int64(len(batch.Entries)), Batch: batch.ID}
		if end.Position >= bounds.End.Position {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		return err
	}
	s.known()
	s.publish(b, end)
	return nil
}

// known notes that the outcome of every append is known.
func (s *Store) known() {
	if s.uncertain {
		s.uncertain = false
		s.failure.Store(nil)
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
	s.notWritable(err)
	if errors.Is(err, drivers.ErrUncertain) {
		s.uncertain = true
		return err
	}
	return fmt.Errorf("%w: %w", ErrStorage, err)
}

// edit runs fn in the loop on a builder of the current end of the log, and publishes.
func (s *Store) edit(ctx context.Context, fn func(*mvcc.Builder)) error {
	e := edit{fn: fn, done: make(chan error, 1)}
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
	case <-s.stopped:
		return ErrStopped
	}
}

func (s *Store) runEdit(ctx context.Context, fn func(*mvcc.Builder)) error {
	// That the server stops is no failure of the log.
	ctx = context.WithoutCancel(ctx)
	if err := s.catchUp(ctx); err != nil {
		return s.failed(err)
	}
	ix := s.index.Load()
	b := ix.Edit(false)
	fn(b)
	s.index.Store(b.Index(ix.End))
	return nil
}
