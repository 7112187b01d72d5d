package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server/snapshot"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/sqllog/verify"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// serve opens a store on a log.
func serve(t *testing.T, log drivers.Log) *sqllog.Store {
	t.Helper()
	s, err := sqllog.Open(t.Context(), sqllog.Options{Log: log, Logger: discard(), Publish: func(*mvcc.Index, []*mvcc.Event) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func do(t *testing.T, s *sqllog.Store, requests ...any) {
	t.Helper()
	for _, r := range requests {
		if _, err := s.Do(t.Context(), r, 0); err != nil {
			t.Fatalf("%T: %v", r, err)
		}
	}
}

// taken takes a snapshot of a store, and gives its file.
func taken(t *testing.T, s *sqllog.Store) *etcdfile.File {
	t.Helper()
	f, err := etcdfile.Open(saved(t, s), etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// saved takes a snapshot of a store, and gives where it is.
func saved(t *testing.T, s *sqllog.Store) string {
	t.Helper()
	m := snapshot.New(snapshot.Options{Store: s, Dir: t.TempDir(), Logger: discard(), Raft: func() (term, index uint64) { return 2, 7 }})
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	path := filepath.Join(t.TempDir(), "db")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(out, stream); err != nil || n != stream.Size() {
		t.Fatalf("%d bytes of %d: %v", n, stream.Size(), err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func rows(t *testing.T, f *etcdfile.File) (all []string) {
	t.Helper()
	for row, err := range f.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%v %v %x", row.Revision, row.Tombstone, row.KeyValue))
	}
	return all
}

// filled has a bit of everything, compacted, with more behind.
func filled(t *testing.T) *sqllog.Store {
	t.Helper()
	s := serve(t, memory.NewStore().Open())
	do(t, s, &mvcc.Member{ClusterID: 9, Member: &pb.Member{ID: 3, Name: "one", PeerURLs: []string{"http://one:2380"}}}, &pb.LeaseGrantRequest{ID: 77, TTL: 600})
	for i := range 300 {
		do(t, s, &pb.PutRequest{Key: fmt.Append(nil, "k", i%40), Value: fmt.Append(nil, i), Lease: int64(i%2) * 77})
		if i%7 == 0 {
			do(t, s, &pb.DeleteRangeRequest{Key: fmt.Append(nil, "k", i%40), RangeEnd: fmt.Append(nil, "k", i%40, "z")})
		}
	}
	do(t, s, &pb.CompactionRequest{Revision: 200}, &pb.PutRequest{Key: []byte("empty")}, &pb.AuthRoleAddRequest{Name: "reader"},
		&pb.AuthUserAddRequest{Name: "ann", HashedPassword: "aGFzaA=="}, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 3, Alarm: pb.AlarmType_NOSPACE})
	return s
}

// without gives a file's meta without what a restore leaves out, or has its own of.
func without(m *etcdfile.Meta) etcdfile.Meta {
	c := *m
	c.Members, c.Removed, c.ConfState, c.Index, c.Term = nil, nil, nil, 0, 0
	return c
}

// TestRoundTrip: what a store that was restored from a snapshot gives as its own is the same, and the store is sound and goes on.
func TestRoundTrip(t *testing.T) {
	first := taken(t, filled(t))
	if m := first.Meta(); len(m.Members) != 1 || m.Members[0].Name != "one" || m.Index != 7 || m.Term != 2 || string(m.ConfState) != `{"voters":[3],"auto_leave":false}` {
		t.Errorf("the snapshot has %+v, %s", m, m.ConfState)
	}
	mem := memory.NewStore()
	log := mem.Open()
	end, err := Write(t.Context(), log, first, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := log.ReadIndex(t.Context()); err != nil || b.End != end {
		t.Errorf("the log ends at %v, %v, and not at %v", b.End, err, end)
	}
	sum, err := verify.Walk(t.Context(), log, verify.Options{Report: func(f verify.Finding) { t.Error(f) }})
	if err != nil || sum.Keys == 0 || sum.Leases != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	s := serve(t, mem.Open())
	second := taken(t, s)
	if a, b := rows(t, first), rows(t, second); !reflect.DeepEqual(a, b) {
		t.Errorf("%d rows became %d", len(a), len(b))
	}
	if a, b := fmt.Sprintf("%+v", without(first.Meta())), fmt.Sprintf("%+v", without(second.Meta())); a != b {
		t.Errorf("%s\nbecame\n%s", a, b)
	}
	again := memory.NewStore().Open()
	if same, err := Write(t.Context(), again, first, Options{}); err != nil || same != end {
		t.Errorf("restored once more it ends at %v, %v, and not at %v", same, err, end)
	}
	do(t, s, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 3, Alarm: pb.AlarmType_NOSPACE}, &pb.PutRequest{Key: []byte("next")})
	if rev := s.Index().Rev; rev != first.Meta().Revision+1 {
		t.Errorf("the next revision is %d", rev)
	}
}

// TestBump: the revision is raised, compacted there, and the keys are as they were; and a snapshot of that has it, too.
func TestBump(t *testing.T) {
	first := taken(t, filled(t))
	rev := first.Meta().Revision
	mem := memory.NewStore()
	if _, err := Write(t.Context(), mem.Open(), first, Options{Bump: 1000}); err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Walk(t.Context(), mem.Open(), verify.Options{Report: func(f verify.Finding) { t.Error(f) }}); err != nil {
		t.Error(err)
	}
	s := serve(t, mem.Open())
	ix := s.Index()
	if ix.Rev != rev+1000 || ix.Compact != rev+1000 {
		t.Errorf("the store is at [%d, %d], the snapshot at %d", ix.Compact, ix.Rev, rev)
	}
	second := taken(t, s)
	if m := second.Meta(); m.Revision != rev+1000 || m.Compact != rev+1000 {
		t.Errorf("its snapshot is at [%d, %d]", m.Compact, m.Revision)
	}
	all := rows(t, second)
	if want := fmt.Sprintf("%d.0 false ", rev+1000); len(all) == 0 || all[len(all)-1] != want {
		t.Errorf("the last row of %d is not %q", len(all), want)
	}
	if ix.Keys() != int64(len(all)-1) {
		t.Errorf("%d rows of %d keys", len(all), ix.Keys())
	}
	third := memory.NewStore()
	if _, err := Write(t.Context(), third.Open(), second, Options{}); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, taken(t, serve(t, third.Open()))); !reflect.DeepEqual(got, all) {
		t.Errorf("%d rows became %d", len(all), len(got))
	}
}

// TestMembers: the members of the new cluster are recorded, the same on each.
func TestMembers(t *testing.T) {
	first := taken(t, filled(t))
	founders := &mvcc.Bootstrap{ClusterID: 5, Members: []*pb.Member{{ID: 1, Name: "a", PeerURLs: []string{"http://a"}}, {ID: 2, Name: "b", PeerURLs: []string{"http://b"}}}}
	var ends []drivers.End
	for range 2 {
		log := memory.NewStore().Open()
		end, err := Write(t.Context(), log, first, Options{Members: founders})
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
		ix := serve(t, log).Index()
		if m := ix.Members(); len(m) != 2 || ix.Cluster() != 5 || m[0].Name != "a" || !m[0].Founder() || m[1].Founder() {
			t.Errorf("cluster %d has %v", ix.Cluster(), m)
		}
	}
	if ends[0] != ends[1] {
		t.Errorf("two members end at %v and %v", ends[0], ends[1])
	}
}

// TestRefused: a file that asks for passwords, and a log that is not empty.
func TestRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	w, err := etcdfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	root := &authpb.User{Name: []byte("root"), Roles: []string{"root"}}
	meta := &etcdfile.Meta{Compact: -1, Auth: etcdfile.Auth{Enabled: true, Revision: 4, Users: []*authpb.User{root}, Roles: []*authpb.Role{{Name: []byte("root")}}}}
	if err := errors.Join(w.Finish(meta), w.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(t.Context(), memory.NewStore().Open(), f, Options{}); !errors.Is(err, ErrAuth) {
		t.Error(err)
	}
	mem := memory.NewStore()
	do(t, serve(t, mem.Open()), &pb.PutRequest{Key: []byte("k")})
	if _, err := Write(t.Context(), mem.Open(), taken(t, filled(t)), Options{}); !errors.Is(err, drivers.ErrConflict) {
		t.Error(err)
	}
}
