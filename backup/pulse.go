package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

const (
	// DefaultStall is how long a target may take or give nothing until it is given up.
	DefaultStall = 5 * time.Minute
	// slowest is how many bytes a second a target has to take or give on the whole: who trickles does not stall, and would never end.
	slowest = 64 << 10
	// watchEvery is how long a target goes unwatched.
	watchEvery = time.Second
)

// pulse tells whether something that is under way goes forward.
type pulse struct {
	stall time.Duration
	began time.Time
	at    atomic.Int64 // when it last went forward, since began
	until atomic.Int64 // when it has to be over
}

func newPulse(stall time.Duration) *pulse {
	p := &pulse{stall: stall, began: time.Now()}
	p.start()
	return p
}

// start says that something begins that nobody has said the size of.
func (p *pulse) start() {
	p.until.Store(math.MaxInt64)
	p.beat()
}

// beat notes that it went forward.
func (p *pulse) beat() { p.at.Store(int64(time.Since(p.began))) }

// rest says that it is not the target that is waited for, until the next beat.
func (p *pulse) rest() { p.at.Store(math.MaxInt64) }

// expect says how many bytes are to go to the target or to come from it.
func (p *pulse) expect(size int64) {
	p.beat()
	p.until.Store(p.at.Load() + int64(p.stall) + int64(float64(size)/slowest*float64(time.Second)))
}

// err says why to give it up.
func (p *pulse) err() error {
	now := time.Since(p.began)
	if stalled := now - time.Duration(p.at.Load()); stalled > p.stall {
		return fmt.Errorf("%w: nothing for %v", ErrStalled, stalled.Round(time.Second))
	}
	if int64(now) > p.until.Load() {
		return fmt.Errorf("%w: less than %d KiB/s", ErrStalled, slowest>>10)
	}
	return nil
}

// watched does something with a target whose context ends when it stalls.
func watched(ctx context.Context, stall time.Duration, do func(context.Context, *pulse) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := newPulse(stall)
	go func() {
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if err := p.err(); err != nil {
					cancel(err)
				}
			}
		}
	}()
	return cause(ctx, do(ctx, p))
}

// MakeWatched is Sweep and Make, and gives a target up that hangs: one that takes and gives nothing for stall, or for DefaultStall if that is 0. Progress is not told.
func (m *Maker) MakeWatched(ctx context.Context, s *Snapshot, stall time.Duration) (made *Made, err error) {
	err = watched(ctx, cmp.Or(stall, DefaultStall), func(ctx context.Context, p *pulse) (err error) {
		w := *m
		w.Progress = p.beat
		left := w.Sweep(ctx)
		p.expect(2 * s.Size)
		if made, err = w.Make(ctx, s); err != nil {
			return errors.Join(err, left)
		}
		made.Left = errors.Join(left, made.Left)
		return nil
	})
	return made, err
}
