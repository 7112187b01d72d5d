package mvcc

import (
	"iter"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
)

// Index is the state of the store at the end of the log, without the
// values: a snapshot that never changes. Reads, counts and compares are decided
// on it; values are fetched from the log by position. The zero Index is not ready: use [NewIndex].
type Index struct {
	// End is the end of the log that the index speaks for.
	End drivers.End
	// Rev is the current revision; an empty store is at 1.
	Rev int64
	// Compact is the compact revision: -1 if the store was never compacted.
	// A read at a revision r is answered for Compact <= r <= Rev (invariant I6).
	Compact int64
	// Begun is the compact revision of the snapshot that the log was made of, as long as the entry that says so is there, and otherwise 0: of
	// the changes up to it the log has only what a compaction keeps.
	Begun int64
	// AuthRev is the auth revision: 1 in an empty store, +1 per request that changes users or
	// roles. The newest entry of those kinds tells it, and is never garbage (invariant I11).
	AuthRev int64

	keys   tree[*record]
	leases tree[*Lease]
	users  tree[*User]
	roles  tree[*Role]
	alarms []Alarm
	// markers are ascending.
	markers []marker

	// members are those of the cluster, removed those that were members once (invariant I12), each by id.
	members []*Member
	removed []*Member
	cluster uint64

	// authRemoval is the position of the newest entry of a user or role, if that is a removal, and otherwise 0.
	authRemoval int64

	// compactPos is the position of the entry that set Compact.
	compactPos int64
	// garbage lists entries that are not key-value and that a later one superseded.
	garbage *heap
	// marks says where in the log some revisions begin, ascending.
	marks []mark
}

// Alarm is an alarm that a member has raised.
type Alarm struct {
	Member   uint64
	Type     int32 // an etcdserverpb.AlarmType
	position int64
}

// heap is a list of entries that grows by slices. It shares what it has grown from.
type heap struct {
	freed []Freed
	below *heap
	total int
}

func (h *heap) size() int {
	if h == nil {
		return 0
	}
	return h.total
}

func (h *heap) grow(freed []Freed) *heap {
	if len(freed) == 0 {
		return h
	}
	return &heap{freed, h, h.size() + len(freed)}
}

// mark: the first change of revision rev stands at position pos.
type mark struct{ rev, pos int64 }

// markEvery is the distance between marks in revisions.
const markEvery = 256

// record is what the index knows of a key: its newest version and the older ones.
type record struct {
	Version
	older *past
}

func (r *record) weight() int {
	if r.Count == 0 {
		return 0
	}
	return 1
}

// past is an older version. The versions of a key form a list, newest
// first; jump skips ahead so that finding a revision takes logarithmic time also for a key
// that was written a million times (Myers, "An applicative random-access stack", 1983).
type past struct {
	Version
	prev, jump *past
	depth      int32
}

func push(v Version, prev *past) *past {
	p := &past{Version: v, prev: prev}
	if prev == nil {
		return p
	}
	p.depth = prev.depth + 1
	p.jump = prev
	if j := prev.jump; j != nil && j.jump != nil && prev.depth-j.depth == j.depth-j.jump.depth {
		p.jump = j.jump
	}
	return p
}

// at gives the newest version of the key at revision rev, which may be a tombstone, or nil.
func (r *record) at(rev int64) *Version {
	if r.Main <= rev {
		return &r.Version
	}
	p := r.older
	for p != nil && p.Main > rev {
		if p.jump != nil && p.jump.Main > rev {
			p = p.jump
		} else {
			p = p.prev
		}
	}
	if p == nil {
		return nil
	}
	return &p.Version
}

// NewIndex gives the index of an empty log.
func NewIndex() *Index { return &Index{Rev: 1, Compact: -1, AuthRev: 1} }

// Get gives the live version of key at revision rev, or nil.
func (ix *Index) Get(key string, rev int64) *Version {
	r, ok := ix.keys.get(key)
	if !ok {
		return nil
	}
	if v := r.at(rev); v != nil && !v.Tombstone() {
		return v
	}
	return nil
}

// Scan yields the live keys of r at revision rev in order, with their versions.
func (ix *Index) Scan(r Range, rev int64) iter.Seq2[string, *Version] {
	return func(yield func(string, *Version) bool) {
		if r.single() {
			if v := ix.Get(r.Start, rev); v != nil {
				yield(r.Start, v)
			}
			return
		}
		if rev >= ix.Rev {
			for k, rec := range ix.keys.live(r) {
				if !yield(k, &rec.Version) {
					return
				}
			}
			return
		}
		for k, rec := range ix.keys.all(r) {
			if v := rec.at(rev); v != nil && !v.Tombstone() && !yield(k, v) {
				return
			}
		}
	}
}

// Count gives the number of live keys of r at revision rev: two descents at the
// current revision, a walk at an older one.
func (ix *Index) Count(r Range, rev int64) int64 {
	if rev >= ix.Rev && !r.single() {
		switch {
		case r.End == "":
			return int64(ix.keys.total() - ix.keys.rank(r.Start))
		case r.End <= r.Start:
			return 0
		}
		return int64(ix.keys.rank(r.End) - ix.keys.rank(r.Start))
	}
	var n int64
	for range ix.Scan(r, rev) {
		n++
	}
	return n
}

// Keys is the number of live keys.
func (ix *Index) Keys() int64 { return int64(ix.keys.total()) }

// PrevVersion gives the version of key that the change at revision main replaced:
// the newest one below it, if that is live and not compacted away, or nil.
func (ix *Index) PrevVersion(key string, main int64) *Version {
	if main-1 < ix.Compact {
		return nil
	}
	return ix.Get(key, main-1)
}

// Before gives a position such that every change of revision rev and later stands
// after it, and little else does.
func (ix *Index) Before(rev int64) int64 {
	i := sort.Search(len(ix.marks), func(i int) bool { return ix.marks[i].rev > rev })
	if i == 0 {
		return 0
	}
	return ix.marks[i-1].pos - 1
}

// Kept tells whether the version that key had at revision main is one that a
// compaction at the index's compact revision keeps.
func (ix *Index) Kept(key string, main int64, sub int32) bool {
	if main > ix.Compact {
		return true
	}
	r, ok := ix.keys.get(key)
	if !ok {
		return false
	}
	v := r.at(ix.Compact)
	return v != nil && v.Main == main && v.Sub == sub && !v.Tombstone()
}

// Alarms gives the alarms raised. The slice is not to be changed.
func (ix *Index) Alarms() []Alarm { return ix.alarms }

// Alarmed tells whether any member has raised an alarm of this type.
func (ix *Index) Alarmed(alarm int32) bool {
	for _, a := range ix.alarms {
		if a.Type == alarm {
			return true
		}
	}
	return false
}

// Corrupt tells whether a CORRUPT alarm is raised for a member, or for all of them: for member 0.
func (ix *Index) Corrupt(member uint64) bool {
	return slices.ContainsFunc(ix.alarms, func(a Alarm) bool {
		return a.Type == int32(pb.AlarmType_CORRUPT) && (a.Member == member || a.Member == 0)
	})
}

// SameAlarms tells whether two indexes of one log have the same alarms raised.
func (ix *Index) SameAlarms(other *Index) bool { return slices.Equal(ix.alarms, other.alarms) }
