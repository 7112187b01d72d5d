package mvcc

import (
	"encoding/binary"
	"iter"
)

// Lease is a granted lease as the log tells it. It never changes: a change makes a new one.
type Lease struct {
	ID int64
	// TTL is the granted time to live in seconds.
	TTL int64
	// Remaining is what was left of the TTL in seconds when it was last
	// checkpointed, or 0 if the whole TTL counts from the grant or the last renewal.
	Remaining int64
	// Grant tells a lease from an earlier one of the same id: it stays the same while the
	// lease exists, and means nothing beyond this process.
	Grant int64

	position int64
	renewal  int64 // see Renewal
	keys     tree[attached]
}

func (*Lease) weight() int { return 1 }

// Entry is the position of the lease's newest entry in the log. Each grant, checkpoint and renewal that is written down has
// another one, on every server that reads the log the same.
func (l *Lease) Entry() int64 { return l.position }

// Renewal is the position of the entry that granted the lease or renewed it last: checkpoints leave it as it is. It is 0 if that
// entry was gone when the log was loaded.
func (l *Lease) Renewal() int64 { return l.renewal }

// attached marks a key as attached to a lease.
type attached struct{}

func (attached) weight() int { return 1 }

// Keys yields the keys attached to the lease, ascending.
func (l *Lease) Keys() iter.Seq[string] {
	return func(yield func(string) bool) {
		for k := range l.keys.all(Everything) {
			if !yield(k) {
				return
			}
		}
	}
}

// KeyCount is the number of keys attached.
func (l *Lease) KeyCount() int { return l.keys.total() }

func leaseKey(id int64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return string(b[:])
}

// Lease gives the lease with this id, or nil.
func (ix *Index) Lease(id int64) *Lease {
	l, _ := ix.leases.get(leaseKey(id))
	return l
}

// Leases yields every lease, by id.
func (ix *Index) Leases() iter.Seq[*Lease] {
	return func(yield func(*Lease) bool) {
		for _, l := range ix.leases.all(Everything) {
			if !yield(l) {
				return
			}
		}
	}
}

func (b *Builder) setLease(l *Lease) { b.ix.leases = b.ix.leases.set(b.own, leaseKey(l.ID), l) }

// attach and detach keep a lease's set of keys in step with the lease ids of
// the live versions. While a log is loaded, a key may come before the entry of its lease
// (an older one of which was scrubbed): then the lease is provisional, without a position, until that entry comes.
func (b *Builder) attach(id int64, key string) {
	c := Lease{ID: id}
	if l := b.ix.Lease(id); l != nil {
		c = *l
	}
	c.keys = c.keys.set(b.own, key, attached{})
	b.setLease(&c)
}

func (b *Builder) detach(id int64, key string) {
	if l := b.ix.Lease(id); l != nil {
		c := *l
		c.keys = l.keys.del(b.own, key)
		b.setLease(&c)
	}
}
