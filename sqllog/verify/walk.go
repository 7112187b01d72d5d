package verify

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Finding is something in a log that must not be.
type Finding struct {
	// Rule is the invariant that does not hold, or "storage".
	Rule string `json:"rule"`
	// Position is where in the log it shows, 0 if nowhere in particular.
	Position int64 `json:"position,omitempty"`
	// Text says what is wrong. It may name keys, and never has values.
	Text string `json:"text"`
}

// String gives the finding as a line.
func (f Finding) String() string {
	if f.Position == 0 {
		return f.Rule + ": " + f.Text
	}
	return fmt.Sprintf("%s: position %d: %s", f.Rule, f.Position, f.Text)
}

// Summary is what a log holds.
type Summary struct {
	// Entries is the number of entries present, Position the log's last position, Scrubbed its scrub mark.
	Entries  int64 `json:"entries"`
	Position int64 `json:"position"`
	Scrubbed int64 `json:"scrubbed"`
	// Revision is the current revision, Compact the compact revision (-1 if never compacted), Revisions
	// the number of revisions of which changes are present.
	Revision  int64 `json:"revision"`
	Compact   int64 `json:"compact_revision"`
	Revisions int64 `json:"revisions"`
	// Keys is the number of live keys, Leases, Users and Roles that of those.
	Keys   int64 `json:"keys"`
	Leases int64 `json:"leases"`
	Users  int64 `json:"users"`
	Roles  int64 `json:"roles"`
	// Members is the number of members, Removed that of those that were removed.
	Members int64 `json:"members"`
	Removed int64 `json:"removed_members"`
	// AuthRevision is the auth revision.
	AuthRevision int64 `json:"auth_revision"`
	// Findings is the number of findings.
	Findings int64 `json:"findings"`
}

// Options say who hears of a walk.
type Options struct {
	// Report is told every finding. Required.
	Report func(Finding)
	// Progress is told now and then how far the walk is, in steps of any size. Optional.
	Progress func(done, total int64)

	// loadAtOnce is how many entries are loaded, at least, before what is superseded among them is taken out of the index.
	loadAtOnce int
}

// Walk examines a log. An error means that it could not be read to the end;
// what is wrong with it is a finding and no error.
func Walk(ctx context.Context, log drivers.Log, opts Options) (Summary, error) {
	w := &walk{log: log, opts: opts, keys: make(map[string]mvcc.Version), authRev: 1,
		users: make(map[string]*mvcc.User), roles: make(map[string]*mvcc.Role),
		members: make(map[uint64]*mvcc.Member), removed: make(map[uint64]bool)}
	if opts.Progress == nil {
		w.opts.Progress = func(int64, int64) {}
	}
	if opts.loadAtOnce == 0 {
		w.opts.loadAtOnce = 1 << 18
	}
	if c, ok := log.(drivers.Checker); ok {
		err := c.Check(ctx, func(text string) { w.find("storage", 0, "%s", text) })
		if err != nil {
			return w.sum, err
		}
	}
	var err error
	if w.bounds, err = log.ReadIndex(ctx); err != nil {
		return w.sum, fmt.Errorf("read the bounds: %w", err)
	}
	if err := w.load(ctx); err != nil {
		return w.sum, fmt.Errorf("load the index: %w", err)
	}
	if err := w.scan(ctx); err != nil {
		return w.sum, fmt.Errorf("walk the log: %w", err)
	}
	w.checkEnd()
	w.compare()
	w.sum.Position, w.sum.Scrubbed = w.bounds.End.Position, w.bounds.Scrubbed
	w.sum.Revision, w.sum.Compact = w.index.Rev, w.index.Compact
	w.sum.Keys = w.index.Keys()
	for range w.index.Leases() {
		w.sum.Leases++
	}
	w.sum.Users, w.sum.Roles, w.sum.AuthRevision = int64(len(w.users)), int64(len(w.roles)), w.index.AuthRev
	w.sum.Members, w.sum.Removed = int64(len(w.members)), int64(len(w.removed))
	return w.sum, nil
}

// walk is one examination of a log.
type walk struct {
	log    drivers.Log
	opts   Options
	bounds drivers.Bounds
	index  *mvcc.Index // as a server loads it
	sum    Summary

	position int64                   // the last one seen
	main     int64                   // the last revision seen
	sub      int32                   // the last one seen in it
	compact  int64                   // the compact revision as of the position
	keys     map[string]mvcc.Version // the newest version of every key that lives
	authRev  int64                   // the last auth revision seen
	users    map[string]*mvcc.User
	roles    map[string]*mvcc.Role
	members  map[uint64]*mvcc.Member
	removed  map[uint64]bool
	cluster  uint64 // of the first member seen
}

func (w *walk) find(rule string, position int64, format string, args ...any) {
	w.sum.Findings++
	w.opts.Report(Finding{Rule: rule, Position: position, Text: fmt.Sprintf(format, args...)})
}

// progress tells of another slice, which ends at a position.
func (w *walk) progress(pass, position int64) {
	w.opts.Progress(pass*w.bounds.End.Position+position, 2*w.bounds.End.Position)
}

// load builds the index as a server does. What cannot be read is left out; scan tells of it.
func (w *walk) load(ctx context.Context) error {
	b, loaded := mvcc.NewIndex().Edit(false), 0
	err := w.each(ctx, false, func(entries []drivers.Entry) {
		for i := range entries {
			if _, err := mvcc.Decode(&entries[i]); err != nil {
				continue
			}
			if err := b.Load(entries[i : i+1]); err != nil {
				w.find("I6", entries[i].Position, "the index cannot take it in: %v", err)
			}
		}
		last := entries[len(entries)-1].Position
		if loaded += len(entries); loaded >= max(w.opts.loadAtOnce, b.Keys()) {
			b.TakeSuperseded(last)
			loaded = 0
		}
		w.progress(0, last)
	})
	b.Settle()
	w.index = b.Index(w.bounds.End)
	return err
}

func (w *walk) scan(ctx context.Context) error {
	return w.each(ctx, true, func(entries []drivers.Entry) {
		for i := range entries {
			w.entry(&entries[i])
		}
		w.progress(1, w.position)
	})
}

func (w *walk) each(ctx context.Context, values bool, fn func([]drivers.Entry)) error {
	if w.bounds.End.Position == 0 {
		return nil
	}
	opts := drivers.ScanOptions{UpTo: w.bounds.End.Position, Values: values}
	return w.log.Scan(ctx, opts, func(entries []drivers.Entry) error {
		fn(entries)
		return ctx.Err()
	})
}

// checkEnd compares where the log ends with where it says it does (I1).
func (w *walk) checkEnd() {
	end := w.bounds.End.Position
	if w.position != end {
		w.find("I1", w.position, "the log's last entry is here, and its end is said to be at %d", end)
	}
	if end > 0 && w.bounds.Scrubbed >= end {
		w.find("I1", end, "the log is scrubbed up to %d, and its last position must not be", w.bounds.Scrubbed)
	}
}
