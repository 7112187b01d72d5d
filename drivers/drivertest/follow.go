package drivertest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keelson-io/keelson/drivers"
)

func testFollowFromEverywhere(f *fixture) {
	f.grow(20, 40)
	f.append(f.batch(3000, 10))
	f.append(f.batch(5, 1<<20))
	f.grow(3, 3)
	for n := range len(f.want.batches) {
		f.want.compareFollow(f, f.want.endOf(n))
	}
	// At the end there is nothing; then what comes.
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	f.wantError("follow at the end", f.l.Follow(ctx, f.want.end(), noBatch), context.Canceled)
}

// testFollowCallback: a follower's callback may use the log and holds nobody up.
func testFollowCallback(f *fixture) {
	f.grow(1, 3)
	n := 0
	err := f.l.Follow(f.Context(), drivers.End{}, func(b *drivers.Batch) error {
		if err := equalBatch(b, f.want.batches[n], f.want.firsts[n]); err != nil {
			return err
		}
		if n++; n == 20 {
			return errEnough
		}
		f.grow(1, 3)
		// Up to it, but not the entry that says where this follower is.
		if p := b.Entries[0].Position - 1; p > 0 {
			f.scrub(p)
		}
		return f.l.Values(f.Context(), []int64{f.want.end().Position}, make([][]byte, 1))
	})
	f.wantError("follow", err, errEnough)
	// Its error ends it at once.
	calls := 0
	err = f.l.Follow(f.Context(), f.want.endOf(len(f.want.batches)-1), func(*drivers.Batch) error {
		calls++
		return errEnough
	})
	f.wantError("follow", err, errEnough)
	if calls != 1 {
		f.Errorf("called %d times after an error", calls-1)
	}
	ctx, cancel := context.WithCancel(f.Context())
	err = f.l.Follow(ctx, f.want.endOf(len(f.want.batches)-1), func(*drivers.Batch) error {
		cancel()
		return nil
	})
	f.wantError("follow", err, context.Canceled)
}

// testFollowBesideAppends: several followers get all batches, and scrubs
// behind them do not disturb them.
func testFollowBesideAppends(f *fixture) {
	const followers, batches = 4, 200
	todo := make([]*drivers.Batch, batches)
	var all model
	for i := range todo {
		todo[i] = f.batch(1+f.rand.IntN(20), 200)
		all.append(todo[i])
	}
	ends := make(chan error, followers)
	var seen progress
	for i := range followers {
		go func() {
			n := 0
			err := f.l.Follow(f.Context(), drivers.End{}, func(b *drivers.Batch) error {
				if err := equalBatch(b, all.batches[n], all.firsts[n]); err != nil {
					return fmt.Errorf("batch %d: %w", n, err)
				}
				n++
				seen.set(i, all.endOf(n).Position)
				if n == batches {
					return errEnough
				}
				return nil
			})
			ends <- err
		}()
	}
	for _, b := range todo {
		f.append(b)
		// A follower that has just begun to read may be where it began still.
		if p := seen.least(followers); p > 2 && f.rand.IntN(3) == 0 {
			f.scrub(1+f.rand.Int64N(p-2), p-1)
		}
	}
	for range followers {
		f.wantError("follow", <-ends, errEnough)
	}
}

// progress is how far several goroutines have come.
type progress struct {
	mu  sync.Mutex
	pos map[int]int64
}

func (p *progress) set(who int, position int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pos == nil {
		p.pos = make(map[int]int64)
	}
	p.pos[who] = position
}

// least is the position that all of n have come to.
func (p *progress) least(n int) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pos) < n {
		return 0
	}
	least := int64(-1)
	for _, q := range p.pos {
		if least < 0 || q < least {
			least = q
		}
	}
	return least
}

func testFollowBelowTheMark(f *fixture) {
	for range 10 {
		f.append(f.batch(4, 20))
	}
	f.scrub(2, 3, 20) // 20 closes the fifth batch
	for n := range 6 {
		f.wantError(fmt.Sprintf("follow after batch %d", n), f.l.Follow(f.Context(), f.want.endOf(n), noBatch), drivers.ErrScrubbed)
	}
	for n := 6; n < 10; n++ {
		f.want.compareFollow(f, f.want.endOf(n))
	}
	// The mark inside a batch.
	f.scrub(25)
	f.wantError("follow after batch 6", f.l.Follow(f.Context(), f.want.endOf(6), noBatch), drivers.ErrScrubbed)
	f.want.compareFollow(f, f.want.endOf(7))
}

// testFollowOvertaken: scrubbing passes followers that have not read so far. They may
// give what they had read before, but only whole batches, and then ErrScrubbed.
func testFollowOvertaken(f *fixture) {
	for range 300 {
		f.append(f.batch(20, 3000))
	}
	all := f.want
	entered, hold := make(chan struct{}), make(chan struct{})
	result := make(chan error)
	go func() {
		n := 0
		result <- f.l.Follow(f.Context(), drivers.End{}, func(b *drivers.Batch) error {
			if n == 0 {
				close(entered)
				<-hold
			}
			if err := equalBatch(b, all.batches[n], all.firsts[n]); err != nil {
				return fmt.Errorf("batch %d: %w", n, err)
			}
			if n++; n == len(all.batches) {
				return errEnough
			}
			return nil
		})
	}()
	<-entered
	// all shares its entries with f.want: a copy for what goes on here.
	f.want = model{firsts: all.firsts, scrubbed: all.scrubbed}
	for _, b := range all.batches {
		f.want.batches = append(f.want.batches, cloneBatch(b))
	}
	f.scrub(f.want.end().Position/2, f.want.end().Position-1)
	close(hold)
	if err := <-result; !errors.Is(err, drivers.ErrScrubbed) {
		f.Errorf("the follower ended with %v", err)
	}
	f.grow(2, 2)
}

func testFollowDiverged(f *fixture) {
	for range 5 {
		f.append(f.batch(3, 20))
	}
	end := f.want.end()
	other := f.want.endOf(3)
	other.Batch[0]++
	for what, after := range map[string]drivers.End{
		"another batch":          other,
		"a batch that goes on":   {Position: 5, Batch: f.want.endOf(2).Batch},
		"a batch at another end": {Position: 6, Batch: f.want.endOf(3).Batch},
		"beyond the end":         {Position: end.Position + 1, Batch: end.Batch},
		"far beyond the end":     {Position: end.Position + 1000, Batch: end.Batch},
		"a batch at the start":   {Position: 0, Batch: end.Batch},
	} {
		f.wantError(what, f.l.Follow(f.Context(), after, noBatch), drivers.ErrDiverged)
	}
	// A log that was written anew, with the same positions.
	second := newFixture(f.T, f.h)
	for range 5 {
		second.append(second.batch(3, 20))
	}
	second.wantError("another history", second.l.Follow(f.Context(), f.want.endOf(3), noBatch), drivers.ErrDiverged)
	second.wantError("append to another history", second.l.Append(f.Context(), end, second.batch(1, 1)), drivers.ErrConflict)
	second.finish()
}
