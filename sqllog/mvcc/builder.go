package mvcc

import (
	"fmt"
	"slices"

	"github.com/keelson-io/keelson/drivers"
)

// Builder makes the next index out of one, by entries that come from the log
// or are about to go there: both take the same way (invariant I9), so what a writer
// publishes after its append is what a reader of the log would build.
//
// A Builder belongs to one goroutine. If what it built does not come about, it
// is dropped and leaves no trace in the index it began with.
type Builder struct {
	ix      Index
	own     *owner
	entries []drivers.Entry
	events  []*Event
	leases  []int64 // granted, checkpointed or revoked
	garbage []Freed // not in ix yet
	record  Record  // of the entry being loaded
	loading int64   // its position
	collect bool    // events too
}

// Edit begins a builder on top of the index. With collect it keeps the events it makes.
func (ix *Index) Edit(collect bool) *Builder {
	b := &Builder{ix: *ix, own: new(owner), collect: collect}
	// Appending must not reach into memory that another builder may share.
	b.ix.marks = slices.Clip(ix.marks)
	return b
}

// Index gives the index as built so far; the builder may go on.
func (b *Builder) Index(end drivers.End) *Index {
	b.ix.garbage, b.garbage = b.ix.garbage.grow(b.garbage), nil
	ix := b.ix
	ix.End = end
	b.ix.End = end
	b.own = new(owner)
	return &ix
}

// End is the end of the log with which the builder began, or that Index was given last.
func (b *Builder) End() drivers.End { return b.ix.End }

// Keys is the number of live keys as built so far.
func (b *Builder) Keys() int { return b.ix.keys.total() }

// Events gives the changes made so far, in order.
func (b *Builder) Events() []*Event { return b.events }

// Leases gives the ids of the leases that were granted, checkpointed or revoked.
func (b *Builder) Leases() []int64 { return b.leases }

// Entries gives the entries made so far, to be appended right after the
// index's end.
func (b *Builder) Entries() []drivers.Entry { return b.entries }

// next is the position that the next new entry will have.
func (b *Builder) next() int64 { return b.ix.End.Position + int64(len(b.entries)) + 1 }

func (b *Builder) emit(kind uint8, meta, value []byte) int64 {
	pos := b.next()
	b.entries = append(b.entries, drivers.Entry{Position: pos, Kind: kind, Meta: meta, Value: value})
	return pos
}

// Load takes in entries as the log gives them, without their values being needed.
func (b *Builder) Load(entries []drivers.Entry) error {
	for i := range entries {
		if err := b.load(&entries[i]); err != nil {
			return fmt.Errorf("entry at position %d: %w", entries[i].Position, err)
		}
	}
	return nil
}

func (b *Builder) load(e *drivers.Entry) error {
	r := &b.record
	b.loading = e.Position
	if err := r.decode(e); err != nil {
		return err
	}
	switch e.Kind {
	case KindPut:
		b.applyPut(r.Changes[0].Key, r.Changes[0].Version, e.Value)
	case KindDelete:
		for i := range r.Changes {
			b.applyDelete(r.Changes[i].Key, r.Changes[i].Version)
		}
	case KindLease:
		b.applyLease(*r.Lease)
	case KindLeaseRevoked:
		b.applyRevoked(r.Revoked, e.Position)
	case KindCompaction:
		b.applyCompaction(r.Compact, e.Position)
	case KindAlarm:
		b.applyAlarm(*r.Alarm, r.Raised)
	case KindMember, KindJoined:
		b.applyMember(r.Member)
	case KindUser:
		b.applyUser(r.User)
	case KindRole:
		b.applyRole(r.Role)
	case KindMarker:
		b.applyMarker(r.Marker, e.Position)
	case KindBarrier:
		if len(e.Meta) == 1 && e.Meta[0] == begun {
			b.ix.Begun = b.ix.Compact
		}
		b.discard(e.Position)
	}
	return nil
}

// Settle ends the loading of a whole log.
func (b *Builder) Settle() {
	var gone []int64
	for l := range b.ix.Leases() {
		if l.position == 0 {
			gone = append(gone, l.ID)
		}
	}
	for _, id := range gone {
		b.ix.leases = b.ix.leases.del(b.own, leaseKey(id))
	}
}

func (b *Builder) applyPut(key string, v Version, value []byte) {
	old, known := b.ix.keys.get(key)
	if known && old.Lease != v.Lease && old.Lease != 0 && !old.Tombstone() {
		b.detach(old.Lease, key)
	}
	if v.Lease != 0 && (!known || old.Tombstone() || old.Lease != v.Lease) {
		b.attach(v.Lease, key)
	}
	b.change(key, old, v, value)
}

func (b *Builder) applyDelete(key string, v Version) {
	// The put that it ends may have been scrubbed already, and the tombstone not yet: it
	// is kept all the same, so that the next prune finds it.
	old, known := b.ix.keys.get(key)
	if known && old.Lease != 0 {
		b.detach(old.Lease, key)
	}
	b.change(key, old, v, nil)
}

// change makes v the newest version of key.
func (b *Builder) change(key string, old *record, v Version, value []byte) {
	rec := &record{Version: v}
	if old != nil {
		rec.older = push(old.Version, old.older)
	}
	b.ix.keys = b.ix.keys.set(b.own, key, rec)
	b.reach(v.Main, v.Position)
	if b.collect {
		ev := &Event{Key: key, Value: value, Version: v}
		if old != nil {
			// What was there before the revision, not what the same one did to the key before, as in etcd.
			if prev := old.at(v.Main - 1); prev != nil && !prev.Tombstone() {
				ev.Prev = *prev
			}
		}
		b.events = append(b.events, ev)
	}
}

// reach moves the current revision and remembers now and then where one begins.
func (b *Builder) reach(main, pos int64) {
	if main <= b.ix.Rev {
		return
	}
	b.ix.Rev = main
	if n := len(b.ix.marks); n == 0 || main-b.ix.marks[n-1].rev >= markEvery {
		b.ix.marks = append(b.ix.marks, mark{main, pos})
	}
}

func (b *Builder) applyLease(l Lease) {
	b.leases = append(b.leases, l.ID)
	l.Grant = l.position
	if l.Remaining == 0 {
		l.renewal = l.position
	}
	if old := b.ix.Lease(l.ID); old != nil {
		l.keys = old.keys
		if l.Remaining > 0 {
			l.renewal = old.renewal
		}
		if old.Grant != 0 {
			l.Grant = old.Grant
		}
		if old.position != 0 {
			b.discard(old.position)
		}
	}
	b.setLease(&l)
}

func (b *Builder) applyRevoked(id, pos int64) {
	b.leases = append(b.leases, id)
	if l := b.ix.Lease(id); l != nil {
		if l.position != 0 {
			b.discard(l.position)
		}
		b.ix.leases = b.ix.leases.del(b.own, leaseKey(id))
	}
	b.discard(pos)
}

func (b *Builder) applyCompaction(rev, pos int64) {
	if b.ix.compactPos != 0 {
		b.discard(b.ix.compactPos)
	}
	b.ix.Compact, b.ix.compactPos = rev, pos
	b.compactMarkers(rev)
	// The last changes before a compaction may be tombstones that are gone by now.
	b.ix.Rev = max(b.ix.Rev, rev)
}

func (b *Builder) applyAlarm(a Alarm, on bool) {
	alarms := slices.Clone(b.ix.alarms)
	for i, old := range alarms {
		if old.Member == a.Member && old.Type == a.Type {
			b.discard(old.position)
			alarms = slices.Delete(alarms, i, i+1)
			break
		}
	}
	if on {
		alarms = append(alarms, a)
	} else {
		b.discard(a.position)
	}
	b.ix.alarms = alarms
}

// discard takes note that the entry that is taken in, or was emitted last, has superseded another one.
func (b *Builder) discard(pos int64) {
	b.garbage = append(b.garbage, Freed{Position: pos, By: max(b.loading, b.next()-1)})
}
