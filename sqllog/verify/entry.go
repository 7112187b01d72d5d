package verify

import (
	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// entry examines the next entry of the log.
func (w *walk) entry(e *drivers.Entry) {
	w.sum.Entries++
	w.place(e.Position)
	r, err := mvcc.Decode(e)
	if err != nil {
		w.find("I1", e.Position, "the entry cannot be read: %v", err)
		return
	}
	for i := range r.Changes {
		w.change(e, &r.Changes[i])
	}
	switch {
	case r.Lease != nil && (r.Lease.ID == 0 || r.Lease.TTL <= 0 || r.Lease.Remaining < 0 || r.Lease.Remaining > r.Lease.TTL):
		w.find("I8", e.Position, "lease %x has a TTL of %d s, of which %d s are left", r.Lease.ID, r.Lease.TTL, r.Lease.Remaining)
	case r.User != nil:
		w.authChange(e.Position, r.User.AuthChange)
		keep(w.users, r.User, string(r.User.Name), r.User.Removed)
	case r.Role != nil:
		w.authChange(e.Position, r.Role.AuthChange)
		keep(w.roles, r.Role, string(r.Role.Name), r.Role.Removed)
	case r.Member != nil:
		w.member(e.Position, r.Member)
	case e.Kind == mvcc.KindMarker:
		w.marker(e.Position, r.Marker)
	case e.Kind == mvcc.KindCompaction:
		w.compaction(e.Position, r.Compact)
	}
}

// place checks that positions ascend without holes but for scrubbed ones (I1).
func (w *walk) place(position int64) {
	missing := max(w.position, w.bounds.Scrubbed) + 1
	switch {
	case position <= w.position:
		w.find("I1", position, "it comes after position %d", w.position)
	case position > missing:
		w.find("I1", position, "positions %d to %d are missing, and the log is scrubbed up to %d only", missing, position-1, w.bounds.Scrubbed)
	}
	w.position = max(w.position, position)
}

// compaction checks that compact revisions rise (I7). That one is ahead of the log shows in the next change.
func (w *walk) compaction(position, rev int64) {
	if rev <= w.compact {
		w.find("I7", position, "a compaction at revision %d follows one at %d", rev, w.compact)
	}
	w.compact = max(w.compact, rev)
}

// marker checks that a marker raises the revision (I2).
func (w *walk) marker(position, rev int64) {
	if before := max(w.main, w.compact, 1); rev <= before {
		w.find("I2", position, "a marker of revision %d follows revision %d", rev, before)
	}
	w.main, w.sub = max(w.main, rev), 0
}

// change examines one change of a key.
func (w *walk) change(e *drivers.Entry, c *mvcc.Event) {
	w.revision(c)
	if c.Tombstone() {
		w.tombstone(c)
		return
	}
	if len(e.Value) != int(c.Size) {
		w.find("I7", c.Position, "the value of key %q has %d bytes, and %d are recorded", c.Key, len(e.Value), c.Size)
	}
	w.generation(c)
	w.keys[c.Key] = c.Version
}

// revision checks the order of revisions and subs (I2, I3).
func (w *walk) revision(c *mvcc.Event) {
	whole := c.Main > w.index.Compact // nothing of the revision may have been scrubbed
	switch {
	case c.Main < 2:
		w.find("I2", c.Position, "the revision of a change is %d, and the first is 2", c.Main)
	case c.Main < w.main:
		w.find("I2", c.Position, "revision %d follows revision %d", c.Main, w.main)
		return
	case c.Main <= w.compact:
		w.find("I2", c.Position, "revision %d follows a compaction at revision %d", c.Main, w.compact)
	case c.Main == w.main && c.Sub <= w.sub:
		w.find("I3", c.Position, "revision %d: sub %d follows sub %d", c.Main, c.Sub, w.sub)
	case c.Main == w.main && whole && c.Sub != w.sub+1:
		w.find("I3", c.Position, "revision %d: sub %d follows sub %d", c.Main, c.Sub, w.sub)
	case c.Main > w.main:
		w.next(c, whole)
	}
	if c.Main > w.main {
		w.sum.Revisions++
	}
	w.main, w.sub = max(w.main, c.Main), c.Sub
}

// next checks the first change of a revision.
func (w *walk) next(c *mvcc.Event, whole bool) {
	// Below the compact revision any may be missing; an empty store is at revision 1.
	if before := max(w.main, w.index.Compact, 1); whole && c.Main != before+1 {
		w.find("I2", c.Position, "revision %d follows revision %d", c.Main, before)
	}
	if whole && c.Sub != 0 {
		w.find("I3", c.Position, "revision %d begins with sub %d", c.Main, c.Sub)
	}
}

// tombstone checks that what is deleted lived (I4).
func (w *walk) tombstone(c *mvcc.Event) {
	if _, lives := w.keys[c.Key]; !lives && c.Main > w.index.Compact {
		w.find("I4", c.Position, "key %q is deleted at revision %d, where it does not live", c.Key, c.Main)
	}
	delete(w.keys, c.Key)
}

// generation checks create_revision and version against the version before (I4).
func (w *walk) generation(c *mvcc.Event) {
	prev, lives := w.keys[c.Key]
	ok := c.Create >= 2 && c.Create <= c.Main && c.Count >= 1 && (c.Count == 1) == (c.Create == c.Main)
	switch {
	case !ok:
	case c.Main > w.index.Compact && lives:
		ok = c.Create == prev.Create && c.Count == prev.Count+1
	case c.Main > w.index.Compact:
		ok = c.Count == 1
	case lives && c.Create == prev.Create:
		ok = c.Count > prev.Count
	case lives:
		ok = c.Create > prev.Main // the tombstone between them was scrubbed
	}
	if ok {
		return
	}
	if lives {
		w.find("I4", c.Position, "key %q at revision %d has create_revision %d and version %d, after create_revision %d and version %d at revision %d",
			c.Key, c.Main, c.Create, c.Count, prev.Create, prev.Count, prev.Main)
		return
	}
	w.find("I4", c.Position, "key %q at revision %d has create_revision %d and version %d, and did not live before", c.Key, c.Main, c.Create, c.Count)
}
