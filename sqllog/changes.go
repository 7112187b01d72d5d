package sqllog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Change is a change of a key as the log has it, whether compacted or not.
type Change struct {
	Key string
	mvcc.Version
	Value []byte
	// Gone is set if the value was scrubbed while it was to be read.
	Gone bool
	// Written is the time of its batch, by the clock of the server that wrote it: in milliseconds since 1970. If the end of the batch has been scrubbed it is that of the
	// next batch whose end has not been.
	Written int64
}

// Wanted says which changes are meant.
type Wanted struct {
	Keys mvcc.Range
	// Except are keys that are not meant.
	Except []mvcc.Range
	// Containing, if there is any, means only the keys that contain one of these.
	Containing []string
	// From and To are the first and the last revision; 0 is no bound.
	From, To int64
	// Newest gives the newest change first, otherwise the oldest.
	Newest bool
	// Limit is how many changes are given at most; 0 is no limit.
	Limit int64
	// KeysOnly leaves out the values.
	KeysOnly bool
}

func (w *Wanted) has(key string) bool {
	return w.Keys.Contains(key) && !slices.ContainsFunc(w.Except, func(r mvcc.Range) bool { return r.Contains(key) }) &&
		(len(w.Containing) == 0 || slices.ContainsFunc(w.Containing, func(part string) bool { return strings.Contains(key, part) }))
}

// Extent says what the log has of history.
type Extent struct {
	// Rev and Compact are the current and the compact revision.
	Rev, Compact int64
	// Complete is the first revision from which on every change is in the log. Of the changes before it some are.
	Complete int64
	// end is where the log ended.
	end int64
}

// ErrNotKept says that what was there at a revision is not in the log any more.
var ErrNotKept = errors.New("the log does not go back so far")

// Has gives ErrNotKept if what was there at a revision is not to be had as a whole.
func (e *Extent) Has(rev int64) error {
	if rev+1 < e.Complete {
		return fmt.Errorf("revision %d: %w: it is whole from revision %d on", rev, ErrNotKept, e.Complete)
	}
	return nil
}

// Extent tells what the log has, as far as this server knows without a leader. What is scrubbed meanwhile may be less.
func (s *Store) Extent(ctx context.Context) (Extent, error) {
	if err := s.refused(); err != nil {
		return Extent{}, err
	}
	if err := s.current(ctx); err != nil {
		return Extent{}, err
	}
	ix := s.index.Load()
	scrubbed, err := s.scrubbed(ctx)
	if err != nil {
		return Extent{}, s.readFailed(ctx, err)
	}
	e := Extent{Rev: ix.Rev, Compact: ix.Compact, end: ix.End.Position, Complete: max(ix.Begun+1, 1)}
	if scrubbed == 0 || ix.Compact <= 0 {
		return e, nil
	}
	// Above the mark nothing is missing, but a revision may begin below it. Nor is anything missing that is not compacted.
	first, err := s.changeAfter(ctx, scrubbed, ix.End.Position)
	from := first.Main
	switch {
	case err != nil:
		return Extent{}, s.readFailed(ctx, err)
	case first.Main == 0:
		from = ix.Rev + 1
	case first.Sub > 0:
		from++
	}
	e.Complete = max(e.Complete, min(from, ix.Compact+1))
	return e, nil
}

// scrubbed gives the scrub mark, without asking for a leader.
func (s *Store) scrubbed(ctx context.Context) (int64, error) {
	if s.replica != nil {
		return s.replica.Known().Scrubbed, nil
	}
	bounds, err := s.log.ReadIndex(ctx)
	return bounds.Scrubbed, err
}

// changeAfter gives the first change, or marker, behind a position and up to another one; the zero Version if there is none.
func (s *Store) changeAfter(ctx context.Context, position, upTo int64) (v mvcc.Version, err error) {
	for n := int64(timesAtOnce); position < upTo && v.Main == 0 && err == nil; n *= 2 {
		to := min(position+n, upTo)
		err = s.log.Scan(ctx, drivers.ScanOptions{After: position, UpTo: to}, func(entries []drivers.Entry) error {
			for i := range entries {
				r, err := mvcc.Decode(&entries[i])
				switch {
				case err != nil:
					return err
				case len(r.Changes) > 0:
					v = r.Changes[0].Version
					return errEnough
				case r.Marker > 0:
					v = mvcc.Version{Main: r.Marker, Position: entries[i].Position}
					return errEnough
				}
			}
			return nil
		})
		position = to
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return v, err
}

// before gives a position up to which no change of revision rev or later stands, and after which, up to end, no earlier one does.
func (s *Store) before(ctx context.Context, rev, end int64) (int64, error) {
	lo, hi := int64(0), end // nothing up to lo is of rev or later, and all after hi are
	for lo < hi {
		mid := lo + (hi-lo)/2
		v, err := s.changeAfter(ctx, mid, hi)
		if err != nil {
			return 0, s.readFailed(ctx, err)
		}
		if v.Main == 0 || v.Main >= rev {
			hi = mid
		} else {
			lo = v.Position
		}
	}
	return lo, nil
}

// RevisionAt gives the revision that was current when the last batch was written whose time is not after at, in milliseconds since 1970,
// and the time of that batch. It is 0 if everything in the log is later. Times are those that the servers' clocks gave.
func (s *Store) RevisionAt(ctx context.Context, e Extent, at int64) (rev, written int64, err error) {
	if err := s.refused(); err != nil {
		return 0, 0, err
	}
	for w := backward(0, e.end); w.next(0); {
		var found, revision, main int64
		err := s.log.Scan(ctx, drivers.ScanOptions{After: w.after, UpTo: w.upTo, Times: true}, func(entries []drivers.Entry) error {
			w.read += len(entries)
			for i := range entries {
				r, err := mvcc.Decode(&entries[i])
				if err != nil {
					return err
				}
				if len(r.Changes) > 0 {
					main = r.Changes[0].Main
				}
				main = max(main, r.Marker)
				if t := entries[i].Written; t != 0 && t <= at {
					found, revision, written = entries[i].Position, main, t
				}
			}
			return nil
		})
		switch {
		case err != nil:
			return 0, 0, s.readFailed(ctx, err)
		case found == 0:
			continue
		case revision > 0:
			return revision, written, nil
		}
		// The revision is that of the last change before.
		for w := backward(0, found); w.next(0); {
			last := int64(0)
			err := s.log.Scan(ctx, drivers.ScanOptions{After: w.after, UpTo: w.upTo}, func(entries []drivers.Entry) error {
				w.read += len(entries)
				for i := range entries {
					r, err := mvcc.Decode(&entries[i])
					if err != nil {
						return err
					}
					if len(r.Changes) > 0 {
						last = r.Changes[0].Main
					}
					last = max(last, r.Marker)
				}
				return nil
			})
			if err != nil || last > 0 {
				return last, written, s.readFailedOr(ctx, err)
			}
		}
		return 1, written, nil
	}
	return 0, 0, nil
}

// readFailedOr is readFailed where there may be no error.
func (s *Store) readFailedOr(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return s.readFailed(ctx, err)
}

// windows are parts of the log that are read one after the other, in either direction. Their size is such that what is found in one is not much.
type windows struct {
	lo, hi      int64 // what is still to be read
	size        int64
	newest      bool
	begun       bool
	after, upTo int64 // the current one
	read        int   // how many entries were read of it
}

// Windows have at least so many positions and at most so many, since behind holes all may be dense, and grow as long as there are less than so many changes in one, and until there are so many entries. One in which the changes
// would take more than so many bytes, by their keys and so much for each, ends before its time.
const (
	windowLeast   = 1 << 10
	windowMost    = 1 << 20
	windowEntries = 1 << 15
	windowChanges = 1000
	windowBytes   = 4 << 20
	changeBytes   = 128
)

func backward(lo, hi int64) *windows { return &windows{lo: lo, hi: hi, newest: true} }

// next goes on to the next window. found is how much was found in the last one.
func (w *windows) next(found int) bool {
	switch {
	case !w.begun:
		w.begun, w.size = true, windowLeast
	case found >= windowChanges || w.read > windowEntries:
		w.size = max(w.size/2, windowLeast)
	case 2*w.read <= windowEntries:
		w.size = min(2*w.size, windowMost)
	}
	w.read = 0
	if w.lo >= w.hi {
		return false
	}
	if w.newest {
		w.after, w.upTo = max(w.hi-w.size, w.lo), w.hi
		w.hi = w.after
	} else {
		w.after, w.upTo = w.lo, min(w.lo+w.size, w.hi)
		w.lo = w.upTo
	}
	return true
}

// narrow ends the current window at a position: what is at the other side of it comes in the next one.
func (w *windows) narrow(position int64) {
	if w.newest {
		w.after, w.hi = position, position
	} else {
		w.upTo, w.lo = position, position
	}
}

// Changes gives the changes that are wanted, of those which the log has, to fn, in slices that are fn's to keep. fn's error ends it and is returned.
func (s *Store) Changes(ctx context.Context, e Extent, w Wanted, fn func([]Change) error) error {
	lo, hi := int64(0), e.end
	var err error
	if w.From > 0 {
		if lo, err = s.before(ctx, w.From, e.end); err != nil {
			return err
		}
	}
	if w.To > 0 && w.To < math.MaxInt64 {
		if hi, err = s.before(ctx, w.To+1, e.end); err != nil {
			return err
		}
	}
	left := w.Limit
	found := 0
	for win := (&windows{lo: lo, hi: hi, newest: w.Newest}); win.next(found); {
		changes, err := s.window(ctx, win, &w)
		if err != nil {
			return err
		}
		if found = len(changes); w.Newest {
			slices.Reverse(changes)
		}
		if w.Limit > 0 && int64(len(changes)) > left {
			changes = changes[:left]
		}
		left -= int64(len(changes))
		if err := s.deliver(ctx, changes, w.KeysOnly, fn); err != nil {
			return err
		}
		if w.Limit > 0 && left == 0 {
			return nil
		}
	}
	return s.refused()
}

// window reads the changes of one window that are wanted, oldest first, without their values. It narrows a window in which there is too much.
func (s *Store) window(ctx context.Context, win *windows, w *Wanted) (changes []Change, err error) {
	untimed, bytes := 0, 0
	err = s.log.Scan(ctx, drivers.ScanOptions{After: win.after, UpTo: win.upTo, Times: true}, func(entries []drivers.Entry) error {
		win.read += len(entries)
		for i := range entries {
			if bytes >= windowBytes {
				if win.narrow(entries[i].Position - 1); !win.newest {
					return errEnough
				}
				changes, untimed, bytes = nil, 0, 0
			}
			r, err := mvcc.Decode(&entries[i])
			if err != nil {
				return err
			}
			for _, ev := range r.Changes {
				if w.has(ev.Key) && ev.Main >= w.From && (w.To == 0 || ev.Main <= w.To) {
					changes = append(changes, Change{Key: ev.Key, Version: ev.Version})
					bytes += len(ev.Key) + changeBytes
				}
			}
			if at := entries[i].Written; at != 0 {
				for ; untimed < len(changes); untimed++ {
					changes[untimed].Written = at
				}
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err == nil && untimed < len(changes) {
		var at int64
		at, err = s.writtenAfter(ctx, win.upTo)
		for ; untimed < len(changes); untimed++ {
			changes[untimed].Written = at
		}
	}
	return changes, s.readFailedOr(ctx, err)
}

// Changes are given in slices of so many, or of so many bytes, unless a single one has more: small ones, since a client is to take each in some seconds.
const (
	changesAtOnce = 500
	changesBytes  = 128 << 10
)

// deliver fetches values and gives changes to fn, each slice in memory of its own: so the values are not all kept until the last one is given.
func (s *Store) deliver(ctx context.Context, changes []Change, keysOnly bool, fn func([]Change) error) error {
	for len(changes) > 0 {
		n, bytes := 0, 0
		for n < len(changes) && n < changesAtOnce && (n == 0 || bytes+int(changes[n].Size)+len(changes[n].Key) <= changesBytes) {
			bytes += int(changes[n].Size) + len(changes[n].Key)
			n++
		}
		some := slices.Clone(changes[:n])
		if !keysOnly {
			if err := s.fill(ctx, some); err != nil {
				return err
			}
		}
		if err := fn(some); err != nil {
			return err
		}
		changes = changes[n:]
	}
	return nil
}

// fill fetches the values of changes, beside the cache.
func (s *Store) fill(ctx context.Context, changes []Change) error {
	var positions []int64
	var at []int
	for i := range changes {
		if c := &changes[i]; !c.Tombstone() && c.Size > 0 {
			positions, at = append(positions, c.Position), append(at, i)
		}
	}
	values := make([][]byte, len(positions))
	err := s.log.Values(ctx, positions, values)
	if errors.Is(err, drivers.ErrScrubbed) {
		// Some went meanwhile: which?
		for i := range positions {
			values[i] = nil
			if err = s.log.Values(ctx, positions[i:i+1], values[i:i+1]); errors.Is(err, drivers.ErrScrubbed) {
				changes[at[i]].Gone, err = true, nil
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		return s.readFailed(ctx, err)
	}
	for i, v := range values {
		changes[at[i]].Value = v
	}
	return nil
}

// Rewound is a key that has changed since a revision.
type Rewound struct {
	Key string
	// Then is what was there at the revision, and Now what is there: a tombstone, or the zero Version, if there was or is nothing.
	Then, Now mvcc.Version
	Value     []byte // at the revision
	// Same is set if the value and the lease are what they were.
	Same bool
	// LeaseEnded is set if the lease that Then had is known to have ended since, whatever lease has its id by now.
	LeaseEnded bool
	// Written is when Then was, as in Change.
	Written int64
}

// MostRewound is how many keys may have changed for Rewound to tell of them.
const MostRewound = 1 << 20

// ErrTooMany says that more keys have changed than one Rewound tells of.
var ErrTooMany = fmt.Errorf("more than %d keys have changed since", MostRewound)

// Rewound gives what is wanted of what was there at revision rev, for all keys that were changed since, in order, to fn, in slices that are
// fn's to keep. Keys that came and went since are left out. ErrNotKept if any of it is not in the log any more.
func (s *Store) Rewound(ctx context.Context, e Extent, rev int64, w Wanted, fn func([]Rewound) error) error {
	if err := e.Has(rev); err != nil {
		return err
	}
	start, err := s.before(ctx, rev+1, e.end)
	if err != nil {
		return err
	}
	changed, err := s.changedIn(ctx, &w, start, e.end)
	if err != nil {
		return err
	}
	if err := s.stateAt(ctx, changed, start, &w); err != nil {
		return err
	}
	leases := map[int64]bool{}
	for _, c := range changed {
		if c.then.Lease != 0 {
			leases[c.then.Lease] = false
		}
	}
	if err := s.endedIn(ctx, leases, start, e.end); err != nil {
		return err
	}
	// Something may have been scrubbed before it was read.
	now, err := s.Extent(ctx)
	if err == nil {
		err = now.Has(rev)
	}
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(changed))
	for k, c := range changed {
		switch {
		case !c.known:
			return fmt.Errorf("what %q was at revision %d: %w", k, rev, ErrNotKept)
		case c.then.Main == 0 && c.now.Tombstone():
			continue
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for len(keys) > 0 {
		n, bytes := 0, 0
		for ; n < len(keys) && n < changesAtOnce; n++ {
			// The value of now is not given, but read.
			bytes += len(keys[n]) + int(changed[keys[n]].then.Size) + int(changed[keys[n]].now.Size)
			if n > 0 && bytes > changesBytes {
				break
			}
		}
		some, err := s.rewound(ctx, changed, keys[:n])
		if err != nil {
			return err
		}
		for i := range some {
			some[i].LeaseEnded = leases[some[i].Then.Lease]
		}
		if err := fn(some); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return s.refused()
}

// changed is a key that has changed: by which change first and last, and what it was before.
type changed struct {
	first, now, then mvcc.Version
	written          int64
	known            bool // then is known, and zero if there was nothing
}

// changedIn finds the keys that are wanted which have changed behind a position.
func (s *Store) changedIn(ctx context.Context, w *Wanted, after, upTo int64) (keys map[string]*changed, err error) {
	keys = map[string]*changed{}
	if after >= upTo {
		return keys, nil
	}
	err = s.log.Scan(ctx, drivers.ScanOptions{After: after, UpTo: upTo}, func(entries []drivers.Entry) error {
		for i := range entries {
			r, err := mvcc.Decode(&entries[i])
			if err != nil {
				return err
			}
			for _, ev := range r.Changes {
				if !w.has(ev.Key) {
					continue
				}
				c := keys[ev.Key]
				if c == nil {
					if len(keys) == MostRewound {
						return ErrTooMany
					}
					// The first put of a generation says that there was nothing.
					c = &changed{first: ev.Version, known: ev.Count == 1}
					keys[ev.Key] = c
				}
				c.now = ev.Version
			}
		}
		return nil
	})
	if errors.Is(err, ErrTooMany) {
		return nil, ErrTooMany
	}
	return keys, s.readFailedOr(ctx, err)
}

// endedIn sets those of some leases that have ended behind a position. Of others, of which there may be any number, it keeps nothing.
func (s *Store) endedIn(ctx context.Context, leases map[int64]bool, after, upTo int64) error {
	if len(leases) == 0 || after >= upTo {
		return nil
	}
	err := s.log.Scan(ctx, drivers.ScanOptions{After: after, UpTo: upTo}, func(entries []drivers.Entry) error {
		for i := range entries {
			r, err := mvcc.Decode(&entries[i])
			if err != nil {
				return err
			}
			if _, ok := leases[r.Revoked]; ok {
				leases[r.Revoked] = true
			}
		}
		return nil
	})
	return s.readFailedOr(ctx, err)
}

// stateAt finds what keys were up to a position, going back from there.
func (s *Store) stateAt(ctx context.Context, keys map[string]*changed, position int64, w *Wanted) error {
	unknown := 0
	for _, c := range keys {
		if !c.known {
			unknown++
		}
	}
	found := 0
	for win := backward(0, position); unknown > 0 && win.next(found); {
		changes, err := s.window(ctx, win, &Wanted{Keys: w.Keys, Except: w.Except, Containing: w.Containing})
		if err != nil {
			return err
		}
		found = len(changes)
		for _, c := range slices.Backward(changes) {
			k := keys[c.Key]
			if k == nil || k.known || k.then.Main > 0 {
				continue
			}
			// A put says how many came before it, so none is missing between the two. Nor is before a tombstone: it is scrubbed after those.
			k.then, k.written = c.Version, c.Written
			if k.known = !c.Tombstone() && (k.first.Tombstone() || c.Count == k.first.Count-1 && c.Create == k.first.Create); k.known {
				unknown--
			}
		}
	}
	return nil
}

// rewound fetches what there is to tell of some keys.
func (s *Store) rewound(ctx context.Context, all map[string]*changed, keys []string) ([]Rewound, error) {
	then, now := make([]Change, len(keys)), make([]Change, len(keys))
	for i, k := range keys {
		then[i].Version = all[k].then
		if c := all[k]; c.now.Size == c.then.Size && c.now.Lease == c.then.Lease && !c.now.Tombstone() {
			now[i].Version = c.now
		}
	}
	if err := errors.Join(s.fill(ctx, then), s.fill(ctx, now)); err != nil {
		return nil, err
	}
	out := make([]Rewound, len(keys))
	for i, k := range keys {
		c := all[k]
		if then[i].Gone {
			return nil, fmt.Errorf("what %q was: %w", k, ErrNotKept)
		}
		out[i] = Rewound{Key: k, Then: c.then, Now: c.now, Value: then[i].Value, Written: c.written}
		out[i].Same = c.then.Main > 0 && now[i].Main > 0 && !now[i].Gone && string(now[i].Value) == string(then[i].Value)
	}
	return out, nil
}
