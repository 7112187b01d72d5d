package etcdfile

import (
	"bytes"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// TestRoundTrip: what was written is read, bbolt finds nothing wrong with it, and it is written the same again.
func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 2, 100, batchRows, 3*batchRows + 7} {
		rows, m := history(t, rng, n), full()
		path := write(t, rows, m)
		f := open(t, path)
		got, err := all(f)
		if err != nil {
			t.Fatal(err)
		}
		sameRows(t, got, rows)
		m.Revision = 3
		if len(rows) > 0 {
			m.Revision = max(m.Revision, rows[len(rows)-1].Main)
		}
		sameMeta(t, f.Meta(), m)
		checked(t, path, rows)
		if again := write(t, got, f.Meta()); !bytes.Equal(read(t, again), read(t, path)) {
			t.Errorf("%d rows: the same content makes another file", n)
		}
	}
}

func sameMeta(t *testing.T, got, want *Meta) {
	t.Helper()
	messages := func(m *Meta) (all []proto.Message) {
		for _, a := range m.Alarms {
			all = append(all, a)
		}
		for _, u := range m.Auth.Users {
			all = append(all, u)
		}
		for _, r := range m.Auth.Roles {
			all = append(all, r)
		}
		return all
	}
	a, b := messages(got), messages(want)
	if len(a) != len(b) {
		t.Fatalf("%v, want %v", a, b)
	}
	for i := range a {
		// Users and roles come by their names.
		if !proto.Equal(a[i], b[i]) && !proto.Equal(a[i], b[len(b)-1]) && !proto.Equal(a[i], b[len(b)-2]) {
			t.Errorf("%v, want %v", a[i], b[i])
		}
	}
	plain := func(m *Meta) Meta {
		c := *m
		c.Alarms, c.Auth.Users, c.Auth.Roles = nil, nil, nil
		return c
	}
	if a, b := plain(got), plain(want); !reflect.DeepEqual(a, b) {
		t.Errorf("%+v, want %+v", a, b)
	}
}

// checked has bbolt check a file, and read the rows.
func checked(t *testing.T, path string, rows []Row) {
	t.Helper()
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		for _, name := range append(plainBuckets(), metaBucket) {
			if tx.Bucket([]byte(name)) == nil {
				t.Errorf("no bucket %s", name)
			}
		}
		i := 0
		return tx.Bucket([]byte(keyBucket)).ForEach(func(k, v []byte) error {
			row, _, err := parseRow(k, v)
			if err != nil || i == len(rows) || !sameRow(row, rows[i]) {
				t.Fatalf("row %d: %v, %v", i, row, err)
			}
			i++
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// TestStatus compares with the sum over what bbolt reads.
func TestStatus(t *testing.T) {
	rows := []Row{put(t, 2, 0, "a", []byte("1")), put(t, 3, 0, "b", nil), put(t, 3, 1, "c", nil), put(t, 4, 0, "a", nil), del(t, 5, 0, "b")}
	path := write(t, rows, full())
	if err := AppendHash(path); err != nil {
		t.Fatal(err)
	}
	want := Status{Revision: 5, TotalKey: 2, Version: "3.6.0"}
	db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	err = db.View(func(tx *bbolt.Tx) error {
		want.TotalSize = tx.Size()
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			sum.Write(name)
			return b.ForEach(func(k, v []byte) error {
				sum.Write(k)
				sum.Write(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	want.Hash = sum.Sum32()
	if got, err := open(t, path).Status(); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

// TestReadPart: a reader may stop, and several may read at once.
func TestReadPart(t *testing.T) {
	rows := history(t, rand.New(rand.NewPCG(2, 2)), 500)
	f := open(t, write(t, rows, full()))
	i := 0
	for a, err := range f.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		for b, err := range f.Rows() {
			if err != nil || !sameRow(b, rows[0]) {
				t.Fatalf("%v, %v", b, err)
			}
			break
		}
		if !sameRow(a, rows[i]) {
			t.Fatalf("row %d is %v, want %v", i, a, rows[i])
		}
		if i++; i == 300 {
			break
		}
	}
}

// TestKeyValueScan: what is found in a key-value, and what is refused, is what unmarshalling finds.
func TestKeyValueScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	seeds := []proto.Message{
		&pb.PutRequest{Key: []byte("key"), Value: []byte("value"), Lease: 7},
		&pb.ResponseHeader{ClusterId: 1, MemberId: 1 << 63, Revision: 9, RaftTerm: 1},
	}
	valid := 0
	for range 50_000 {
		b := bytes.Clone(put(t, 5, 0, "key", []byte("value")).KeyValue)
		if n := rng.IntN(4); n < len(seeds) {
			b, _ = proto.Marshal(seeds[n])
		}
		for range rng.IntN(3) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		key, mod, err := scanKeyValue(b)
		kv, bad := unmarshalled(b)
		if (err != nil) != (bad != nil) || err == nil && (!bytes.Equal(key, kv.Key) || mod != kv.ModRevision) {
			t.Fatalf("%x: %q %d %v, want %v %v", b, key, mod, err, kv, bad)
		}
		if err == nil {
			valid++
		}
	}
	if valid < 1000 {
		t.Errorf("only %d valid ones", valid)
	}
}

// TestWriterKeepsNothing: the bytes of a row may be used again at once.
func TestWriterKeepsNothing(t *testing.T) {
	rows := history(t, rand.New(rand.NewPCG(4, 4)), 2000)
	rows = append(rows, put(t, rows[len(rows)-1].Main+1, 0, "great", bytes.Repeat([]byte("x"), batchBytes+1)))
	rows = append(rows, put(t, rows[len(rows)-1].Main+1, 0, "small", nil))
	path := t.TempDir() + "/db"
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var buf []byte
	for _, row := range rows {
		buf = append(buf[:0], row.KeyValue...)
		row.KeyValue = buf
		if err := w.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(full()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := all(open(t, path))
	if err != nil {
		t.Fatal(err)
	}
	sameRows(t, got, rows)
}

// TestStream: the file and its hash come whatever the sizes of the reads, and a file that shrinks is an error.
func TestStream(t *testing.T) {
	path := write(t, history(t, rand.New(rand.NewPCG(5, 5)), 300), full())
	database := read(t, path)
	for _, size := range []int{1, 7, 32, 4096, 1 << 20} {
		s, err := OpenStream(path)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if n, err := io.CopyBuffer(onlyWriter{&got}, onlyReader{s}, make([]byte, size)); err != nil || n != s.Size() {
			t.Fatalf("%d bytes of %d, %v", n, s.Size(), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes()[:len(database)], database) || got.Len() != len(database)+HashSize {
			t.Fatal("another file")
		}
		if f := open(t, file(t, got.Bytes())); !f.Hashed() {
			t.Error("no hash")
		}
	}
	copied := file(t, database)
	s, err := OpenStream(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	truncate(t, copied, int64(len(database)-1))
	if _, err := io.Copy(io.Discard, s); err != io.ErrUnexpectedEOF {
		t.Errorf("a file that shrank: %v", err)
	}
}

type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }
