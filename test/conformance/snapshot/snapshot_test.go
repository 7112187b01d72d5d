package snapshot

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
)

func open(t *testing.T, path string) *etcdfile.File {
	t.Helper()
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// rewrite reads a file and writes what it has read into another, a snapshot.
func rewrite(t *testing.T, f *etcdfile.File) (path string) {
	t.Helper()
	return write(t, f.Meta(), func(add func(etcdfile.Row)) {
		for row, err := range f.Rows() {
			if err != nil {
				t.Fatal(err)
			}
			add(row)
		}
	})
}

// write makes a snapshot of the rows that fill adds.
func write(t *testing.T, m *etcdfile.Meta, fill func(add func(etcdfile.Row))) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "snapshot")
	w, err := etcdfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	fill(func(row etcdfile.Row) {
		if err := w.Add(row); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Finish(m); err != nil {
		t.Fatal(err)
	}
	if err := etcdfile.AppendHash(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// sameStatus compares what etcdutl says of a file with what etcdfile does.
func sameStatus(t *testing.T, path string) etcdfile.Status {
	t.Helper()
	got, err := open(t, path).Status()
	if err != nil {
		t.Fatal(err)
	}
	if want := status(t, path); got != want {
		t.Errorf("status %+v, etcdutl says %+v", got, want)
	}
	return got
}

// same compares what two servers answer at all revisions from one on.
func same(t *testing.T, a, b *server, from int64) {
	t.Helper()
	if a.revision() != b.revision() {
		t.Fatalf("revisions %d and %d", a.revision(), b.revision())
	}
	for r := from; r <= a.revision(); r++ {
		if x, y := a.keys(r), b.keys(r); !slices.Equal(x, y) {
			t.Fatalf("at revision %d:\n%q\n%q", r, x, y)
		}
		if x, y := a.hash(r), b.hash(r); x != y {
			t.Errorf("hash %s, and %s", x, y)
		}
	}
	if x, y := a.leases(), b.leases(); !slices.Equal(x, y) {
		t.Errorf("leases:\n%q\n%q", x, y)
	}
}

// TestRewritten: what a real etcd has, read and written, is the same to another etcd: with history, tombstones, leases,
// users and roles, an alarm and a compaction.
func TestRewritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	original := start(t, t.TempDir())
	sameStatus(t, original.save())
	check := func(from int64) {
		saved := original.save()
		rewritten := rewrite(t, open(t, saved))
		// Pages may be fuller; all that is in them is the same.
		want, got := sameStatus(t, saved), sameStatus(t, rewritten)
		if want.TotalSize, got.TotalSize = 0, 0; want != got {
			t.Errorf("status %+v, written again %+v", want, got)
		}
		same(t, original, start(t, restore(t, rewritten)), from)
	}
	check(1)
	original.grant()
	original.change(rng, 150)
	original.settings()
	check(1)
	if _, err := original.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	at := original.revision()
	original.txn(del("\x00", "\x00")) // a revision of tombstones alone
	original.compact(at + 1)
	// At the compact revision itself etcd remembers the hash of what was there before.
	check(at + 2)
	original.change(rng, 100)
	check(at + 2)
	original.compact(at + 50)
	check(at + 51)
}

// settings makes a server have something in all its buckets.
func (s *server) settings() {
	s.t.Helper()
	for _, name := range []string{"r", "another"} {
		if _, err := s.RoleAdd(s.t.Context(), &pb.AuthRoleAddRequest{Name: name}); err != nil {
			s.t.Fatal(err)
		}
	}
	permission := &authpb.Permission{PermType: authpb.READ, Key: []byte("a"), RangeEnd: []byte("b")}
	if _, err := s.RoleGrantPermission(s.t.Context(), &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: permission}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.UserAdd(s.t.Context(), &pb.AuthUserAddRequest{Name: "u", Password: "p"}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.Alarm(s.t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		s.t.Fatal(err)
	}
	// A learner that was removed, and one that stays.
	gone := s.learner("http://127.0.0.1:1", "http://127.0.0.1:2")
	if _, err := s.MemberRemove(s.t.Context(), &pb.MemberRemoveRequest{ID: gone}); err != nil {
		s.t.Fatal(err)
	}
	s.learner("http://127.0.0.1:3")
}

func (s *server) learner(urls ...string) (id uint64) {
	s.t.Helper()
	r, err := s.MemberAdd(s.t.Context(), &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Member.ID
}

// TestWritten: a file that was never an etcd's serves what its rows say.
func TestWritten(t *testing.T) {
	const compact, last = 50, 400
	rng := rand.New(rand.NewPCG(2, 2))
	type version struct {
		row etcdfile.Row
		kv  *mvccpb.KeyValue
	}
	live := map[string]*mvccpb.KeyValue{}
	history := map[int64][]string{} // keys by revision
	var versions []version
	for main := int64(2); main <= last; main++ {
		sub := int64(0)
		for range 1 + rng.IntN(3) {
			key := fmt.Sprintf("k%d-%d", sub, rng.IntN(20))
			row := etcdfile.Row{Revision: etcdfile.Revision{Main: main, Sub: sub}}
			kv := &mvccpb.KeyValue{Key: []byte(key), CreateRevision: main, ModRevision: main, Version: 1, Value: fmt.Append(nil, main)}
			if old := live[key]; old != nil && rng.IntN(3) == 0 {
				row.Tombstone, kv = true, &mvccpb.KeyValue{Key: []byte(key)}
				delete(live, key)
			} else {
				if old != nil {
					kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
				}
				kv.Lease = rng.Int64N(3)
				live[key] = kv
			}
			var err error
			if row.KeyValue, err = proto.Marshal(kv); err != nil {
				t.Fatal(err)
			}
			versions = append(versions, version{row, kv})
			sub++
		}
		for _, kv := range live {
			history[main] = append(history[main], kv.String())
		}
	}
	// What the compaction keeps: what is alive at it, and its own tombstones.
	newest := map[string]int{}
	for i, v := range versions {
		if v.row.Main <= compact {
			newest[string(v.kv.Key)] = i
		}
	}
	m := &etcdfile.Meta{
		Compact: compact, Index: 100, Term: 3, Version: etcdfile.StorageVersion, ClusterVersion: etcdfile.StorageVersion,
		Leases: []etcdfile.Lease{{ID: 1, TTL: 5000}, {ID: 2, TTL: 6000, Remaining: 3000}},
	}
	path := write(t, m, func(add func(etcdfile.Row)) {
		for i, v := range versions {
			if v.row.Main > compact || newest[string(v.kv.Key)] == i && (!v.row.Tombstone || v.row.Main == compact) {
				add(v.row)
			}
		}
	})
	sameStatus(t, path)
	s := start(t, restore(t, path))
	if s.revision() != last {
		t.Errorf("revision %d", s.revision())
	}
	for r := int64(compact); r <= last; r++ {
		want := history[r]
		slices.Sort(want)
		got := s.keys(r)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("at revision %d:\n%q, want\n%q", r, got, want)
		}
		if r%25 != 1 {
			continue
		}
		if want := hashed(t, path, r); s.hash(r) != want {
			t.Errorf("hash %s, etcdutl says %s", s.hash(r), want)
		}
	}
	if got := s.leases(); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if r, err := s.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 2}); err != nil || r.GrantedTTL != 6000 || r.TTL > 3000 {
		t.Errorf("%v, %v", r, err)
	}
}

// TestAuth: an etcd that is restored of a file with authentication lets in whom it should.
func TestAuth(t *testing.T) {
	password, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	m := &etcdfile.Meta{Compact: -1, Version: etcdfile.StorageVersion, Auth: etcdfile.Auth{
		Enabled: true, Revision: 5,
		Users: []*authpb.User{{Name: []byte("root"), Password: password, Roles: []string{"root"}}},
		Roles: []*authpb.Role{{Name: []byte("root")}},
	}}
	s := start(t, restore(t, write(t, m, func(func(etcdfile.Row)) {})))
	if _, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")}); rpctypes.Error(err) != rpctypes.ErrUserEmpty {
		t.Errorf("without a user: %v", err)
	}
	var r struct {
		Enabled  bool   `json:"enabled"`
		Revision uint64 `json:"authRevision"`
	}
	unmarshal(t, run(t, "etcdctl", "--endpoints", s.Endpoint(), "--user", "root:secret", "auth", "status", "--write-out", "json"), &r)
	if !r.Enabled || r.Revision != 5 {
		t.Errorf("%+v", r)
	}
}

// hashed is what etcdutl hashkv says of a snapshot, as server.hash says it.
func hashed(t *testing.T, path string, revision int64) string {
	t.Helper()
	var r struct{ Hash, HashRevision, CompactRevision int64 }
	unmarshal(t, run(t, "etcdutl", "hashkv", copied(t, path), "--rev", fmt.Sprint(revision), "--write-out", "json"), &r)
	return fmt.Sprintf("%08x at %d, compacted at %d", r.Hash, r.HashRevision, r.CompactRevision)
}

// copied copies a file: etcdutl and bbolt may write to it.
func copied(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestBumped: a file whose revision etcdutl has raised, once and again, is read as etcd takes it.
func TestBumped(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	s := start(t, t.TempDir())
	s.grant()
	s.change(rng, 100)
	s.compact(40)
	for range 2 {
		at := s.revision()
		dir := restore(t, s.save(), "--bump-revision", "1000", "--mark-compacted")
		f := open(t, copied(t, database(dir))) // etcd wants it for itself
		if m := f.Meta(); m.Revision != at+1000 || m.Compact != at+1000 || f.Hashed() {
			t.Errorf("revision %d, compact revision %d after %d", m.Revision, m.Compact, at)
		}
		rewritten := rewrite(t, f)
		s = start(t, dir)
		same(t, s, start(t, restore(t, rewritten)), at+1000)
		s.change(rng, 50)
	}
}

// TestUnfinishedCompaction: a compaction that was scheduled leaves of a file what etcd's does after a start.
func TestUnfinishedCompaction(t *testing.T) {
	s := start(t, t.TempDir())
	s.grant()
	s.change(rand.New(rand.NewPCG(4, 4)), 200)
	s.compact(30)
	s.txn(del("\x00", "\x00"))
	tombstones := s.revision()
	s.change(rand.New(rand.NewPCG(5, 5)), 20)
	saved := s.save()
	for _, at := range []int64{31, 77, 120, tombstones, tombstones + 1, s.revision()} {
		path := copied(t, saved)
		if err := os.Truncate(path, status(t, path).TotalSize); err != nil {
			t.Fatal(err)
		}
		schedule(t, path, at)
		f := open(t, path)
		compacting := start(t, restore(t, path, "--skip-hash-check"))
		same(t, compacting, start(t, restore(t, rewrite(t, f))), at+1)
		sameRows(t, f, finished(compacting, at))
	}
}

const scheduledKey, finishedKey = "scheduledCompactRev", "finishedCompactRev"

func schedule(t *testing.T, path string, revision int64) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	value := append(binary.BigEndian.AppendUint64(nil, uint64(revision)), append([]byte("_"), make([]byte, 8)...)...)
	for range 2 {
		err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte(scheduledKey), value) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// finished saves a snapshot when etcd has finished a compaction.
func finished(s *server, revision int64) *etcdfile.File {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		path := s.save()
		db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true})
		if err != nil {
			s.t.Fatal(err)
		}
		done := false
		err = db.View(func(tx *bbolt.Tx) error {
			v := tx.Bucket([]byte("meta")).Get([]byte(finishedKey))
			done = len(v) > 8 && binary.BigEndian.Uint64(v) == uint64(revision)
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			s.t.Fatal(err)
		}
		if done {
			return open(s.t, path)
		}
	}
	s.t.Fatalf("waited in vain for the compaction at %d", revision)
	return nil
}

func sameRows(t *testing.T, a, b *etcdfile.File) {
	t.Helper()
	list := func(f *etcdfile.File) (all []string) {
		for row, err := range f.Rows() {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%v %v %x", row.Revision, row.Tombstone, row.KeyValue))
		}
		return all
	}
	if x, y := list(a), list(b); !slices.Equal(x, y) {
		t.Errorf("%d rows, and etcd has kept %d", len(x), len(y))
	}
}
