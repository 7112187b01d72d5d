package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate/kine"
)

// toKine makes rows of a kine of what an etcd has: the other way round than fromKine.
//
// A revision is one row. Where several changes share a revision, the later ones get revisions of their own, and everything after them comes later by as many: renumbering, which has to be asked for.
//
// Revision 1 is nobody's in etcd, and has kine's compact_rev_key. Markers above the compact revision, and a current revision at which nothing changed, become gaps.
//
// A key that has a lease gets the seconds that the lease was granted for.
type toKine struct {
	add    func(*kine.Change) error
	leases map[int64]int64 // the TTL of each

	compact int64 // the source's
	shift   int64 // how much later revisions have become
	last    int64 // the last id
	keys    map[string]kineRow
}

// kineRow is the last change of a key.
type kineRow struct {
	id, create int64
	lives      bool
}

func newToKine(c *Content, add func(*kine.Change) error) *toKine {
	return &toKine{add: add, leases: c.leases, compact: c.Compact, last: 1, keys: map[string]kineRow{}}
}

// all adds all changes of a file. The compact revision can be told only when the revisions up to there are known, so its row, the first, is for first to add.
func (k *toKine) all(f *etcdfile.File, each func() error) error {
	for row, err := range f.Rows() {
		if err == nil {
			err = each()
		}
		if err == nil {
			err = k.row(&row)
		}
		if err != nil {
			return err
		}
	}
	return k.gap(f.Meta().Revision + k.shift)
}

func (k *toKine) row(row *etcdfile.Row) error {
	id := row.Main + k.shift
	if row.Marker() {
		if row.Main <= k.compact {
			return nil
		}
		return k.gap(id)
	}
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(row.KeyValue, &kv); err != nil {
		return fmt.Errorf("the row of revision %v: %w", row.Revision, err)
	}
	name := string(kv.Key)
	if row.Tombstone && row.Main <= k.compact {
		return nil // kine keeps none
	}
	if id <= k.last {
		k.shift += k.last + 1 - id
		id = k.last + 1
	}
	k.last = id
	before := k.keys[name]
	c := kine.Change{ID: id, Name: name, PrevRevision: before.id}
	if name == apiName {
		c.Name = kineAPIName
	}
	switch {
	case row.Tombstone:
		c.Deleted, c.CreateRevision = true, before.create
	case kv.Version == 1:
		c.Created, before.create = true, id
	case before.lives:
		c.CreateRevision = before.create
	default:
		before.create = min(kv.CreateRevision+k.shift, id-1)
		c.CreateRevision = before.create
	}
	if !row.Tombstone {
		c.Value = kv.Value
		if name == apiName {
			c.Value = encodeVersion(kv.Version, kv.Value)
		}
		c.Lease = min(k.leases[kv.Lease], math.MaxInt32) // the column has 32 bits
	}
	k.keys[name] = kineRow{id: id, create: before.create, lives: !row.Tombstone}
	return k.add(&c)
}

// gap makes a revision at which nothing changes, if it is not there yet.
func (k *toKine) gap(id int64) error {
	if id <= k.last {
		return nil
	}
	k.last = id
	return k.add(&kine.Change{ID: id, Name: kine.GapName(id), Deleted: true})
}

// bounded gives the compact revision as the target will have it: that of the last row up to it, and what it has become later by.
func bounded(f *etcdfile.File, compact int64) (int64, error) {
	if compact <= 0 {
		return 0, nil
	}
	k := newToKine(&Content{Compact: compact}, func(*kine.Change) error { return nil })
	for row, err := range f.Rows() {
		if err != nil {
			return 0, err
		}
		if row.Main > compact {
			break
		}
		if err := k.row(&row); err != nil {
			return 0, err
		}
	}
	return compact + k.shift, nil
}

// kineTarget is a kine's table.
type kineTarget struct {
	*migration
	sum kineSum // what was written
}

func (t *kineTarget) vacant(ctx context.Context) error {
	source, err := t.To.source()
	if err != nil {
		return err
	}
	return kine.Vacant(ctx, t.To.Dialect, source)
}

func (t *kineTarget) plan(_ context.Context, c *Content, p *Plan) error {
	if c.auth {
		return errOpen
	}
	p.Kept = append(p.Kept, "every key with its value", "the history since the last compaction", "the compact revision")
	if c.shared == 0 {
		p.Kept = append(p.Kept, "create and mod revisions, and the current revision")
	} else {
		p.Lost = append(p.Lost, fmt.Sprintf("revisions: %d changes share one with another, and what comes after them gets later ones", c.shared))
	}
	if c.versions > 0 {
		p.Lost = append(p.Lost, "versions: kine has none, and answers 0")
	}
	if c.Leases > 0 {
		p.Lost = append(p.Lost, "leases: each key gets the TTL of its lease, which begins when kine is started, and cannot be renewed or revoked")
	}
	if c.Users+c.Roles > 0 {
		p.Lost = append(p.Lost, "users and roles")
	}
	if c.Alarms > 0 {
		p.Lost = append(p.Lost, "alarms")
	}
	if c.shared > 0 && !t.Renumber {
		return fmt.Errorf("%w: %d changes share a revision with another one, and kine has one change to a revision: --renumber gives them later ones, and all that comes after them", ErrLoss, c.shared)
	}
	return nil
}

func (t *kineTarget) write(ctx context.Context, f *etcdfile.File, c *Content) error {
	bound, err := bounded(f, c.Compact)
	if err != nil {
		return err
	}
	source, err := t.To.source()
	if err != nil {
		return err
	}
	return kine.Fill(ctx, t.To.Dialect, source, func(add func(*kine.Change) error) error {
		t.sum = newKineSum()
		counted := func(change *kine.Change) error {
			t.sum.add(change)
			return add(change)
		}
		if err := counted(&kine.Change{ID: 1, Name: kine.CompactName, Created: true, PrevRevision: bound}); err != nil {
			return err
		}
		k, n := newToKine(c, counted), int64(0)
		return k.all(f, func() error {
			if n++; n%1024 == 0 {
				t.Progress("writing", n, c.Rows)
			}
			return nil
		})
	})
}

// prove compares the table with the rows that were written, and what it shows with what the source does.
func (t *kineTarget) prove(ctx context.Context, f *etcdfile.File, c *Content) (Proof, error) {
	proof := Proof{Of: "all rows: revisions, keys, values and seconds to live", Source: t.sum.digest()}
	t.sum.keys = nil // which are counted, and there will be as many
	at, err := t.To.source()
	if err != nil {
		return proof, err
	}
	db, err := kine.Open(ctx, t.To.Dialect, at)
	if err != nil {
		return proof, err
	}
	back, shown := newKineSum(), newTrace(c.shared > 0)
	err = db.All(ctx, func(c *kine.Change) error {
		back.add(c)
		shown.change(c)
		if back.Rows%1024 == 0 {
			t.Progress("reading the target back", back.Rows, t.sum.Rows)
		}
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return proof, err
	}
	proof.Target = back.digest()
	return proof, shown.equals(f)
}

// kineSum is a hash over rows.
type kineSum struct {
	Digest
	hash hash.Hash
	keys map[string]struct{}
}

func newKineSum() kineSum { return kineSum{hash: sha256.New(), keys: map[string]struct{}{}} }

func (s *kineSum) add(c *kine.Change) {
	fmt.Fprintf(s.hash, "%d %q %v %v %d %d %d %d\n", c.ID, c.Name, c.Created, c.Deleted, c.CreateRevision, c.PrevRevision, c.Lease, len(c.Value))
	s.hash.Write(c.Value)
	s.Rows++
	s.Revision = max(s.Revision, c.ID)
	switch {
	case !c.Key():
	case c.Deleted:
		delete(s.keys, c.Name)
	default:
		s.keys[c.Name] = struct{}{}
	}
}

func (s *kineSum) digest() Digest {
	d := s.Digest
	d.Keys, d.Hash = int64(len(s.keys)), hex.EncodeToString(s.hash.Sum(nil))
	return d
}
