package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate/kine"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fromKine makes of the rows of a kine what an etcd would have that shows the same to clients.
//
// A row's id is its revision. An id that is no change of a key (kine's own compact_rev_key, a gap) is a revision all the same: above the compact revision a marker stands at the last of them, as etcdutl leaves it
// where it raises the revision, so that none is missing.
//
// kine keeps no version. It is counted: 1 for a change that creates a key, one more for each after it. Of a key whose first changes were compacted it cannot be known, and
// begins with 2: the least that one can have that was changed.
//
// What kine gives to clients as a lease's id is the number of seconds that were asked for, and each key expires by itself, so long after its last change or after kine's last start. Here these become leases with the id that clients
// have seen and so many seconds to live, which begin when the target is started: a key expires as if kine had been started then. A later change of a key takes it out of there.
//
// The key that the Kubernetes API server knows as compact_rev_key is in a row with another name, since kine uses that name itself; and its value has the version before it.
type fromKine struct {
	w       *etcdfile.Writer
	compact int64
	last    int64 // the last revision
	keys    map[string]kineKey
	guessed int64              // keys whose version was not known
	leases  map[int64]struct{} // also those of earlier changes, which nobody has any more: then a kine can be made of it again that shows the same
	buf     []byte
}

// kineKey is a key that lives, at its last change.
type kineKey struct{ create, version int64 }

const (
	kineAPIName = "compact_rev_key_apiserver"
	apiName     = kine.CompactName
)

// fromKine makes a file of a kine's table.
func (m *migration) fromKine(ctx context.Context, p Place, path string) (err error) {
	source, err := p.source()
	if err != nil {
		return err
	}
	db, err := kine.Open(ctx, p.Dialect, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return writeFile(path, func(w *etcdfile.Writer) (*etcdfile.Meta, error) {
		var k *fromKine
		var s kine.State
		var n int64
		m.seen = newTrace(false)
		err := db.Read(ctx, func(state kine.State) error {
			s, k = state, newFromKine(w, state.Compact)
			return nil
		}, func(c *kine.Change) error {
			if n++; n%1024 == 0 {
				m.Progress("reading", n, s.Rows)
			}
			m.seen.change(c)
			return k.add(c)
		})
		if err != nil {
			return nil, err
		}
		meta, err := k.finish(s.Current)
		if err == nil {
			m.notes = k.notes(meta)
		}
		return meta, err
	})
}

// notes says what kine could not tell.
func (k *fromKine) notes(meta *etcdfile.Meta) []string {
	notes := []string{"kine keeps no versions: they are counted from the changes that are there"}
	if k.guessed > 0 {
		notes[0] += fmt.Sprintf(", and from 2 for %d keys whose first ones were compacted", k.guessed)
	}
	if len(meta.Leases) > 0 {
		notes = append(notes, fmt.Sprintf("kine has a number of seconds in the place of a lease: %d leases are made, each with that number as its id, and they begin when the target is started", len(meta.Leases)))
	}
	return notes
}

func newFromKine(w *etcdfile.Writer, compact int64) *fromKine {
	return &fromKine{w: w, compact: compact, last: 1, keys: map[string]kineKey{}, leases: map[int64]struct{}{}}
}

// add takes in the next change.
func (k *fromKine) add(c *kine.Change) error {
	if !c.Key() {
		return nil
	}
	if c.ID < 2 {
		return fmt.Errorf("key %q has the revision %d, where etcd has none: change it once in kine (its value may stay the same), and try again", c.Name, c.ID)
	}
	if err := k.reach(c.ID - 1); err != nil {
		return err
	}
	name, value, version := c.Name, c.Value, int64(0)
	if name == kineAPIName {
		name = apiName
		version, value = decodeVersion(value)
	}
	before, lives := k.keys[name]
	if c.Deleted {
		if !lives {
			return nil // kine writes a row for the delete of a key that is not there; etcd does nothing
		}
		delete(k.keys, name)
		k.buf = mvcc.AppendKeyValue(k.buf[:0], name, &mvcc.Version{}, nil)
		return k.row(c.ID, true)
	}
	now := kineKey{create: before.create, version: before.version + 1}
	if !lives {
		now = k.begin(c, version)
	}
	k.keys[name] = now
	v := mvcc.Version{Main: c.ID, Create: now.create, Count: now.version, Lease: max(c.Lease, 0)}
	if v.Lease > 0 {
		k.leases[v.Lease] = struct{}{}
	}
	k.buf = mvcc.AppendKeyValue(k.buf[:0], name, &v, value)
	return k.row(c.ID, false)
}

// begin is the first row of a key: it creates the key, or those before it were compacted.
func (k *fromKine) begin(c *kine.Change, version int64) kineKey {
	now := kineKey{create: c.ID, version: 1}
	if !c.Created && c.ID <= k.compact && c.CreateRevision > 1 && c.CreateRevision < c.ID {
		if now.create, now.version = c.CreateRevision, 2; version > 2 {
			now.version = version
		} else {
			k.guessed++
		}
	}
	return now
}

func (k *fromKine) row(revision int64, tombstone bool) error {
	k.last = revision
	return k.w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: revision}, Tombstone: tombstone, KeyValue: k.buf})
}

// reach makes the revision at least this one. What is missing up to the compact revision may be missing.
func (k *fromKine) reach(revision int64) error {
	if revision <= max(k.last, k.compact) {
		return nil
	}
	k.last = revision
	return k.w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: revision}})
}

// finish brings the file to the current revision, and gives what it has beside rows.
func (k *fromKine) finish(current int64) (*etcdfile.Meta, error) {
	if err := k.reach(current); err != nil {
		return nil, err
	}
	meta := &etcdfile.Meta{Compact: -1}
	if k.compact > 0 {
		meta.Compact = k.compact
	}
	for _, ttl := range slices.Sorted(maps.Keys(k.leases)) {
		meta.Leases = append(meta.Leases, etcdfile.Lease{ID: ttl, TTL: ttl})
	}
	meta.Revision = max(k.last, k.compact)
	complete(meta)
	return meta, nil
}

// decodeVersion takes kine's value of the API server's key apart. Old ones are just a version.
func decodeVersion(value []byte) (version int64, rest []byte) {
	number, rest, ok := bytes.Cut(value, []byte("|"))
	if !ok {
		rest = []byte("0")
	}
	version, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil {
		return 0, rest
	}
	return version, rest
}

func encodeVersion(version int64, value []byte) []byte {
	return append(strconv.AppendInt(nil, version, 10), append([]byte("|"), value...)...)
}
