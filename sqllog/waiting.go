package sqllog

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// waitingBytes bounds the memory for what waits to be scrubbed, or is about to be: that is some six million entries.
const waitingBytes = 32 << 20

// blockEntries is how many entries stand in one block, about.
const blockEntries = 64 << 10

// waiting are freed entries that are not due. Of each it has some bytes. The zero waiting is empty.
type waiting struct {
	blocks []block // by first
	bytes  int
	known  Kept // what is in the blocks
	// forgotten is the lowest By of what was forgotten, and what has one as high is not known; 0 if nothing was. lost is how much that is.
	forgotten int64
	lost      Kept
}

// block has entries by By and position, as differences.
type block struct {
	first, last int64 // By
	kept        Kept
	data        []byte
}

// add takes entries in, which it changes. One that is named more than once, for each of the keys that it deletes, is one entry.
func (w *waiting) add(freed []mvcc.Freed, most int) {
	slices.SortFunc(freed, func(a, b mvcc.Freed) int {
		return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Position, b.Position))
	})
	freed = merge(freed)
	for part := range slices.Chunk(freed, blockEntries) {
		if w.forgotten != 0 {
			n, _ := slices.BinarySearchFunc(part, w.forgotten, func(f mvcc.Freed, by int64) int { return cmp.Compare(f.By, by) })
			for _, f := range part[n:] {
				w.lost.count(f)
			}
			part = part[:n]
		}
		if len(part) == 0 {
			continue
		}
		b := block{first: part[0].By, last: part[len(part)-1].By}
		by := b.first
		for _, f := range part {
			b.data = binary.AppendUvarint(b.data, uint64(f.By-by))
			b.data = binary.AppendUvarint(b.data, uint64(f.By-f.Position))
			b.data = binary.AppendUvarint(b.data, uint64(f.Size))
			b.kept.count(f)
			by = f.By
		}
		b.data = slices.Clip(b.data)
		w.insert(b)
	}
	w.shrink(most)
}

// merge makes one of equal entries that follow each other, with the sizes of all.
func merge(freed []mvcc.Freed) []mvcc.Freed {
	out := freed[:0]
	for _, f := range freed {
		if n := len(out); n > 0 && out[n-1].Position == f.Position && out[n-1].By == f.By {
			out[n-1].Size += f.Size
			continue
		}
		out = append(out, f)
	}
	return out
}

func (w *waiting) insert(b block) {
	at, _ := slices.BinarySearchFunc(w.blocks, b.first, func(b block, by int64) int { return cmp.Compare(b.first, by) })
	w.blocks = slices.Insert(w.blocks, at, b)
	w.bytes += len(b.data)
	w.known.add(b.kept)
}

// shrink forgets what was superseded last, until there is room. Whatever else is as new goes, too: what is left is all that there is up to some By.
func (w *waiting) shrink(most int) {
	for w.bytes > most && len(w.blocks) > 0 {
		w.forgotten = w.blocks[len(w.blocks)-1].first
		for _, b := range w.empty() {
			if b.last < w.forgotten {
				w.insert(b)
			} else if b.first < w.forgotten {
				w.add(b.entries(), math.MaxInt)
			} else {
				w.lost.add(b.kept)
			}
		}
	}
}

// empty takes all blocks out.
func (w *waiting) empty() []block {
	all := w.blocks
	w.blocks, w.bytes, w.known = nil, 0, Kept{}
	return all
}

func (b *block) entries() []mvcc.Freed {
	out, by, data := make([]mvcc.Freed, 0, b.kept.Entries), b.first, b.data
	for range b.kept.Entries {
		d, n := binary.Uvarint(data)
		back, m := binary.Uvarint(data[n:])
		size, k := binary.Uvarint(data[n+m:])
		data = data[n+m+k:]
		by += int64(d)
		out = append(out, mvcc.Freed{Position: by - int64(back), By: by, Size: int64(size)})
	}
	return out
}

// take gives, and forgets, the positions of what was superseded up to a bound.
func (w *waiting) take(bound int64) (positions []int64) {
	for _, b := range w.empty() {
		switch {
		case b.first > bound:
			w.insert(b)
		case b.last <= bound:
			positions = append(positions, mvcc.Positions(b.entries())...)
		default:
			freed := b.entries()
			n, _ := slices.BinarySearchFunc(freed, bound+1, func(f mvcc.Freed, by int64) int { return cmp.Compare(f.By, by) })
			positions = append(positions, mvcc.Positions(freed[:n])...)
			w.add(freed[n:], math.MaxInt)
		}
	}
	return positions
}

// due tells whether something waits that was superseded up to a bound.
func (w *waiting) due(bound int64) bool { return len(w.blocks) > 0 && w.blocks[0].first <= bound }

// lacks tells whether something was forgotten that was superseded up to a bound.
func (w *waiting) lacks(bound int64) bool { return w.forgotten != 0 && w.forgotten <= bound }

// all is what waits, also what was forgotten.
func (w *waiting) all() Kept {
	k := w.known
	k.add(w.lost)
	return k
}

// quarter is the bound that about the oldest quarter lies at or below, of all that waits; 0 if nothing does. If less than that is known it is the
// lowest By of what was forgotten: so a survey finds more (T5).
func (w *waiting) quarter() int64 {
	left := w.all().weight() / 4
	for i := range w.blocks {
		b := &w.blocks[i]
		if n := b.kept.weight(); left >= n {
			left -= n
			continue
		}
		for _, f := range b.entries() {
			if left -= f.Size + entryWeight; left < 0 {
				return f.By
			}
		}
	}
	return w.forgotten
}
