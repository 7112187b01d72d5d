package mvcc

import "slices"

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

// keptAt tells whether a compaction at rev keeps v, the newest version at
// that revision: unless it is an older tombstone. (One at the very revision is kept for
// the sake of watchers that start there, as in etcd.)
func (v *Version) keptAt(rev int64) bool { return !v.Tombstone() || v.Main == rev }

func (r *record) prunable(rev int64) bool {
	v, older := &r.Version, r.older
	for v.Main > rev {
		if older == nil {
			return false
		}
		v, older = &older.Version, older.prev
	}
	return older != nil || !v.keptAt(rev)
}

// Prune takes out of the index what a compaction at rev, which must not be above the compact
// revision, frees of these keys, and gives the positions of the entries that
// are not needed any more, in no order and possibly repeated.
func (b *Builder) Prune(keys []string, rev int64) (freed []int64) {
	for _, key := range keys {
		rec, ok := b.ix.keys.get(key)
		if !ok || !rec.prunable(rev) {
			continue
		}
		kept := []Version{}
		v, older := &rec.Version, rec.older
		for v.Main > rev {
			kept = append(kept, *v)
			v, older = &older.Version, older.prev
		}
		if v.keptAt(rev) {
			kept = append(kept, *v)
		} else {
			freed = append(freed, v.Position)
		}
		for ; older != nil; older = older.prev {
			freed = append(freed, older.Position)
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

// TakeGarbage gives, and forgets, the positions of superseded entries that
// are not key-value, and trims what is remembered of revisions long compacted.
func (b *Builder) TakeGarbage() []int64 {
	g := b.ix.garbage
	b.ix.garbage = nil
	n := 0
	for n+1 < len(b.ix.marks) && b.ix.marks[n+1].rev <= b.ix.Compact {
		n++
	}
	b.ix.marks = slices.Clone(b.ix.marks[n:])
	return g
}

// Garbage is the number of superseded entries that are not key-value.
func (ix *Index) Garbage() int { return len(ix.garbage) }
