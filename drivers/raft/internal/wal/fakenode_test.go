package wal

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// node is a file or a directory.
type node struct {
	entries, durable map[string]*node
	pending          []dirOp

	data, disk []byte
	sizes      []int64 // the file had since the last sync
	dirty      map[int64]*dirtySector
}

type dirtySector struct {
	versions [][]byte
	lost     bool // a sync failed: what was written counts as clean
}

type dirOp struct {
	from, to string // from "": made; to "": removed
	n        *node
}

func newDir() *node { return &node{entries: map[string]*node{}, durable: map[string]*node{}} }

// afterPowerLoss is a disk as it may be found when the power is back.
func (d *disk) afterPowerLoss() *disk {
	out := &disk{r: d.r, kinds: d.kinds}
	out.root = d.image(d.root, d.r.IntN(3)*50)
	return out
}

// image is what is left of a node. Each thing that waits is there with a chance in percent.
func (d *disk) image(n *node, chance int) *node {
	keep := func() bool { return d.r.IntN(100) < chance }
	if n.entries == nil {
		out := n.fileImage(keep, d.r)
		return &node{data: out, disk: slices.Clone(out), dirty: map[int64]*dirtySector{}}
	}
	left := maps.Clone(n.durable)
	for _, op := range n.pending {
		if !keep() || op.from != "" && left[op.from] != op.n || left[op.to] != nil && len(left[op.to].entries) > 0 {
			continue
		}
		delete(left, op.from)
		if op.to != "" {
			left[op.to] = op.n
		}
	}
	out := newDir()
	for _, name := range slices.Sorted(maps.Keys(left)) {
		out.entries[name] = d.image(left[name], chance)
	}
	out.durable = maps.Clone(out.entries)
	return out
}

func (n *node) fileImage(keep func() bool, r *rand.Rand) []byte {
	size := int64(len(n.disk))
	if len(n.sizes) > 0 && keep() {
		size = n.sizes[r.IntN(len(n.sizes))]
		if r.IntN(2) == 0 {
			size = n.sizes[len(n.sizes)-1]
		}
	}
	out := resized(slices.Clone(n.disk), size)
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		if v := n.dirty[s].versions; s*sector < size && keep() {
			i := len(v) - 1
			if r.IntN(4) == 0 {
				i = r.IntN(len(v))
			}
			copy(out[s*sector:], v[i])
		}
	}
	return out
}

func resized(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// content is a sector as it reads.
func (n *node) content(s int64) []byte {
	out := make([]byte, sector)
	copy(out, n.data[min(s*sector, int64(len(n.data))):])
	return out
}

func (n *node) touch(from, to int64) {
	for s := from / sector; s*sector < to; s++ {
		if n.dirty[s] == nil {
			n.dirty[s] = &dirtySector{}
		}
		n.dirty[s].lost = false
		n.dirty[s].versions = append(n.dirty[s].versions, n.content(s))
	}
}

func (n *node) truncate(size int64) {
	old := int64(len(n.data))
	n.data = resized(n.data, size)
	n.sizes = append(n.sizes, size)
	if size < old {
		n.touch(size, old)
	}
}

func (n *node) sync(d *disk, what string) error {
	err, _ := d.step(what)
	if err != nil {
		n.giveUp(d)
		return err
	}
	size := int64(len(n.data))
	n.disk, n.sizes = resized(n.disk, size), nil
	for s, v := range n.dirty {
		if s*sector >= size {
			delete(n.dirty, s)
		} else if !v.lost {
			copy(n.disk[s*sector:], n.content(s))
			delete(n.dirty, s)
		}
	}
	return nil
}

// giveUp is a sync that failed: what was to be written counts as clean, is on disk or not, and may read as it is there.
func (n *node) giveUp(d *disk) {
	reread := d.r.IntN(2) == 0
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		v := n.dirty[s]
		v.lost = true
		if reread && d.r.IntN(2) == 0 {
			old := make([]byte, sector)
			copy(old, n.disk[min(s*sector, int64(len(n.disk))):])
			copy(n.data[min(s*sector, int64(len(n.data))):], old)
		}
	}
}
