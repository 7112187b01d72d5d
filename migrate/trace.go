package migrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate/kine"
)

// trace sums up changes of keys as clients see them, in their order: revision, key, value, seconds to live, and whether it is a delete. It is made of a kine's rows and of an etcd's each in a way of its own, and knows
// nothing of fromKine and toKine, so that it shows what those do wrong.
type trace struct {
	hash  hash.Hash
	n     int64
	lives map[string]struct{} // of a kine
	// renumbered leaves revisions out, which then are not those of the source.
	renumbered bool
}

func newTrace(renumbered bool) *trace {
	return &trace{hash: sha256.New(), lives: map[string]struct{}{}, renumbered: renumbered}
}

func (t *trace) add(revision int64, key string, value []byte, seconds int64, deleted bool) {
	if t.renumbered {
		revision = 0
	}
	if deleted {
		value, seconds = nil, 0
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(revision))
	b = binary.BigEndian.AppendUint64(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(value)))
	t.hash.Write(append(b, value...))
	fmt.Fprintf(t.hash, "%d %v", min(seconds, math.MaxInt32), deleted) // kine's column has 32 bits
	t.n++
}

// change takes in a row of kine's. To clients a delete of what is not there is nothing.
func (t *trace) change(c *kine.Change) {
	if !c.Key() {
		return
	}
	key, value := c.Name, c.Value
	if key == kineAPIName {
		var ok bool
		if key = kine.CompactName; !c.Deleted {
			if _, value, ok = bytes.Cut(value, []byte("|")); !ok {
				value = []byte("0")
			}
		}
	}
	if _, ok := t.lives[key]; c.Deleted && !ok {
		return
	}
	if t.lives[key] = struct{}{}; c.Deleted {
		delete(t.lives, key)
	}
	t.add(c.ID, key, value, max(c.Lease, 0), c.Deleted)
}

// file takes in all that a file has. What is deleted at the compact revision, or before, is seen by nobody.
func (t *trace) file(f *etcdfile.File) error {
	seconds := map[int64]int64{}
	for _, l := range f.Meta().Leases {
		seconds[l.ID] = l.TTL
	}
	for row, err := range f.Rows() {
		var kv mvccpb.KeyValue
		if err == nil {
			err = proto.Unmarshal(row.KeyValue, &kv)
		}
		if err != nil {
			return err
		}
		if len(kv.Key) > 0 && (!row.Tombstone || row.Main > f.Meta().Compact) {
			t.add(row.Main, string(kv.Key), kv.Value, seconds[kv.Lease], row.Tombstone)
		}
	}
	return nil
}

// equals refuses a file that does not show what a kine does.
func (t *trace) equals(f *etcdfile.File) error {
	other := newTrace(t.renumbered)
	if err := other.file(f); err != nil {
		return err
	}
	if t.n != other.n || !bytes.Equal(t.hash.Sum(nil), other.hash.Sum(nil)) {
		return fmt.Errorf("%w: kine has %d changes of keys and the other side has %d, or they are others; this is a fault of the migration", ErrDiffers, t.n, other.n)
	}
	return nil
}
