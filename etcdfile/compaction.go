package etcdfile

// compaction finds what etcd's keeps of the rows up to a revision, as etcd 3.5.16 and later do it: of each key the last
// one, unless that is a tombstone of before the revision. A tombstone at the revision is kept, and what follows it there is not. A
// tombstone of what is deleted already is freed, since etcd's index does not take it in.
//
// It has an entry for each key.
type compaction struct {
	at   int64
	keys map[string]candidate
}

// candidate is the last row of a key so far.
type candidate struct {
	Revision
	deleted bool
}

func newCompaction(at int64) *compaction {
	return &compaction{at, map[string]candidate{}}
}

// add takes in the next row, in ascending order. The key stays the caller's.
func (c *compaction) add(row Row, key []byte) {
	if row.Main > c.at {
		return
	}
	last, known := c.keys[string(key)]
	if known && last.deleted && (row.Tombstone || last.Main == c.at) {
		return
	}
	c.keys[string(key)] = candidate{row.Revision, row.Tombstone}
}

// kept gives the revisions, not above the compaction's, whose rows stay.
func (c *compaction) kept() map[Revision]struct{} {
	kept := map[Revision]struct{}{}
	for _, last := range c.keys {
		if !last.deleted || last.Main == c.at {
			kept[last.Revision] = struct{}{}
		}
	}
	return kept
}
