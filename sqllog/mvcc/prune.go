package mvcc

import (
	"slices"

	"github.com/keelson-io/keelson/drivers"
)

// Prunable lists keys from key on that have versions which a compaction at rev
// frees, looking at no more than about limit keys. next is where to go on, "" at the end.
func (ix *Index) Prunable(from string, rev int64, limit int) (keys []string, next string) {
	seen := 0
	for k, rec := range ix.keys.all(Range{Start: from}) {
		if seen == limit {
			return keys, k
		}
		seen++
		if rec.prunable(rev) {
			keys = append(keys, k)
		}
	}
	return keys, ""
}

// keep gives the number of versions, newest first, that a compaction at rev keeps: those after rev,
// those at rev itself (a watcher may start there, so tombstones too, as in
// etcd), and if there is none at rev the newest one before it, unless that is a tombstone.
func (r *record) keep(rev int64) (n int) {
	v, older := &r.Version, r.older
	for v.Main >= rev {
		n++
		if v.Main == rev && (older == nil || older.Main < rev) || older == nil {
			return n
		}
		v, older = &older.Version, older.prev
	}
	if !v.Tombstone() {
		n++
	}
	return n
}

// versions is the number of versions known of the key.
func (r *record) versions() int {
	if r.older == nil {
		return 1
	}
	return int(r.older.depth) + 2
}

func (r *record) prunable(rev int64) bool {
	if r.older == nil && !r.Tombstone() {
		return false
	}
	return r.keep(rev) < r.versions()
}

// Freed is an entry that is not needed any more.
type Freed struct {
	// Position is where it stands in the log, By the position of the entry that superseded it. Of a tombstone, which is superseded by
	// nothing, both are the same. Of the versions of a key an older one has no higher By than a newer one.
	Position, By int64
	// Size is that of the key and the value of a version, 0 of what is not key-value.
	Size int64
}

// Positions gives those of freed entries, in the same order.
func Positions(freed []Freed) []int64 {
	out := make([]int64, len(freed))
	for i, f := range freed {
		out[i] = f.Position
	}
	return out
}

// Prune takes out of the index what a compaction at rev, which must not be above the compact
// revision, frees of these keys, and gives the entries that
// are not needed any more, in no order and possibly repeated.
func (b *Builder) Prune(keys []string, rev int64) (freed []Freed) {
	for _, key := range keys {
		rec, ok := b.ix.keys.get(key)
		if !ok || !rec.prunable(rev) {
			continue
		}
		kept, n := []Version{}, rec.keep(rev)
		older, by := rec.older, int64(0)
		for v := &rec.Version; v != nil; {
			if len(kept) < n {
				kept = append(kept, *v)
			} else {
				if by == 0 || v.Tombstone() {
					by = v.Position
				}
				freed = append(freed, Freed{v.Position, by, int64(len(key)) + int64(v.Size)})
			}
			by = v.Position
			if v = nil; older != nil {
				v, older = &older.Version, older.prev
			}
		}
		if len(kept) == 0 {
			b.ix.keys = b.ix.keys.del(b.own, key)
			continue
		}
		b.ix.keys = b.ix.keys.set(b.own, key, chain(kept))
	}
	return freed
}

// chain makes a record of versions, newest first.
func chain(versions []Version) *record {
	var older *past
	for _, v := range slices.Backward(versions[1:]) {
		older = push(v, older)
	}
	return &record{Version: versions[0], older: older}
}

// TakeGarbage gives, and forgets, the superseded entries that
// are not key-value, and trims what is remembered of revisions long compacted.
func (b *Builder) TakeGarbage() []Freed {
	g := b.garbage
	for h := b.ix.garbage; h != nil; h = h.below {
		g = append(g, h.freed...)
	}
	b.ix.garbage, b.garbage = nil, nil
	n := 0
	for n+1 < len(b.ix.marks) && b.ix.marks[n+1].rev <= b.ix.Compact {
		n++
	}
	b.ix.marks = slices.Clone(b.ix.marks[n:])
	return g
}

// walked is how many keys are looked at before those are pruned that are to be.
const walked = 20_000

// TakeSuperseded gives all entries that are not needed, in no order and possibly repeated, and takes them out of what was built, up to a position. So a log that has much
// more of them than fits into memory can be loaded: a superseded entry is needed for nothing that comes after it.
func (b *Builder) TakeSuperseded(position int64) (freed []Freed) {
	ix := b.Index(drivers.End{Position: position})
	for from, more := "", ix.Compact > 0; more; {
		keys, next := ix.Prunable(from, ix.Compact, walked)
		freed = append(freed, b.Prune(keys, ix.Compact)...)
		from, more = next, next != ""
	}
	return append(freed, b.TakeGarbage()...)
}

// Versions counts the versions of keys, and the bytes of their keys and values. It walks the whole index.
func (ix *Index) Versions() (n, bytes int64) {
	for key, rec := range ix.keys.all(Everything) {
		v, older := &rec.Version, rec.older
		for {
			n, bytes = n+1, bytes+int64(len(key))+int64(v.Size)
			if older == nil {
				break
			}
			v, older = &older.Version, older.prev
		}
	}
	return n, bytes
}

// Garbage is the number of superseded entries that are not key-value.
func (ix *Index) Garbage() int { return ix.garbage.size() }
