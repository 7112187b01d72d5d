package sqllog

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// waitingBytes bounds the memory for what waits to be scrubbed: that is some six million entries.
const waitingBytes = 32 << 20

// blockEntries is how many entries stand in one block, about.
const blockEntries = 64 << 10

// waiting are freed entries that are not due. Of each it has some bytes. The zero waiting is empty.
type waiting struct {
	blocks []block // by first
	bytes  int
	size   int64 // of the entries
	// forgotten is the lowest By of what was forgotten, and what has one as high is not known; 0 if nothing was.
	forgotten int64
}

// block has entries by By and position, as differences.
type block struct {
	first, last int64 // By
	n           int
	size        int64
	data        []byte
}

// add takes entries in, which it reorders.
func (w *waiting) add(freed []mvcc.Freed, most int) {
	slices.SortFunc(freed, func(a, b mvcc.Freed) int {
		return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Position, b.Position))
	})
	freed = slices.Compact(freed)
	for part := range slices.Chunk(freed, blockEntries) {
		if w.forgotten != 0 {
			n, _ := slices.BinarySearchFunc(part, w.forgotten, func(f mvcc.Freed, by int64) int { return cmp.Compare(f.By, by) })
			part = part[:n]
		}
		if len(part) == 0 {
			break
		}
		b := block{first: part[0].By, last: part[len(part)-1].By, n: len(part)}
		by := b.first
		for _, f := range part {
			b.data = binary.AppendUvarint(b.data, uint64(f.By-by))
			b.data = binary.AppendUvarint(b.data, uint64(f.By-f.Position))
			b.data = binary.AppendUvarint(b.data, uint64(f.Size))
			b.size += f.Size
			by = f.By
		}
		b.data = slices.Clip(b.data)
		w.insert(b)
	}
	w.shrink(most)
}

func (w *waiting) insert(b block) {
	at, _ := slices.BinarySearchFunc(w.blocks, b.first, func(b block, by int64) int { return cmp.Compare(b.first, by) })
	w.blocks = slices.Insert(w.blocks, at, b)
	w.bytes += len(b.data)
	w.size += b.size
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
			}
		}
	}
}

// empty takes all blocks out.
func (w *waiting) empty() []block {
	all := w.blocks
	w.blocks, w.bytes, w.size = nil, 0, 0
	return all
}

func (b *block) entries() []mvcc.Freed {
	out, by, data := make([]mvcc.Freed, 0, b.n), b.first, b.data
	for range b.n {
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

// first is the lowest By of all, or the highest number.
func (w *waiting) first() int64 {
	if len(w.blocks) == 0 {
		return math.MaxInt64
	}
	return w.blocks[0].first
}

// lacks tells whether something was forgotten that was superseded up to a bound.
func (w *waiting) lacks(bound int64) bool { return w.forgotten != 0 && w.forgotten <= bound }

func (w *waiting) len() (n int) {
	for i := range w.blocks {
		n += w.blocks[i].n
	}
	return n
}

// quarter is the bound that about the oldest quarter lies at or below; 0 if nothing waits.
func (w *waiting) quarter() int64 {
	left := w.len() / 4
	for i := range w.blocks {
		if b := &w.blocks[i]; left < b.n {
			return b.entries()[left].By
		}
		left -= w.blocks[i].n
	}
	return 0
}
