package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/keelson-io/keelson/drivers"
)

// testTogether: one writer, a scrubber, and readers of all kinds at once. Positions
// that are not multiples of four are scrubbed when the readers have been told so.
func testTogether(f *fixture) {
	const batches, readers = 120, 6
	var shared struct {
		sync.RWMutex
		want model
	}
	ctx, cancel := context.WithCancel(f.Context())
	errs := make(chan error, readers+1)
	for i := range readers {
		r := rand.New(rand.NewPCG(f.rand.Uint64(), 0))
		go func() {
			for ctx.Err() == nil {
				shared.RLock()
				want := shared.want
				shared.RUnlock()
				if err := readOne(ctx, f.l, &want, r, i); err != nil && ctx.Err() == nil {
					errs <- fmt.Errorf("reader %d: %w", i, err)
					return
				}
			}
			errs <- nil
		}()
	}
	go func() {
		errs <- scrubBehind(ctx, f.l, func() drivers.Bounds {
			shared.RLock()
			defer shared.RUnlock()
			return shared.want.bounds()
		})
	}()
	var failure error
	for range batches {
		b := f.batch(1+f.rand.IntN(30), 500)
		if failure = f.l.Append(f.Context(), shared.want.end(), b); failure != nil {
			break
		}
		shared.Lock()
		shared.want.append(b)
		shared.Unlock()
	}
	cancel()
	for range readers + 1 {
		failure = errors.Join(failure, <-errs)
	}
	if failure != nil {
		f.Fatal(failure)
	}
	f.want = shared.want
	// How far the scrubber came is known to the log.
	var gone []int64
	for p := int64(1); p <= f.bounds().Scrubbed; p++ {
		if p%4 != 0 {
			gone = append(gone, p)
		}
	}
	f.want.scrub(gone)
}

// scrubBehind scrubs what is not a multiple of four, up to half of the log.
func scrubBehind(ctx context.Context, l drivers.Log, bounds func() drivers.Bounds) error {
	next := int64(1)
	for ctx.Err() == nil {
		var positions []int64
		for half := bounds().End.Position / 2; next <= half && len(positions) < 100; next++ {
			if next%4 != 0 {
				positions = append(positions, next)
			}
		}
		// An ended context ends the waiting: then it was not done.
		if err := l.Scrub(ctx, positions); err != nil && ctx.Err() == nil {
			return fmt.Errorf("scrub: %w", err)
		}
	}
	return nil
}

// readOne reads in one of several ways and compares with what was there before.
func readOne(ctx context.Context, l drivers.Log, want *model, r *rand.Rand, how int) error {
	end := want.end().Position
	if end == 0 {
		return nil
	}
	switch how % 4 {
	case 0:
		b, err := l.ReadIndex(ctx)
		if err == nil && b.End.Position < end {
			err = fmt.Errorf("read index says %d after %d was acknowledged", b.End.Position, end)
		}
		return err
	case 1:
		p := (1 + r.Int64N(end)) / 4 * 4
		if p == 0 {
			return nil
		}
		var v [1][]byte
		if err := l.Values(ctx, []int64{p}, v[:]); err != nil {
			return err
		}
		if !bytes.Equal(v[0], want.at(p).Value) {
			return fmt.Errorf("the value at %d is another one", p)
		}
		return nil
	case 2:
		after := r.Int64N(end)
		next := after
		return l.Scan(ctx, drivers.ScanOptions{After: after, UpTo: end, Values: r.IntN(2) == 0}, func(got []drivers.Entry) error {
			for _, e := range got {
				if e.Position <= next || e.Position > (next/4+1)*4 {
					return fmt.Errorf("scan: position %d after %d", e.Position, next)
				}
				if next = e.Position; !bytes.Equal(e.Meta, want.at(next).Meta) {
					return fmt.Errorf("scan: the entry at %d is another one", next)
				}
			}
			return nil
		})
	default:
		n := r.IntN(len(want.batches))
		err := want.followTo(ctx, l, want.endOf(n), len(want.batches))
		if !errors.Is(err, drivers.ErrScrubbed) {
			return err
		}
		b, berr := l.ReadIndex(ctx)
		if berr == nil && b.Scrubbed < want.endOf(n).Position {
			return fmt.Errorf("the log is scrubbed up to %d: %w", b.Scrubbed, err)
		}
		return berr
	}
}

// testCompetition: several writers, who take in the tail after a conflict and try again.
func testCompetition(f *fixture) {
	const writers, each = 4, 50
	logs := []Log{f.l}
	if f.h.Shared {
		for range writers - 1 {
			l := f.open()
			defer l.Close()
			logs = append(logs, l)
		}
	}
	type outcome struct {
		batches []*drivers.Batch
		err     error
	}
	done := make(chan outcome)
	for i, l := range logs {
		r := rand.New(rand.NewPCG(f.rand.Uint64(), uint64(i)))
		go func() {
			var o outcome
			for len(o.batches) < each && o.err == nil {
				var b *drivers.Batch
				if b, o.err = appendSomehow(f.Context(), l, r); o.err == nil {
					o.batches = append(o.batches, b)
				}
			}
			done <- o
		}()
	}
	acknowledged := make(map[drivers.BatchID]*drivers.Batch)
	for range logs {
		o := <-done
		if o.err != nil {
			f.Fatal(o.err)
		}
		for _, b := range o.batches {
			acknowledged[b.ID] = b
		}
	}
	err := f.l.Follow(f.Context(), drivers.End{}, func(b *drivers.Batch) error {
		want, ok := acknowledged[b.ID]
		if !ok {
			return fmt.Errorf("batch %x was not acknowledged or comes twice", b.ID)
		}
		delete(acknowledged, b.ID)
		f.want.append(want)
		if len(acknowledged) == 0 {
			return errEnough
		}
		return nil
	})
	f.wantError("follow", err, errEnough)
}

// appendSomehow appends a batch after as many conflicts as it takes.
func appendSomehow(ctx context.Context, l drivers.Log, r *rand.Rand) (*drivers.Batch, error) {
	b := newBatch(r, 1+r.IntN(5), 50)
	for {
		bounds, err := l.ReadIndex(ctx)
		if err != nil {
			return nil, err
		}
		if err = l.Append(ctx, bounds.End, b); !errors.Is(err, drivers.ErrConflict) {
			return b, err
		}
	}
}
