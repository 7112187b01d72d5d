package mvcc

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/keelson-io/keelson/drivers"
)

// Hasher computes etcd's HashKV from the entries of the log: the CRC32
// (Castagnoli) over the revisions and KeyValues that a settled etcd holds up to
// a revision, after a compaction at the compact revision (etcd's server/storage/mvcc/hash.go). What the
// compaction keeps is judged by the index, so it does not matter what has been scrubbed.
//
// Of the versions up to the compact revision etcd leaves out those that a
// compaction at the hashed revision would free, unless it would free every key.
type Hasher struct {
	ix    *Index
	rev   int64
	empty bool // no key lives at rev, and there is no marker
	sum   uint32
	buf   []byte
}

// NewHasher begins the hash at revision rev.
func (ix *Index) NewHasher(rev int64) *Hasher {
	h := &Hasher{ix: ix, rev: rev, empty: lastMarker(ix.markers, rev) < 0}
	for range ix.Scan(Everything, rev) {
		h.empty = false
		break
	}
	h.write([]byte("key")) // the name of etcd's bucket
	return h
}

func (h *Hasher) write(p []byte) {
	h.sum = crc32.Update(h.sum, castagnoli(), p)
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Add takes in the next entry, with its value. Entries come in the order of the log.
func (h *Hasher) Add(e *drivers.Entry) error {
	switch e.Kind {
	case KindPut:
		key, v, err := decodePut(e.Meta)
		if err != nil {
			return err
		}
		if v.Main <= h.rev && h.ix.Kept(key, v.Main, v.Sub) && h.counts(key, &v) {
			h.change(key, &v, e.Value)
		}
	case KindDelete:
		main, sub, keys, err := decodeDelete(e.Meta)
		if err != nil {
			return err
		}
		if main > h.rev || main <= h.ix.Compact {
			return nil
		}
		for i, k := range keys {
			h.change(k, &Version{Main: main, Sub: sub + int32(i)}, nil)
		}
	case KindMarker:
		var main int64
		if err := decodeInts(e.Meta, &main); err != nil {
			return err
		}
		if main <= h.rev && h.ix.keptMarker(main, h.ix.Compact) && (main > h.ix.Compact || h.ix.keptMarker(main, h.rev)) {
			h.buf = AppendRevision(h.buf[:0], main, 0, false)
			h.write(h.buf)
		}
	}
	return nil
}

// counts tells whether etcd hashes a version that the compaction kept.
func (h *Hasher) counts(key string, v *Version) bool {
	if v.Main > h.ix.Compact || h.empty {
		return true
	}
	at := h.ix.Get(key, h.rev)
	return at != nil && at.Main == v.Main && at.Sub == v.Sub
}

// change hashes one row of etcd's key bucket.
func (h *Hasher) change(key string, v *Version, value []byte) {
	b := AppendRevision(h.buf[:0], v.Main, v.Sub, v.Tombstone())
	if v.Tombstone() {
		b = AppendKeyValue(b, key, &Version{}, nil)
	} else {
		b = AppendKeyValue(b, key, v, value)
	}
	h.buf = b
	h.write(b)
}

// Sum gives the hash of what was added.
func (h *Hasher) Sum() uint32 { return h.sum }

// Field tags of mvccpb.KeyValue and Event, wire types included.
const (
	tagKey    = 1<<3 | 2
	tagCreate = 2<<3 | 0
	tagMod    = 3<<3 | 0
	tagCount  = 4<<3 | 0
	tagValue  = 5<<3 | 2
	tagLease  = 6<<3 | 0
)

// AppendKeyValue appends a KeyValue message as protobuf encodes it, fields in
// the order of their numbers and zero ones left out.
func AppendKeyValue(buf []byte, key string, v *Version, value []byte) []byte {
	if key != "" {
		buf = append(buf, tagKey)
		buf = binary.AppendUvarint(buf, uint64(len(key)))
		buf = append(buf, key...)
	}
	buf = appendField(buf, tagCreate, v.Create)
	buf = appendField(buf, tagMod, v.Main)
	buf = appendField(buf, tagCount, v.Count)
	if len(value) > 0 {
		buf = append(buf, tagValue)
		buf = binary.AppendUvarint(buf, uint64(len(value)))
		buf = append(buf, value...)
	}
	return appendField(buf, tagLease, v.Lease)
}

func appendField(buf []byte, tag byte, v int64) []byte {
	if v == 0 {
		return buf
	}
	return binary.AppendUvarint(append(buf, tag), uint64(v))
}

// KeyValueSize is the number of bytes that AppendKeyValue appends for a value of this size.
func KeyValueSize(key string, v *Version, size int) int {
	n := field(v.Create) + field(v.Main) + field(v.Count) + field(v.Lease)
	if key != "" {
		n += 1 + varintSize(uint64(len(key))) + len(key)
	}
	if size > 0 {
		n += 1 + varintSize(uint64(size)) + size
	}
	return n
}

func field(v int64) int {
	if v == 0 {
		return 0
	}
	return 1 + varintSize(uint64(v))
}

func varintSize(u uint64) int {
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}
