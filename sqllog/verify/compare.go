package verify

import (
	"maps"
	"slices"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// compare holds the index that a server loads to what the walk found (I6, I8).
func (w *walk) compare() {
	if rev := max(w.main, w.compact, 1); w.index.Rev != rev {
		w.find("I6", 0, "the index is at revision %d, and the log at %d", w.index.Rev, rev)
	}
	if compact := w.compact; w.index.Compact != compact && compact > 0 {
		w.find("I6", 0, "the index is compacted at revision %d, and the log at %d", w.index.Compact, compact)
	}
	// Keys in order, so that two walks of a log say the same.
	for _, key := range slices.Sorted(maps.Keys(w.keys)) {
		v := w.keys[key]
		got := w.index.Get(key, w.index.Rev)
		switch {
		case got == nil:
			w.find("I6", v.Position, "key %q is not in the index", key)
		case *got != v:
			w.find("I6", v.Position, "key %q is in the index at position %d, revision %d", key, got.Position, got.Main)
		}
		if v.Lease != 0 && w.index.Lease(v.Lease) == nil {
			w.find("I8", v.Position, "key %q is attached to lease %x, which does not exist", key, v.Lease)
		}
	}
	if n := w.index.Count(mvcc.Everything, w.index.Rev); n != w.index.Keys() {
		w.find("I6", 0, "the index counts %d keys and has %d", n, w.index.Keys())
	}
	for key, v := range w.index.Scan(mvcc.Everything, w.index.Rev) {
		if _, lives := w.keys[key]; !lives {
			w.find("I6", v.Position, "key %q is in the index and does not live", key)
		}
	}
	w.compareLeases()
	w.compareAuth()
	w.compareMembers()
}

// compareLeases checks both ways that leases and keys agree (I8).
func (w *walk) compareLeases() {
	attached := map[int64]int{}
	for _, v := range w.keys {
		if v.Lease != 0 {
			attached[v.Lease]++
		}
	}
	for l := range w.index.Leases() {
		if l.KeyCount() != attached[l.ID] {
			w.find("I8", 0, "lease %x holds %d keys, and %d are attached to it", l.ID, l.KeyCount(), attached[l.ID])
		}
		for key := range l.Keys() {
			if w.keys[key].Lease != l.ID {
				w.find("I8", w.keys[key].Position, "lease %x holds key %q, which is not attached to it", l.ID, key)
			}
		}
	}
}
