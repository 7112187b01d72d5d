package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/keelson-io/keelson/drivers"
)

// tailBytes bounds the entries kept in memory for followers.
const tailBytes = 8 << 20

// seen is what is known of the log's end, and the newest entries of other servers: those that came along
// with a question and that a follower, who is about to need them, need not ask for again.
type seen struct {
	mu sync.Mutex
	// end is the newest end that is known, own the end of this log's own last append.
	end, own drivers.End
	scrubbed int64
	// news counts own appends, and signals of others'. An answer to a question from before one says nothing about now, unless it has seen more.
	news uint64
	// tail are whole batches that follow each other, from tailFrom to tailEnd.
	tail              []*drivers.Batch
	tailFrom, tailEnd drivers.End
	bytes             int
	// changed is closed, and replaced, when any of this changes.
	changed chan struct{}
}

func (s *seen) init() { s.changed = make(chan struct{}) }

// snapshot gives what a question begins with.
func (s *seen) snapshot() (known drivers.End, news uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tailEnd, s.news
}

// position is that of the newest end that is known.
func (s *seen) position() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end.Position
}

// lacks tells whether the entries up to an end are neither own nor in memory.
func (s *seen) lacks(end drivers.End) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return end.Position > s.tailEnd.Position
}

// committed takes note of an own append: whoever appends has seen all before, and needs none of it again.
func (s *seen) committed(end drivers.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news++
	s.own = end
	if end.Position > s.end.Position {
		s.end = end // otherwise others' appends after it have been signalled already
	}
	s.reset(end)
	s.wakeLocked()
}

func (s *seen) ownEnd() drivers.End {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own
}

func (s *seen) reset(end drivers.End) {
	s.tail, s.bytes, s.tailFrom, s.tailEnd = nil, 0, end, end
}

func (s *seen) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// answer takes in the answer to a question, with the whole batches after q.known that came along.
func (s *seen) answer(q *question, batches []*drivers.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end, before := q.bounds.End, s.end
	current := q.news == s.news
	if !current && end.Position <= s.end.Position {
		return // older than what is known
	}
	mark := s.scrubbed
	s.scrubbed = max(s.scrubbed, q.bounds.Scrubbed)
	s.end = end
	s.feed(q.known, batches)
	if end.Position < s.tailEnd.Position || end.Position == s.tailEnd.Position && end.Batch != s.tailEnd.Batch || q.entries && !q.follows {
		s.reset(end) // the log has another history than the one that was seen: followers will find out
	}
	if s.end != before || s.scrubbed != mark {
		s.wakeLocked()
	}
}

// signal takes in an end that another server has told of.
func (s *seen) signal(end drivers.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end.Position > s.end.Position {
		s.news++
		s.end = end
		s.wakeLocked()
	}
}

// feed adds those of the batches after known that the tail lacks. Called with mu held.
func (s *seen) feed(known drivers.End, batches []*drivers.Batch) {
	at := known
	for _, b := range batches {
		next := drivers.End{Position: at.Position + int64(len(b.Entries)), Batch: b.ID}
		if at == s.tailEnd {
			s.tail = append(s.tail, b)
			s.tailEnd = next
			s.bytes += size(b)
		}
		at = next
	}
	for len(s.tail) > 1 && s.bytes > tailBytes {
		b := s.tail[0]
		s.tail[0] = nil
		s.tail = s.tail[1:]
		s.bytes -= size(b)
		s.tailFrom = drivers.End{Position: s.tailFrom.Position + int64(len(b.Entries)), Batch: b.ID}
	}
}

func size(b *drivers.Batch) (n int) {
	for i := range b.Entries {
		n += len(b.Entries[i].Meta) + len(b.Entries[i].Value) + 64
	}
	return n
}

// next gives the batch after an end if it is in memory, and otherwise what to wait for, and whether there may be
// news for who is at that end.
func (s *seen) next(after drivers.End) (b *drivers.Batch, changed <-chan struct{}, news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := slices.BinarySearchFunc(s.tail, after.Position+1, func(b *drivers.Batch, first int64) int { return cmp.Compare(b.Entries[0].Position, first) })
	if found {
		before := s.tailFrom
		if i > 0 {
			before = drivers.End{Position: after.Position, Batch: s.tail[i-1].ID}
		}
		if before == after {
			return s.tail[i], nil, false
		}
	}
	return nil, s.changed, s.end != after || s.scrubbed >= after.Position && s.scrubbed > 0
}

// moved tells whether the log is known to end elsewhere than at an end, not by an own append, or what to wait for.
func (s *seen) moved(than drivers.End) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end != than && (s.end != s.own || than.Position >= s.own.Position), s.changed
}

// collector makes batches of rows that come in order.
type collector struct {
	batches []*drivers.Batch // whole ones
	open    []drivers.Entry  // of a batch whose last row has not come yet
	last    int64            // the last row's position
}

// add takes in a row of sliceSQL.
func (c *collector) add(row [][]byte) error {
	cols := columns{row: row}
	e := drivers.Entry{Position: cols.int8()}
	kind := cols.int2()
	e.Kind = uint8(kind)
	id, closes := cols.uuid()
	written, server := cols.time(), cols.int8()
	e.Meta, e.Value = cols.bytes(), cols.bytes()
	if err := cols.err(fmt.Sprintf("position %d", e.Position)); err != nil || kind < 0 || kind > 255 {
		return fmt.Errorf("%w: the row at position %d is none of Keelson's", drivers.ErrCorrupt, e.Position)
	}
	c.last = e.Position
	c.open = append(c.open, e)
	if closes {
		c.batches = append(c.batches, &drivers.Batch{ID: id, Time: written, Server: uint64(server), Entries: c.open})
		c.open = nil
	}
	return nil
}
