package etcdfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func marshal(tb testing.TB, kv *mvccpb.KeyValue) []byte {
	tb.Helper()
	b, err := proto.Marshal(kv)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// put and del are rows as etcd writes them.
func put(tb testing.TB, main, sub int64, key string, value []byte) Row {
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: main, ModRevision: main, Version: 1}
	return Row{Revision{main, sub}, false, marshal(tb, kv)}
}

func del(tb testing.TB, main, sub int64, key string) Row {
	return Row{Revision{main, sub}, true, marshal(tb, &mvccpb.KeyValue{Key: []byte(key)})}
}

func marker(main int64) Row { return Row{Revision: Revision{Main: main}} }

// history makes rows of requests with one to four changes each. Some values overflow their pages.
func history(tb testing.TB, rng *rand.Rand, n int) (rows []Row) {
	live := map[string]bool{}
	for main := int64(2); len(rows) < n; main++ {
		for sub := range 1 + rng.Int64N(4) {
			key := fmt.Sprintf("/k/%d/%d", sub, rng.IntN(200))
			if live[key] && rng.IntN(4) == 0 {
				delete(live, key)
				rows = append(rows, del(tb, main, sub, key))
				continue
			}
			size := rng.IntN(300)
			if rng.IntN(100) == 0 {
				size = rng.IntN(20_000)
			}
			live[key] = true
			rows = append(rows, put(tb, main, sub, key, bytes.Repeat([]byte{byte(main)}, size)))
		}
	}
	return rows
}

// full is a Meta in which everything is set.
func full() *Meta {
	return &Meta{
		Compact: 3, Index: 1234, Term: 7, ConfState: []byte(`{"voters":[1]}`), Version: StorageVersion, ClusterVersion: "3.6.0",
		Members: []Member{
			{ID: 0x1f, Name: "a", PeerURLs: []string{"http://a:2380"}, ClientURLs: []string{"http://a:2379"}},
			{ID: 0xfedcba9876543210, PeerURLs: []string{"http://b:2380"}, IsLearner: true},
		},
		Removed: []uint64{0xabc},
		Leases:  []Lease{{1, 60, 0}, {2, 100, 42}, {1 << 62, 5, 1}},
		Alarms:  []*pb.AlarmMember{{MemberID: 31, Alarm: pb.AlarmType_NOSPACE}},
		Auth: Auth{
			Enabled: true, Revision: 9,
			Users: []*authpb.User{{Name: []byte("root"), Password: []byte("$2a$"), Roles: []string{"root"}}, {Name: []byte("u")}},
			Roles: []*authpb.Role{{Name: []byte("root")}, {Name: []byte("r"), KeyPermission: []*authpb.Permission{{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}}}},
		},
	}
}

// write makes a finished database and gives its path.
func write(tb testing.TB, rows []Row, m *Meta) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "db")
	w, err := Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			tb.Error(err)
		}
	}()
	for _, row := range rows {
		if err := w.Add(row); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Finish(m); err != nil {
		tb.Fatal(err)
	}
	return path
}

func open(tb testing.TB, path string) *File {
	tb.Helper()
	f, err := Open(path, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	})
	return f
}

// all reads all rows and copies them.
func all(f *File) (rows []Row, err error) {
	for row, err := range f.Rows() {
		if err != nil {
			return rows, err
		}
		row.KeyValue = bytes.Clone(row.KeyValue)
		rows = append(rows, row)
	}
	return rows, nil
}

func sameRows(tb testing.TB, got, want []Row) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range got {
		if !sameRow(got[i], want[i]) {
			tb.Fatalf("row %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func sameRow(a, b Row) bool {
	return a.Revision == b.Revision && a.Tombstone == b.Tombstone && bytes.Equal(a.KeyValue, b.KeyValue)
}

// alter changes a database by bbolt, as another program would.
func alter(tb testing.TB, path string, change func(*bbolt.Tx) error) {
	tb.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		tb.Fatal(err)
	}
	if err := db.Update(change); err != nil {
		tb.Fatal(err)
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// file writes bytes into a new file.
func file(tb testing.TB, b []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "file")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
