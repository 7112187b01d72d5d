package memory

import (
	"bytes"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// Store holds a log. Its methods may be called from any number of goroutines.
type Store struct {
	mu sync.Mutex
	// records holds position p at index p-1, scrubbed ones as nil; the last
	// one is never nil (rule D5).
	records  []*record
	scrubbed int64
	// scrubs are those done so far, for Unscrub.
	scrubs []scrub
	epoch  uint64
	// moved is closed and replaced whenever the log grows or is scrubbed.
	moved chan struct{}
	// turns is held (by having sent into it) by the log that may append: for an append, or longer. Taken before mu.
	turns   chan struct{}
	servers []present
}

type record struct {
	kind        uint8
	meta, value []byte
	// last is set on the last entry of each batch.
	last *closing
}

// scrub is what one scrub has changed.
type scrub struct {
	gone     map[int64]*record
	scrubbed int64 // the mark before
	end      drivers.End
}

type closing struct {
	id     drivers.BatchID
	time   time.Time
	server uint64
	first  int64
}

// NewStore makes an empty log.
func NewStore() *Store {
	return &Store{moved: make(chan struct{}), turns: make(chan struct{}, 1)}
}

// Open makes a connection to the store.
func (s *Store) Open() *Log {
	return &Log{store: s, closed: make(chan struct{})}
}

// AppendForeign appends a batch wherever the log ends, as another server
// would at that moment, and gives the new end.
func (s *Store) AppendForeign(batch *drivers.Batch) (drivers.End, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.appendLocked(s.endLocked(), batch); err != nil {
		return drivers.End{}, err
	}
	return s.endLocked(), nil
}

// Bounds gives the extent of the log.
func (s *Store) Bounds() drivers.Bounds {
	s.mu.Lock()
	defer s.mu.Unlock()
	return drivers.Bounds{End: s.endLocked(), Scrubbed: s.scrubbed}
}

// Rewind cuts the log back to a position that closes a batch, as the promotion of a standby does
// that had not got its primary's last commits.
func (s *Store) Rewind(position int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if position > int64(len(s.records)) || position < s.scrubbed {
		return fmt.Errorf("rewind to %d: the log ends at %d and is scrubbed up to %d", position, len(s.records), s.scrubbed)
	}
	if position > 0 && (s.records[position-1] == nil || s.records[position-1].last == nil) {
		return fmt.Errorf("rewind to %d: no batch ends there", position)
	}
	s.records = s.records[:position:position]
	s.epoch++
	s.wakeLocked()
	return nil
}

// Scrubs gives the number of scrubs since the last append: those that can be lost while that is not.
func (s *Store) Scrubs() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(s.scrubs) && s.scrubs[len(s.scrubs)-1-n].end == s.endLocked() {
		n++
	}
	return n
}

// Unscrub undoes the last n scrubs, or all if there are fewer, as the promotion of a standby does that had not got them.
func (s *Store) Unscrub(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && len(s.scrubs) > 0; n-- {
		last := s.scrubs[len(s.scrubs)-1]
		for p, r := range last.gone {
			s.records[p-1] = r
		}
		s.scrubbed = last.scrubbed
		s.scrubs = s.scrubs[:len(s.scrubs)-1]
	}
	s.epoch++
	s.wakeLocked()
}

func (s *Store) endLocked() drivers.End {
	n := len(s.records)
	if n == 0 {
		return drivers.End{}
	}
	return drivers.End{Position: int64(n), Batch: s.records[n-1].last.id}
}

func (s *Store) appendLocked(after drivers.End, batch *drivers.Batch) error {
	if len(batch.Entries) == 0 {
		return fmt.Errorf("append: the batch is empty")
	}
	for i := range batch.Entries {
		if len(batch.Entries[i].Meta) == 0 {
			return fmt.Errorf("append: entry %d of the batch has no meta", i)
		}
	}
	if end := s.endLocked(); end != after {
		return fmt.Errorf("append after %d: %w: it is %d", after.Position, drivers.ErrConflict, end.Position)
	}
	for i := range batch.Entries {
		e := &batch.Entries[i]
		s.records = append(s.records, &record{kind: e.Kind, meta: bytes.Clone(e.Meta), value: clone(e.Value)})
	}
	s.records[len(s.records)-1].last = &closing{
		id:     batch.ID,
		time:   batch.Time.Truncate(time.Millisecond),
		server: batch.Server,
		first:  after.Position + 1,
	}
	s.wakeLocked()
	return nil
}

func (s *Store) wakeLocked() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// checkLocked says whether a follower can go on after the end.
func (s *Store) checkLocked(after drivers.End) error {
	switch {
	case after.Position < s.scrubbed:
		return fmt.Errorf("follow after %d: %w up to %d", after.Position, drivers.ErrScrubbed, s.scrubbed)
	case after == drivers.End{}:
		return nil
	case after.Position < 1 || after.Position > int64(len(s.records)):
		return fmt.Errorf("follow after %d: %w: it ends at %d", after.Position, drivers.ErrDiverged, len(s.records))
	}
	r := s.records[after.Position-1]
	switch {
	case r == nil:
		// The mark is exactly here: nothing can be compared any more.
		return fmt.Errorf("follow after %d: %w up to it", after.Position, drivers.ErrScrubbed)
	case r.last == nil || r.last.id != after.Batch:
		return fmt.Errorf("follow after %d: %w", after.Position, drivers.ErrDiverged)
	}
	return nil
}

// batchLocked gives the batch that begins after the position, nil if there is none yet.
func (s *Store) batchLocked(after int64) *drivers.Batch {
	if after == int64(len(s.records)) {
		return nil
	}
	var entries []drivers.Entry
	for p := after + 1; ; p++ {
		r := s.records[p-1]
		entries = append(entries, r.entry(p, true))
		if r.last != nil {
			return &drivers.Batch{ID: r.last.id, Time: r.last.time, Server: r.last.server, Entries: entries}
		}
	}
}

// slice collects up to limit entries in (after, upTo] and says where to go on.
func (s *Store) slice(after int64, opts drivers.ScanOptions, limit int) ([]drivers.Entry, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []drivers.Entry
	p := after
	for p < min(opts.UpTo, int64(len(s.records))) && len(entries) < limit {
		p++
		if r := s.records[p-1]; r != nil {
			e := r.entry(p, opts.Values)
			if opts.Times && r.last != nil {
				e.Written = r.last.time.UnixMilli()
			}
			entries = append(entries, e)
		}
	}
	return entries, p
}

func (s *Store) scrubLocked(positions []int64) error {
	if !sort.SliceIsSorted(positions, func(i, j int) bool { return positions[i] < positions[j] }) {
		return fmt.Errorf("scrub: the positions do not ascend")
	}
	if len(positions) == 0 {
		return nil
	}
	if positions[0] < 1 {
		return fmt.Errorf("scrub: there is no position %d", positions[0])
	}
	highest := positions[len(positions)-1]
	if highest >= int64(len(s.records)) {
		return fmt.Errorf("scrub: position %d is not below the log's last, %d", highest, len(s.records))
	}
	done := scrub{map[int64]*record{}, s.scrubbed, s.endLocked()}
	for _, p := range positions {
		if r := s.records[p-1]; r != nil {
			done.gone[p], s.records[p-1] = r, nil
		}
	}
	s.scrubs = append(s.scrubs, done)
	s.scrubbed = max(s.scrubbed, highest)
	s.wakeLocked()
	return nil
}

func (r *record) entry(position int64, withValue bool) drivers.Entry {
	e := drivers.Entry{Position: position, Kind: r.kind, Meta: bytes.Clone(r.meta)}
	if withValue {
		e.Value = clone(r.value)
	}
	return e
}

// clone copies b and gives an empty slice, not nil, for nothing.
func clone(b []byte) []byte {
	return append(make([]byte, 0, len(b)), b...)
}
