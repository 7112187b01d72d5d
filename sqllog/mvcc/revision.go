package mvcc

// Range is a set of keys: [Start, End), or everything from Start on if End is empty.
type Range struct {
	Start, End string
}

// NewRange reads etcd's key and range_end: no range_end means the key alone,
// the byte 0 means every key from key on.
func NewRange(key, rangeEnd []byte) Range {
	switch {
	case len(rangeEnd) == 0:
		end := string(key) + "\x00"
		return Range{Start: end[:len(key)], End: end}
	case len(rangeEnd) == 1 && rangeEnd[0] == 0:
		return Range{Start: string(key)}
	}
	return Range{Start: string(key), End: string(rangeEnd)}
}

// Everything is the range of all keys.
var Everything = Range{}

func (r Range) beforeEnd(key string) bool { return r.End == "" || key < r.End }

// Contains tells whether key is in the range.
func (r Range) Contains(key string) bool { return key >= r.Start && r.beforeEnd(key) }

// single tells whether the range can hold only one key.
func (r Range) single() bool {
	return len(r.End) == len(r.Start)+1 && r.End[len(r.Start)] == 0 && r.End[:len(r.Start)] == r.Start
}

// Version is one version of a key: what etcd calls a revision of it, with what is
// known without reading the value. It never changes.
type Version struct {
	// Main and Sub are the revision: etcd's mod_revision and the number of the change in it.
	Main int64
	Sub  int32
	// Size is the length of the value in bytes.
	Size int32
	// Create is the create_revision of the key's generation.
	Create int64
	// Count is etcd's version: 1 for the first put of a generation, 0 for a tombstone.
	Count int64
	// Lease is the id of the lease that the key is attached to, or 0.
	Lease int64
	// Position is where in the log the value stands.
	Position int64
}

// Tombstone tells whether the key was deleted by this version.
func (v *Version) Tombstone() bool { return v.Count == 0 }

// Event is one change of a key as the log tells it, with the version it
// replaced. It never changes after it has been published.
type Event struct {
	Key   string
	Value []byte
	Version
	// Prev is the version that this one replaced: the zero Version if
	// the key did not live, or if that is not known any more.
	Prev Version
}
