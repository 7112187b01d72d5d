package sqllog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

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
