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
