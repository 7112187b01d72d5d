package raft

import (
	"bytes"
	"sort"
	"sync"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/internal/wake"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// applied is a batch that the state machine has taken in.
type applied struct {
	after drivers.End
	batch *drivers.Batch
	// entry says of which entry of Raft's log it came, and chain is the hash of everything up to it.
	entry entryID
	chain uint64
	bytes int
	// foreign is set if no append of this process waits for it.
	foreign bool
}

func (a *applied) end() drivers.End {
	return drivers.End{Position: a.after.Position + int64(len(a.batch.Entries)), Batch: a.batch.ID}
}

// entryID tells an entry of Raft's log.
type entryID struct{ index, term uint64 }

// keptBytes is how much of what is in the file already a tail keeps, for those who follow.
const keptBytes = 1 << 20

// tail is the end of the log in memory: everything that is committed and not yet in the file, and some of what is. Batches are added by the
// state machine at the end and leave at the front, when they are in the file.
type tail struct {
	mu sync.RWMutex
	// batches follow on each other without gaps; the last ends at end. Those before flushed are in the file.
	batches []*applied
	flushed int
	bytes   int // of all batches
	waiting int // bytes of those not in the file
	end     drivers.End
	chain   uint64
	// foreign is the end of the last batch that was foreign.
	foreign drivers.End

	moved wake.Signal // something was added
	other wake.Signal // something foreign was added, or the whole tail replaced
	room  wake.Signal // something went to the file
}

func newTail(end drivers.End, chain uint64) *tail {
	t := &tail{end: end, chain: chain, foreign: end}
	return t
}

// add takes in a batch that comes after the end.
func (t *tail) add(a *applied) {
	for i := range a.batch.Entries {
		a.bytes += len(a.batch.Entries[i].Meta) + len(a.batch.Entries[i].Value) + entryOverhead
	}
	t.mu.Lock()
	t.batches = append(t.batches, a)
	t.bytes += a.bytes
	t.waiting += a.bytes
	t.end, t.chain = a.end(), a.chain
	if a.foreign {
		t.foreign = t.end
	}
	t.mu.Unlock()
	t.moved.All()
	if a.foreign {
		t.other.All()
	}
}

// entryOverhead is about what an entry takes beside its bytes.
const entryOverhead = 72

// reset empties the tail and has it end elsewhere, after the file was replaced.
func (t *tail) reset(end drivers.End, chain uint64) {
	t.mu.Lock()
	t.batches, t.flushed, t.bytes, t.waiting = nil, 0, 0, 0
	t.end, t.chain, t.foreign = end, chain, end
	t.mu.Unlock()
	t.moved.All()
	t.other.All()
	t.room.All()
}

func (t *tail) ends() (drivers.End, uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.end, t.chain
}

// unflushed gives batches that are not in the file, as many as a transaction should carry, and how many bytes wait.
func (t *tail) unflushed(most int) (batches []*applied, waiting int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	size, n := 0, t.flushed
	for n < len(t.batches) && (size == 0 || size+t.batches[n].bytes <= most) {
		size += t.batches[n].bytes
		n++
	}
	return t.batches[t.flushed:n:n], t.waiting
}

// flushedTo takes note that the first n batches of unflushed are in the file, and lets old ones go.
func (t *tail) flushedTo(n int) {
	t.mu.Lock()
	for _, a := range t.batches[t.flushed : t.flushed+n] {
		t.waiting -= a.bytes
	}
	t.flushed += n
	drop := 0
	for drop < t.flushed && t.bytes > keptBytes+t.waiting {
		t.bytes -= t.batches[drop].bytes
		drop++
	}
	if drop > 0 {
		t.batches = append([]*applied(nil), t.batches[drop:]...)
		t.flushed -= drop
	}
	t.mu.Unlock()
	t.room.All()
}

// pending tells how many bytes are not in the file.
func (t *tail) pending() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.waiting
}

// since gives the batches that come after an end, and whether the tail goes back that far. If it does and the batch before is another one, the
// log has another history.
func (t *tail) since(after drivers.End) (batches []*applied, ok bool, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if after == t.end {
		return nil, true, nil
	}
	i := sort.Search(len(t.batches), func(i int) bool { return t.batches[i].after.Position >= after.Position })
	switch {
	case after.Position >= t.end.Position:
		return nil, true, drivers.ErrDiverged
	case i == 0 && (len(t.batches) == 0 || t.batches[0].after.Position > after.Position):
		return nil, false, nil
	case i == len(t.batches) || t.batches[i].after != after:
		return nil, true, drivers.ErrDiverged
	}
	return t.batches[i:len(t.batches):len(t.batches)], true, nil
}

// movedByOthers tells whether something foreign has come after an end.
func (t *tail) movedByOthers(than drivers.End) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.foreign.Position > than.Position || t.end.Position < than.Position
}

// beyondFile gives the batches that are not in the file.
func (t *tail) beyondFile() []*applied {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.batches[t.flushed:len(t.batches):len(t.batches)]
}

// entry gives the entry at a position, if the tail has it.
func (t *tail) entry(position int64) (*drivers.Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := sort.Search(len(t.batches), func(i int) bool { return t.batches[i].end().Position >= position })
	if i == len(t.batches) || position <= t.batches[i].after.Position {
		return nil, false
	}
	a := t.batches[i]
	return &a.batch.Entries[position-a.after.Position-1], true
}

// cut forgets what is in the file already, so that nothing of it is given that was scrubbed there.
func (t *tail) cut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.batches[:t.flushed] {
		t.bytes -= a.bytes
	}
	t.batches = append([]*applied(nil), t.batches[t.flushed:]...)
	t.flushed = 0
}

// cloned gives entries whose bytes are the caller's. Metas, which are read and forgotten, are in one piece; each value is one of its own: who keeps one
// keeps no more than that.
func cloned(entries []drivers.Entry, values bool) []drivers.Entry {
	size := 0
	for i := range entries {
		size += len(entries[i].Meta)
	}
	metas := make([]byte, 0, size)
	out := make([]drivers.Entry, len(entries))
	for i := range entries {
		e := &entries[i]
		at := len(metas)
		metas = append(metas, e.Meta...)
		out[i] = drivers.Entry{Position: e.Position, Kind: e.Kind, Meta: metas[at:len(metas):len(metas)]}
		if values {
			out[i].Value = bytes.Clone(e.Value)
		}
	}
	return out
}

// marked gives batches as the file takes them.
func marked(batches []*applied) []sqlite.Marked {
	out := make([]sqlite.Marked, len(batches))
	for i, a := range batches {
		out[i] = sqlite.Marked{Batch: a.batch, Mark: encodeMark(a.entry, a.chain)}
	}
	return out
}
