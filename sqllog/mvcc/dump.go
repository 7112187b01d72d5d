package mvcc

import (
	"encoding/binary"

	"github.com/keelson-io/keelson/drivers"
)

// Row is a row of etcd's key bucket: a revision, and a marshalled mvccpb.KeyValue. That of a tombstone has a key alone, and a row without any changes no key.
type Row struct {
	Main      int64
	Sub       int32
	Tombstone bool
	KeyValue  []byte
}

// Dump makes of the entries of a log what an etcd has in its database file in the same state, after its compactions have run to their
// end (etcd's server/storage/mvcc/key_index.go, compact). The entries are those of one moment. What a compaction keeps is judged by an
// index of that moment or a later one, so it does not matter what has been scrubbed.
type Dump struct {
	judge *Index
	state *Builder
	end   drivers.End
	row   Row
}

// NewDump begins a dump that is judged by an index.
func NewDump(judge *Index) *Dump {
	return &Dump{judge: judge, state: NewIndex().Edit(false)}
}

// Add takes in the next entry, with its value, and gives the rows that it makes to fn, in the order of revisions. A row is valid during the call.
func (d *Dump) Add(e *drivers.Entry, fn func(*Row) error) error {
	d.end.Position = e.Position
	switch e.Kind {
	case KindPut:
		key, v, err := decodePut(e.Meta)
		if err != nil {
			return err
		}
		return d.change(key, &v, e.Value, fn)
	case KindDelete:
		main, sub, keys, err := decodeDelete(e.Meta)
		if err != nil {
			return err
		}
		for i, k := range keys {
			if err := d.change(k, &Version{Main: main, Sub: sub + int32(i)}, nil, fn); err != nil {
				return err
			}
		}
		return nil
	case KindMarker:
		var main int64
		if err := decodeInts(e.Meta, &main); err != nil {
			return err
		}
		d.state.reach(main, 0)
		if !d.judge.keptMarker(main, d.judge.Compact) {
			return nil
		}
		d.row.Main, d.row.Sub, d.row.Tombstone, d.row.KeyValue = main, 0, false, nil
		return fn(&d.row)
	}
	return d.state.load(e)
}

func (d *Dump) change(key string, v *Version, value []byte, fn func(*Row) error) error {
	d.state.reach(v.Main, 0)
	if !d.judge.left(key, v) {
		return nil
	}
	d.row.Main, d.row.Sub, d.row.Tombstone = v.Main, v.Sub, v.Tombstone()
	if d.row.Tombstone {
		v = &Version{}
	}
	d.row.KeyValue = AppendKeyValue(d.row.KeyValue[:0], key, v, value)
	return fn(&d.row)
}

// left tells whether a version is there after a compaction at the index's compact revision: also a tombstone of that very revision, at which a watch may begin.
func (ix *Index) left(key string, v *Version) bool {
	if v.Main > ix.Compact {
		return true
	}
	r, ok := ix.keys.get(key)
	if !ok {
		return false
	}
	at := r.at(ix.Compact)
	return at != nil && at.Main == v.Main && at.Sub == v.Sub && (!at.Tombstone() || at.Main == ix.Compact)
}

// State gives what the entries say beside keys: the current revision, leases, members, alarms, users and roles; and the compact revision that the
// rows were judged by. ok is false if the index that judged has compacted what was still to be read: then there is more missing than that compaction frees.
func (d *Dump) State() (ix *Index, ok bool) {
	ix = d.state.Index(d.end)
	ix.Compact = d.judge.Compact
	return ix, ix.Compact <= ix.Rev
}

// AppendRevision appends a revision as etcd's key bucket has it for a key.
func AppendRevision(buf []byte, main int64, sub int32, tombstone bool) []byte {
	buf = binary.BigEndian.AppendUint64(buf, uint64(main))
	buf = append(buf, '_')
	buf = binary.BigEndian.AppendUint64(buf, uint64(sub))
	if tombstone {
		buf = append(buf, 't')
	}
	return buf
}
