package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Options configures a Runner. All fields up to Logger are required.
type Options struct {
	// Source makes a snapshot of now.
	Source func(context.Context) (*Snapshot, error)
	Target Target
	// Schedule says when backups are due, Keep which stay.
	Schedule Schedule
	Keep     Keep
	// Cluster is the id of the cluster whose backups these are.
	Cluster uint64
	// Leads tells whether this server is the one that backs up for all.
	Leads  func() bool
	Logger *slog.Logger
	// Ready tells whether a backup can be begun, asking the target if need be. Nil: it always can.
	Ready func(context.Context) error
	// Revision gives the store's current revision: a backup that has more is not one of it. Nil: none is known.
	Revision func() int64
	// Vouch reads a backup that another server, or an earlier process, has stored, before it counts: ErrAltered if it is not whole. Nil: it counts unread.
	Vouch func(io.Reader) error
	// Now is the wall clock. Nil: time.Now.
	Now func() time.Time
	// Stall is how long a target may take or give nothing until it is given up. 0: DefaultStall.
	Stall time.Duration
}

// Runner makes the backups that are due.
type Runner struct {
	o     Options
	slot  chan struct{} // has a token while something is asked of the target
	pulse *pulse        // of that

	// Of the loop alone: what the target had when this server last looked, since it leads, and how often in a row something failed.
	known bool
	have  []Backup
	fails int
	// vouched says of names whether what they have was found good. What is not in it is not known yet.
	vouched map[string]bool

	mu    sync.Mutex
	stats Stats
}

const (
	// poll is how long the clock, and who leads, goes unasked.
	poll = 10 * time.Second
	// A backup that failed is tried again after firstPause, then after twice as long each time, up to maxPause; and when the next one is due.
	firstPause, maxPause = 5 * time.Second, 10 * time.Minute
	// ahead is how far in the future a backup may seem to be that counts as the last one: clocks are set.
	ahead = time.Hour
	// grace is what a target that is given up may take to notice.
	grace = 2 * time.Second
)

var (
	// errNotLeading ends a backup when another server is to make it.
	errNotLeading = errors.New("another server backs up from now on")
	// errBusy says that what was given up has not ended.
	errBusy = fmt.Errorf("%w: what was asked of it before has not ended", ErrStalled)
)

// NewRunner makes a Runner. It asks nothing of anybody before Run.
func NewRunner(o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Stall == 0 {
		o.Stall = DefaultStall
	}
	return &Runner{o: o, slot: make(chan struct{}, 1), pulse: newPulse(o.Stall), vouched: map[string]bool{}}
}

// Run makes backups until ctx ends. Nothing that goes wrong ends it.
func (r *Runner) Run(ctx context.Context) error {
	r.probe(ctx)
	for ctx.Err() == nil {
		timer := time.NewTimer(r.step(ctx))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// probe tells the log of a target that cannot be used by a server that is not the one that backs up, and may become it. Who is finds out by itself.
func (r *Runner) probe(ctx context.Context) {
	if r.o.Leads() {
		return
	}
	err := r.while(ctx, func() bool { return !r.o.Leads() }, func(ctx context.Context) error {
		_, err := r.o.Target.List(ctx)
		return err
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, errNotLeading) {
		r.o.Logger.Warn("no backups could be made from here now, if it were for this server to make them", "target", r.o.Target.String(), "error", err)
	}
}

// now is the wall clock, and nothing else.
func (r *Runner) now() time.Time { return r.o.Now().Round(0) }

// step does what is to be done and says how long there will be nothing.
func (r *Runner) step(ctx context.Context) time.Duration {
	if !r.o.Leads() {
		r.known, r.fails = false, 0
		return poll
	}
	if r.known {
		if pause := r.untilDue(); pause > 0 {
			return pause
		}
	}
	// Somebody else may have made it.
	if err := r.look(ctx); err != nil {
		return r.failed(ctx, err, "the backups that there are could not be listed")
	}
	if pause := r.untilDue(); pause > 0 {
		return pause
	}
	if err := r.make(ctx); err != nil {
		return r.failed(ctx, err, "the backup failed")
	}
	r.fails = 0
	return r.untilDue()
}

// untilDue is how long to wait for the next backup, at most poll; 0 if it is due.
func (r *Runner) untilDue() time.Duration {
	now := r.now()
	b, ok := r.last(now)
	if !ok {
		return 0
	}
	next := r.o.Schedule.Next(b.Time)
	if next.IsZero() {
		return poll
	}
	return max(0, min(poll, next.Sub(now)))
}

// last is the newest backup of which a clock can be believed, that this store can have made, and that was not found bad.
func (r *Runner) last(now time.Time) (Backup, bool) {
	for _, b := range r.have {
		good, known := r.vouched[b.Name()]
		switch {
		case b.Time.After(now.Add(ahead)), known && !good, !known && r.o.Revision != nil && b.Revision > r.o.Revision():
		default:
			return b, true
		}
	}
	return Backup{}, false
}

// vouch reads the newest backups, up to one that is good.
func (r *Runner) vouch(ctx context.Context) error {
	for {
		b, ok := r.last(r.now())
		if !ok || r.vouched[b.Name()] || r.o.Vouch == nil {
			return nil
		}
		err := r.ask(ctx, func(ctx context.Context) error {
			r.pulse.expect(b.Size)
			stored, err := r.o.Target.Open(ctx, b.Name())
			if err != nil {
				return err
			}
			defer stored.Close()
			return r.o.Vouch(&reader{from: stored, sum: sha256.New(), progress: r.pulse.beat})
		})
		switch {
		case errors.Is(err, ErrAltered):
			r.o.Logger.Error("a backup is not whole, and does not count", "target", r.o.Target.String(), "name", b.Name(), "error", err)
		case err != nil:
			return fmt.Errorf("read %s: %w", b.Name(), err)
		}
		r.vouched[b.Name()] = err == nil
	}
}

// failed notes that something failed and says when to try again.
func (r *Runner) failed(ctx context.Context, err error, what string) time.Duration {
	switch {
	case ctx.Err() != nil:
		return poll
	case errors.Is(err, errNotLeading):
		r.o.Logger.Info("the backup is left to another server", "target", r.o.Target.String())
		return 0
	}
	now := r.now()
	r.update(func(s *Stats) { s.fail(now) })
	pause := min(maxPause, firstPause<<min(r.fails, 16))
	r.fails++
	// When the next one is due it is begun anew.
	if next := r.o.Schedule.Next(now); !next.IsZero() && next.Sub(now) < pause {
		pause, r.fails = next.Sub(now), 0
	}
	r.o.Logger.Error(what, "target", r.o.Target.String(), "error", err, "retry-in", pause)
	return pause
}

// look takes in which backups there are.
func (r *Runner) look(ctx context.Context) error {
	var all []Backup
	err := r.ask(ctx, func(ctx context.Context) (err error) {
		all, err = r.o.Target.List(ctx)
		return err
	})
	if err != nil {
		return err
	}
	r.have = of(r.o.Cluster, all)
	r.update(func(s *Stats) { s.others(r.o.Cluster, all) })
	if err := r.vouch(ctx); err != nil {
		return err
	}
	if !r.known {
		r.tellOthers()
	}
	r.known = true
	if b, ok := r.last(r.now()); ok {
		r.update(func(s *Stats) { s.saw(b) })
	}
	return nil
}

// tellOthers tells of the backups that this server will never remove: they may be of what it was before its data were lost or restored.
func (r *Runner) tellOthers() {
	if s := r.Stats(); s.Others > 0 {
		r.o.Logger.Info("there are backups of other clusters, which are not removed", "target", r.o.Target.String(), "backups", s.Others, "total-bytes", s.OthersSize)
	}
}

// make makes a backup.
func (r *Runner) make(ctx context.Context) error {
	start := time.Now()
	r.update(func(s *Stats) { s.Running = true })
	var made *Made
	var altered []string
	for name, good := range r.vouched {
		if !good {
			altered = append(altered, name)
		}
	}
	err := r.ask(ctx, func(ctx context.Context) error {
		m := &Maker{Target: r.o.Target, Cluster: r.o.Cluster, Keep: r.o.Keep, Now: r.o.Now, Altered: altered, Progress: r.pulse.beat}
		left := m.Sweep(ctx)
		if r.o.Ready != nil {
			if err := r.o.Ready(ctx); err != nil {
				return errors.Join(cause(ctx, err), left)
			}
		}
		r.pulse.rest()
		snapshot, err := r.o.Source(ctx)
		r.pulse.beat()
		if err != nil {
			return fmt.Errorf("make the snapshot: %w", cause(ctx, err))
		}
		defer snapshot.Close()
		r.pulse.expect(2 * snapshot.Size)
		if made, err = m.Make(ctx, snapshot); err != nil {
			return errors.Join(err, left)
		}
		made.Left = errors.Join(left, made.Left)
		return nil
	})
	took := time.Since(start)
	r.update(func(s *Stats) {
		if s.Running = false; err == nil {
			s.succeed(made.Backup, r.now(), took)
		}
	})
	if err != nil {
		return err
	}
	r.have, r.vouched = []Backup{made.Backup}, map[string]bool{made.Name(): true}
	r.o.Logger.Info("made a backup", "target", r.o.Target.String(), "name", made.Name(), "revision", made.Revision,
		"total-bytes", made.Size, "took", took, "removed", len(made.Removed))
	r.tellOthers()
	if made.Left != nil {
		r.o.Logger.Warn("the backup is there, but old ones could not be removed", "target", r.o.Target.String(), "error", made.Left)
	}
	return nil
}

// ask does something with the target beside the loop, and returns when it is done, or a moment after ctx has ended, another server has come to lead, or the
// target hangs: then it may go on, and nothing else is asked meanwhile.
func (r *Runner) ask(ctx context.Context, do func(context.Context) error) error {
	return r.while(ctx, r.o.Leads, do)
}

// while is ask for as long as something holds.
func (r *Runner) while(ctx context.Context, holds func() bool, do func(context.Context) error) error {
	select {
	case r.slot <- struct{}{}:
	default:
		return errBusy
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.pulse.start()
	done := make(chan error, 1)
	go func() {
		err := do(ctx)
		<-r.slot
		done <- err
	}()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return cause(ctx, err)
		case <-ticker.C:
			if !holds() {
				cancel(errNotLeading)
			}
			if err := r.pulse.err(); err != nil {
				cancel(err)
			}
			if ctx.Err() == nil {
				continue
			}
		case <-ctx.Done():
		}
		last := time.NewTimer(grace)
		defer last.Stop()
		select {
		case err := <-done:
			if err == nil {
				return nil
			}
		case <-last.C:
		}
		return context.Cause(ctx)
	}
}
