package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"
)

// Snapshot is what a backup is made of.
type Snapshot struct {
	io.ReadCloser
	// Size is the number of bytes that there are to read, Revision the last revision in them.
	Size, Revision int64
}

// Keep says which backups stay when a new one was made: those that any of its rules is for. The zero value keeps all.
type Keep struct {
	// Count is for the newest ones, so many of them. 0: no such rule.
	Count int
	// For is for those that are no older. 0: no such rule.
	For time.Duration
}

// Made is a backup that was made.
type Made struct {
	Backup
	// Removed are those that were removed for it.
	Removed []Backup
	// Left is what went wrong beside it: in removing, or in sweeping. The backup is good all the same.
	Left error
}

// Maker makes backups. All fields but Progress are required.
type Maker struct {
	Target  Target
	Cluster uint64
	Keep    Keep
	// Now gives the time of the wall clock.
	Now func() time.Time
	// Altered names backups that were found not to be whole: they do not count among those that are kept, and go where any go.
	Altered []string
	// Progress is told of every step forward. Optional.
	Progress func()
}

// Sweep removes what was broken off. It comes before all that asks for room: what a kill has left may be as large as a backup.
func (m *Maker) Sweep(ctx context.Context) error { return cause(ctx, m.Target.Sweep(ctx, m.Cluster)) }

// Make stores a snapshot, reads it back, and removes the backups that are not to be kept beside it. It does not close the snapshot.
func (m *Maker) Make(ctx context.Context, s *Snapshot) (*Made, error) {
	made := &Made{Backup: Backup{Cluster: m.Cluster, Time: m.Now().UTC().Truncate(time.Millisecond), Revision: s.Revision, Size: s.Size}}
	sum, err := m.store(ctx, made.Backup, s)
	if err == nil {
		err = m.verify(ctx, made.Backup, sum)
	}
	if err != nil {
		return nil, errors.Join(err, m.discard(ctx, made.Backup, err))
	}
	made.Removed, made.Left = m.retain(ctx, made.Backup)
	return made, nil
}

// discard removes a backup that failed: what is altered, since nobody may take it for a good one, and what cannot be read, since it would be in the way as the newest one. What was given up, or was to be left
// to another server, is left alone: what has the name is whole, and counts when somebody has read it, which somebody may have done by now.
func (m *Maker) discard(ctx context.Context, b Backup, why error) error {
	if ctx.Err() != nil && !errors.Is(why, ErrAltered) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	return m.Target.Remove(ctx, b.Name())
}

// cleanTime is what removing a bad backup may take.
const cleanTime = 10 * time.Second

// store gives the sum of what was sent.
func (m *Maker) store(ctx context.Context, b Backup, s *Snapshot) ([]byte, error) {
	r := m.reader(s)
	if err := m.Target.Put(ctx, b, io.LimitReader(r, b.Size)); err != nil {
		return nil, cause(ctx, err)
	}
	return r.sum.Sum(nil), nil
}

func (m *Maker) verify(ctx context.Context, b Backup, sum []byte) error {
	stored, err := m.Target.Open(ctx, b.Name())
	if err != nil {
		return fmt.Errorf("read it back: %w", cause(ctx, err))
	}
	defer stored.Close()
	r := m.reader(stored)
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read it back: %w", cause(ctx, err))
	}
	if r.n != b.Size || !bytes.Equal(r.sum.Sum(nil), sum) {
		return fmt.Errorf("%w: %s", ErrAltered, b.Name())
	}
	return nil
}

// retain removes what is not to be kept beside b.
func (m *Maker) retain(ctx context.Context, b Backup) (removed []Backup, err error) {
	if m.Keep == (Keep{}) {
		return nil, nil
	}
	all, err := m.Target.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("see which backups are to be removed: %w", cause(ctx, err))
	}
	surplus, strange := m.Keep.surplus(b, of(m.Cluster, all), m.Altered)
	for _, old := range surplus {
		if err := m.Target.Remove(ctx, old.Name()); err != nil {
			return removed, fmt.Errorf("remove %s: %w", old.Name(), cause(ctx, err))
		}
		removed = append(removed, old)
		if m.Progress != nil {
			m.Progress()
		}
	}
	if strange > 0 {
		return removed, fmt.Errorf("%w: %d", ErrStrange, strange)
	}
	return removed, nil
}

// surplus gives those of own, which are in order, that are not to be kept now that b is there, those that are altered among them, and how many are strange: those of a higher revision, or of a time to come, are not counted and not
// removed. They are not what this store had before b.
func (k Keep) surplus(b Backup, own []Backup, altered []string) (out []Backup, strange int) {
	kept := 1 // b itself, whatever its name says
	for _, old := range own {
		switch {
		case old.Name() == b.Name():
		case old.Revision > b.Revision, old.Time.After(b.Time.Add(ahead)):
			strange++
		case slices.Contains(altered, old.Name()):
			out = append(out, old)
		case kept < k.Count, k.For > 0 && b.Time.Sub(old.Time) <= k.For:
			kept++
		default:
			out = append(out, old)
		}
	}
	return out, strange
}

// cause gives the reason why a context ended rather than what came of that.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	return err
}

func (m *Maker) reader(r io.Reader) *reader {
	return &reader{from: r, sum: sha256.New(), progress: m.Progress}
}

// reader sums up what is read.
type reader struct {
	from     io.Reader
	sum      hash.Hash
	n        int64
	progress func()
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.sum.Write(b[:n])
	if r.n += int64(n); n > 0 && r.progress != nil {
		r.progress()
	}
	return n, err
}
