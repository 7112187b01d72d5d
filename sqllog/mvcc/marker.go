package mvcc

import "slices"

// A marker raises the current revision, by any number, and changes no key: that is how `etcdutl snapshot restore --bump-revision` keeps what clients have
// seen below what comes. etcd keeps it as a row that has no bytes, a version of the key without a name, which nobody can read, and so it is in HashKV.

// marker is one that no compaction has freed.
type marker struct{ rev, pos int64 }

func (b *Builder) applyMarker(rev, pos int64) {
	b.ix.markers = append(slices.Clip(b.ix.markers), marker{rev, pos})
	b.reach(rev, pos)
}

// compactMarkers discards what a compaction frees: all markers up to it but the last one.
func (b *Builder) compactMarkers(rev int64) {
	if last := lastMarker(b.ix.markers, rev); last > 0 {
		for _, m := range b.ix.markers[:last] {
			b.discard(m.pos)
		}
		b.ix.markers = slices.Clone(b.ix.markers[last:])
	}
}

// lastMarker is the place of the last marker up to a revision, -1 if there is none.
func lastMarker(markers []marker, rev int64) int {
	n, _ := slices.BinarySearchFunc(markers, rev+1, func(m marker, rev int64) int { return int(m.rev - rev) })
	return n - 1
}

// keptMarker tells whether the marker at revision main is one that a compaction at rev keeps.
func (ix *Index) keptMarker(main, rev int64) bool {
	if main > rev {
		return true
	}
	last := lastMarker(ix.markers, rev)
	return last >= 0 && ix.markers[last].rev == main
}
