package mvcc

import (
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// Restorer makes the entries of a new log of what an etcd has in its database file: the other way round than Dump. The same content gives the same entries.
// Their positions are for who appends them to give.
type Restorer struct {
	compact int64
	emit    func(drivers.Entry) error
	row     Row // the last one, without its KeyValue
}

// NewRestorer begins a log that is compacted at a revision, or never was: 0 or below. Entries go to emit, which keeps them.
func NewRestorer(compact int64, emit func(drivers.Entry) error) *Restorer {
	return &Restorer{compact: compact, emit: emit}
}

// Add takes in the next row, in the order of revisions: of those up to the compact revision only what a compaction keeps. ErrBadEntry if
// it is none that etcd writes.
func (r *Restorer) Add(row *Row) error {
	if row.Main < r.row.Main || row.Main == r.row.Main && row.Sub <= r.row.Sub || row.Main < 2 || row.Sub < 0 {
		return fmt.Errorf("%w: revision %d.%d after %d.%d", ErrBadEntry, row.Main, row.Sub, r.row.Main, r.row.Sub)
	}
	if row.Main > r.compact {
		if err := r.compacted(); err != nil {
			return err
		}
	}
	r.row = Row{Main: row.Main, Sub: row.Sub}
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(row.KeyValue, &kv); err != nil {
		return fmt.Errorf("%w: the row of revision %d.%d: %w", ErrBadEntry, row.Main, row.Sub, err)
	}
	switch {
	case row.Tombstone && len(kv.Key) > 0:
		meta, _ := appendDelete(nil, row.Main, row.Sub, []string{string(kv.Key)})
		return r.emit(drivers.Entry{Kind: KindDelete, Meta: meta})
	case len(row.KeyValue) == 0 && !row.Tombstone && row.Sub == 0:
		return r.emit(drivers.Entry{Kind: KindMarker, Meta: appendInts(nil, row.Main)})
	case row.Tombstone || len(kv.Key) == 0 || kv.Version < 1 || kv.CreateRevision < 1 || kv.CreateRevision > row.Main || kv.ModRevision != row.Main:
		return fmt.Errorf("%w: the row of revision %d.%d has key %q, version %d, create_revision %d and mod_revision %d", ErrBadEntry, row.Main, row.Sub,
			kv.Key, kv.Version, kv.CreateRevision, kv.ModRevision)
	}
	v := Version{Main: row.Main, Sub: row.Sub, Create: kv.CreateRevision, Count: kv.Version, Lease: kv.Lease, Size: int32(len(kv.Value))}
	return r.emit(drivers.Entry{Kind: KindPut, Meta: appendPut(nil, string(kv.Key), &v), Value: kv.Value})
}

// Bump emits a marker at a revision above all before, and a compaction there, after the last row.
func (r *Restorer) Bump(rev int64) error {
	if err := r.compacted(); err != nil {
		return err
	}
	if err := r.Add(&Row{Main: rev}); err != nil {
		return err
	}
	return r.emit(drivers.Entry{Kind: KindCompaction, Meta: appendInts(nil, rev)})
}

// compacted emits the compaction, once: behind all that it concerns, and before what comes later.
func (r *Restorer) compacted() error {
	if r.compact <= 0 {
		return nil
	}
	rev := r.compact
	r.compact = 0
	return r.emit(drivers.Entry{Kind: KindCompaction, Meta: appendInts(nil, rev)})
}

// Beside is what a log has beside keys and members.
type Beside struct {
	Leases  []Lease
	Alarms  []Alarm
	Users   []*authpb.User
	Roles   []*authpb.Role
	AuthRev int64 // 1 if users and roles never were changed
}

// Finish emits what is no key, after the last row.
func (r *Restorer) Finish(s *Beside) error {
	if err := r.compacted(); err != nil {
		return err
	}
	for _, l := range s.Leases {
		if err := r.emit(drivers.Entry{Kind: KindLease, Meta: appendInts(nil, l.ID, l.TTL, l.Remaining)}); err != nil {
			return err
		}
	}
	for _, a := range s.Alarms {
		if err := r.emit(drivers.Entry{Kind: KindAlarm, Meta: appendInts(nil, int64(a.Member), int64(a.Type), 1)}); err != nil {
			return err
		}
	}
	return r.auth(s)
}

func (r *Restorer) auth(s *Beside) error {
	if s.AuthRev < 2 && len(s.Users)+len(s.Roles) > 0 {
		return fmt.Errorf("%w: there are users or roles at auth revision %d", ErrBadEntry, s.AuthRev)
	}
	c := AuthChange{AuthRev: s.AuthRev}
	for _, role := range s.Roles {
		if err := r.change(KindRole, c, role); err != nil {
			return err
		}
	}
	for _, user := range s.Users {
		if err := r.change(KindUser, c, user); err != nil {
			return err
		}
	}
	if s.AuthRev < 2 || len(s.Users)+len(s.Roles) > 0 {
		return nil
	}
	// The removal of one who is not there tells the auth revision (invariant I11).
	return r.change(KindUser, c.removal(), &authpb.User{Name: []byte(RootName)})
}

func (r *Restorer) change(kind uint8, c AuthChange, m proto.Message) error {
	meta, err := encodeAuth(c, m)
	if err != nil {
		return err
	}
	return r.emit(drivers.Entry{Kind: kind, Meta: meta})
}

// Beside gives what the index has beside keys and members.
func (ix *Index) Beside() *Beside {
	s := &Beside{Alarms: slices.Clone(ix.alarms), AuthRev: ix.AuthRev}
	for l := range ix.Leases() {
		s.Leases = append(s.Leases, *l)
	}
	for _, u := range ix.Users() {
		s.Users = append(s.Users, u.User)
	}
	for _, r := range ix.Roles() {
		s.Roles = append(s.Roles, r.Role)
	}
	return s
}
