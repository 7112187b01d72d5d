package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// scripted is a store that does what a test wants.
type scripted func(ctx context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error)

func (s scripted) Snapshot(ctx context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
	return s(ctx, begin)
}

func maker(dir string, s Store) *Maker {
	return New(Options{Store: s, Dir: dir, Logger: slog.New(slog.DiscardHandler), Raft: func() (term, index uint64) { return 3, 9 }})
}

func row(main int64) *mvcc.Row {
	return &mvcc.Row{Main: main, KeyValue: mvcc.AppendKeyValue(nil, fmt.Sprint("k", main), &mvcc.Version{Main: main, Create: main, Count: 1}, []byte("v"))}
}

// state is an index at a revision, with what the requests say.
func state(t *testing.T, rev int64, requests ...any) *mvcc.Index {
	t.Helper()
	ix := mvcc.NewIndex()
	for len(requests) > 0 || ix.Rev < rev {
		r := any(&pb.PutRequest{Key: []byte("k")})
		if len(requests) > 0 {
			r, requests = requests[0], requests[1:]
		}
		b, results := mvcc.Evaluate(ix, mvcc.Env{}, []any{r})
		if results[0].Err != nil {
			t.Fatal(results[0].Err)
		}
		ix = b.Index(drivers.End{Position: ix.End.Position + int64(len(b.Entries()))})
	}
	return ix
}

// rowsTo gives rows up to a revision.
func rowsTo(rev int64) func(add func(*mvcc.Row) error) error {
	return func(add func(*mvcc.Row) error) error {
		for main := int64(2); main <= rev; main++ {
			if err := add(row(main)); err != nil {
				return err
			}
		}
		return nil
	}
}

// giving is a store that has rows up to a revision.
func giving(t *testing.T, rev int64) scripted {
	return func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
		add, err := begin()
		if err == nil {
			err = rowsTo(rev)(add)
		}
		return state(t, rev), err
	}
}

// read gives the file that a stream makes.
func read(t *testing.T, s *etcdfile.Stream) *etcdfile.File {
	t.Helper()
	b, err := io.ReadAll(s)
	if err == nil && int64(len(b)) != s.Size() {
		err = fmt.Errorf("%d bytes of %d", len(b), s.Size())
	}
	path := filepath.Join(t.TempDir(), "db")
	if err = errors.Join(err, s.Close(), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func revisions(t *testing.T, f *etcdfile.File) (all []int64) {
	t.Helper()
	for row, err := range f.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, row.Main)
	}
	return all
}

// vacant checks that nothing is left in a directory.
func vacant(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("there is %v left, %v", left, err)
	}
}

// TestSnapshotOpen: the file has what the store gives, and no name from the moment on at which it is whole.
func TestSnapshotOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "when needed")
	member := &pb.Member{ID: 1, Name: "one", PeerURLs: []string{"http://one"}}
	learner := &pb.Member{ID: 2, Name: "two", PeerURLs: []string{"http://two"}, IsLearner: true}
	s := giving(t, 20)
	m := maker(dir, s)
	m.o.Members = func() []*pb.Member { return []*pb.Member{member, learner} }
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vacant(t, dir)
	f := read(t, stream)
	if got := revisions(t, f); len(got) != 19 || got[0] != 2 || !f.Hashed() {
		t.Errorf("%v", got)
	}
	meta := f.Meta()
	if meta.Revision != 20 || meta.Term != 3 || meta.Index != 9 || len(meta.Members) != 2 || !meta.Members[1].IsLearner || string(meta.ConfState) != `{"voters":[1],"learners":[2],"auto_leave":false}` {
		t.Errorf("%+v, %s", meta, meta.ConfState)
	}
}

// TestSnapshotMeta: what is no key comes along.
func TestSnapshotMeta(t *testing.T) {
	ix := state(t, 2, &mvcc.Member{ClusterID: 9, Member: &pb.Member{ID: 3, Name: "one"}}, &pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.PutRequest{Key: []byte("k")},
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 3, Alarm: pb.AlarmType_CORRUPT}, &pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthUserAddRequest{Name: "u"})
	m := maker(t.TempDir(), scripted(func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
		add, err := begin()
		if err == nil {
			err = rowsTo(ix.Rev)(add)
		}
		return ix, err
	}))
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	meta := read(t, stream).Meta()
	if len(meta.Members) != 1 || len(meta.Leases) != 1 || meta.Leases[0].TTL != 60 || len(meta.Alarms) != 1 || len(meta.Auth.Users) != 1 || len(meta.Auth.Roles) != 1 ||
		meta.Auth.Revision != 3 || meta.Auth.Enabled || meta.Version != etcdfile.StorageVersion {
		t.Errorf("%+v", meta)
	}
}

// TestSnapshotFails: whatever fails, and wherever, is told and leaves nothing.
func TestSnapshotFails(t *testing.T) {
	broken := errors.New("broken")
	for name, s := range map[string]scripted{
		"before the first row": func(context.Context, func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) { return nil, broken },
		"between rows": func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
			add, err := begin()
			return nil, errors.Join(err, rowsTo(50)(add), broken)
		},
		"the second time": func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
			for range 2 {
				add, err := begin()
				if err = errors.Join(err, rowsTo(50)(add)); err != nil {
					return nil, err
				}
			}
			return nil, broken
		},
	} {
		dir := t.TempDir()
		if _, err := maker(dir, s).Open(t.Context()); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
		vacant(t, dir)
	}
	// Rows that no etcd takes, and no room for a directory.
	dir := t.TempDir()
	_, err := maker(dir, scripted(func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
		add, err := begin()
		return state(t, 5), errors.Join(err, add(row(5)), add(row(4)))
	})).Open(t.Context())
	if !errors.Is(err, etcdfile.ErrRow) {
		t.Errorf("rows out of order: %v", err)
	}
	vacant(t, dir)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := maker(file, giving(t, 5)).Open(t.Context()); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// TestSnapshotBeginsAnew: of a state that was lost on the way nothing is in the file.
func TestSnapshotBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	stream, err := maker(dir, scripted(func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
		for _, rev := range []int64{30, 3, 12} {
			add, err := begin()
			if err = errors.Join(err, rowsTo(rev)(add)); err != nil {
				return nil, err
			}
		}
		return state(t, 12), nil
	})).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := revisions(t, read(t, stream)); len(got) != 11 || got[10] != 12 {
		t.Errorf("%v", got)
	}
	vacant(t, dir)
}

// TestSnapshotLeftovers: what a crash has left is removed, and nothing else.
func TestSnapshotLeftovers(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, prefix+"1"), 0o700), os.WriteFile(filepath.Join(dir, prefix+"1", "db"), []byte("half"), 0o600),
		os.WriteFile(filepath.Join(dir, "keelson.db"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	maker(dir, nil)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "keelson.db" {
		t.Errorf("%v, %v", left, err)
	}
}

// TestSnapshotTurns: one is made at a time; who gives up waiting is told so, and who waits gets one.
func TestSnapshotTurns(t *testing.T) {
	begun, go_ := make(chan struct{}), make(chan struct{})
	s := giving(t, 5)
	m := maker(t.TempDir(), scripted(func(ctx context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
		begun <- struct{}{}
		<-go_
		return s(ctx, begin)
	}))
	type result struct {
		stream *etcdfile.Stream
		err    error
	}
	results := make(chan result)
	open := func(ctx context.Context) {
		stream, err := m.Open(ctx)
		results <- result{stream, err}
	}
	go open(t.Context())
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	go open(ctx)
	cancel()
	if r := <-results; !errors.Is(r.err, context.Canceled) {
		t.Errorf("who gave up: %v", r.err)
	}
	go open(t.Context())
	go_ <- struct{}{}
	<-begun
	go_ <- struct{}{}
	var files [][]byte
	for range 2 {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		b, err := io.ReadAll(r.stream)
		if err = errors.Join(err, r.stream.Close()); err != nil {
			t.Fatal(err)
		}
		files = append(files, b)
	}
	if !slices.EqualFunc(files[:1], files[1:], bytes.Equal) {
		t.Error("two of one state differ")
	}
}

// TestSnapshotGivenUp: a client that goes away ends the making.
func TestSnapshotGivenUp(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := maker(dir, scripted(func(_ context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
		add, err := begin()
		if err = errors.Join(err, add(row(2))); err != nil {
			return nil, err
		}
		cancel()
		return nil, add(row(3))
	})).Open(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	vacant(t, dir)
}

// TestTakeReadsBack: a file that has become another one since it was written is no backup, and what is sound comes whole after it was read back.
func TestTakeReadsBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(b []byte) []byte
		want  error
	}{
		{"nothing", func(b []byte) []byte { return b }, nil},
		{"value", func(b []byte) []byte { return bytes.Replace(b, []byte("k7"), []byte("k8"), 1) }, ErrAltered},
		{"page", func(b []byte) []byte { clear(b[len(b)/2 : len(b)/2+4096]); return b }, etcdfile.ErrDamaged},
	} {
		m := maker(t.TempDir(), giving(t, 1000))
		path := filepath.Join(t.TempDir(), "db")
		f, err := m.make(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, c.alter(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.check(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("with another %s: %v", c.name, err)
		}
		all, err := io.ReadAll(f.stream)
		if err != nil || int64(len(all)) != f.stream.Size() {
			t.Errorf("%s: %d bytes of %d, %v", c.name, len(all), f.stream.Size(), err)
		}
		if err := f.stream.Close(); err != nil {
			t.Error(err)
		}
	}
	m := maker(t.TempDir(), giving(t, 1000))
	stream, revision, err := m.Take(t.Context())
	if err != nil || revision != 1000 {
		t.Fatalf("%d, %v", revision, err)
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}
