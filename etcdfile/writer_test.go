package etcdfile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func unmarshalled(b []byte) (*mvccpb.KeyValue, error) {
	kv := &mvccpb.KeyValue{}
	return kv, proto.Unmarshal(b, kv)
}

func truncate(tb testing.TB, path string, size int64) {
	tb.Helper()
	if err := os.Truncate(path, size); err != nil {
		tb.Fatal(err)
	}
}

func create(tb testing.TB) (*Writer, string) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "db")
	w, err := Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	return w, path
}

// TestRefusedRows: rows that etcd would not have, or could not start with. Nothing is left of the file.
func TestRefusedRows(t *testing.T) {
	good := put(t, 5, 1, "a", nil)
	other := put(t, 6, 0, "a", nil)
	other.Main = 7
	tests := map[string]Row{
		"the same revision":     good,
		"the same as tombstone": del(t, 5, 1, "b"),
		"a lower sub":           put(t, 5, 0, "b", nil),
		"a lower revision":      put(t, 4, 9, "b", nil),
		"a negative sub":        {Revision{6, -1}, false, good.KeyValue},
		"another mod_revision":  other,
		"no key":                put(t, 6, 0, "", nil),
		"a tombstone of no key": {Revision{6, 0}, true, nil},
		"no message":            {Revision{6, 0}, false, []byte{0xff}},
	}
	for name, row := range tests {
		w, path := create(t)
		if err := w.Add(good); err != nil {
			t.Fatal(err)
		}
		if err := w.Add(row); !errors.Is(err, ErrRow) {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Add(put(t, 100, 0, "z", nil)); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: a row after that: %v", name, err)
		}
		if err := w.Finish(full()); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: finish after that: %v", name, err)
		}
		gone(t, w, path)
	}
	w, path := create(t)
	if err := w.Add(put(t, 0, 0, "a", nil)); !errors.Is(err, ErrRow) {
		t.Errorf("revision 0: %v", err)
	}
	gone(t, w, path)
}

// gone closes a Writer and sees that its file is not there.
func gone(t *testing.T, w *Writer, path string) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

func TestRefusedMeta(t *testing.T) {
	tests := map[string]func(*Meta){
		"a revision below the rows": func(m *Meta) { m.Revision = 4 },
		"a revision above all":      func(m *Meta) { m.Revision = 6 },
		"a conf state":              func(m *Meta) { m.ConfState = []byte("{") },
		"a user without a name":     func(m *Meta) { m.Auth.Users[0].Name = nil },
	}
	for name, change := range tests {
		w, path := create(t)
		if err := w.Add(put(t, 5, 1, "a", nil)); err != nil {
			t.Fatal(err)
		}
		m := full()
		change(m)
		if err := w.Finish(m); !errors.Is(err, ErrMeta) {
			t.Errorf("%s: %v", name, err)
		}
		gone(t, w, path)
	}
}

// TestExisting: no file is overwritten, nor removed.
func TestExisting(t *testing.T) {
	path := write(t, nil, full())
	if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	open(t, path)
	if _, err := Create(filepath.Join(t.TempDir(), "no", "db")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestUnfinished: a file is refused until Finish has made it whole, also if its process was killed.
func TestUnfinished(t *testing.T) {
	w, path := create(t)
	for i, row := range history(t, rand.New(rand.NewPCG(1, 2)), 3*batchRows) {
		if err := w.Add(row); err != nil {
			t.Fatal(err)
		}
		if i%(batchRows/2) == 0 {
			if _, err := Open(file(t, read(t, path)), Options{}); !errors.Is(err, ErrDamaged) {
				t.Errorf("after %d rows: %v", i, err)
			}
		}
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("while it is written: %v", err)
	}
	if err := w.Finish(full()); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	open(t, path)
}

// TestMemory: rows go through in memory for one batch, and come back in memory for a few pages.
func TestMemory(t *testing.T) {
	const rows, limit = 100_000, 48 << 20
	row := put(t, 2, 0, "/registry/pods/default/a", make([]byte, 1000))
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	i, most := 0, uint64(0)
	sample := func() {
		if i++; i%(rows/50) == 0 {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		}
	}
	path := fill(t, row, rows, sample)
	f := open(t, path)
	for _, err := range f.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		sample()
	}
	s, err := f.Status()
	if err != nil || s.Revision != rows+1 || s.TotalKey != 1 || i != 2*rows {
		t.Errorf("%+v of %d rows, %v", s, i, err)
	}
	t.Logf("%d bytes on disk, at most %d in memory", s.TotalSize, most-before.HeapInuse)
	if most > before.HeapInuse+limit || s.TotalSize < 2*limit {
		t.Errorf("%d bytes on disk, at most %d in memory", s.TotalSize, most-before.HeapInuse)
	}
}

// fill writes a row n times, as changes of one key.
func fill(tb testing.TB, row Row, n int, each func()) (path string) {
	tb.Helper()
	kv, err := unmarshalled(row.KeyValue)
	if err != nil {
		tb.Fatal(err)
	}
	w, path := create(tb)
	defer func() {
		if err := w.Close(); err != nil {
			tb.Error(err)
		}
	}()
	for i := range int64(n) {
		row.Main = i + 2
		kv.ModRevision, kv.Version = row.Main, i+1
		if row.KeyValue, err = (proto.MarshalOptions{}).MarshalAppend(row.KeyValue[:0], kv); err != nil {
			tb.Fatal(err)
		}
		if err := w.Add(row); err != nil {
			tb.Fatal(err)
		}
		each()
	}
	if err := w.Finish(&Meta{Compact: -1, Version: StorageVersion}); err != nil {
		tb.Fatal(err)
	}
	return path
}

// BenchmarkWrite and BenchmarkRead are for a million rows.
func BenchmarkWrite(b *testing.B) {
	row := put(b, 2, 0, "/registry/pods/default/a", make([]byte, 1000))
	for b.Loop() {
		if err := os.Remove(fill(b, row, 1_000_000, func() {})); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	path := fill(b, put(b, 2, 0, "/registry/pods/default/a", make([]byte, 1000)), 1_000_000, func() {})
	if err := AppendHash(path); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f := open(b, path)
		for _, err := range f.Rows() {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestVerifyHash: a snapshot that is read as it comes is told from one that was cut or altered, in whatever pieces it comes.
func TestVerifyHash(t *testing.T) {
	whole := make([]byte, 3*sector, 3*sector+HashSize)
	for i := range whole {
		whole[i] = byte(i * 7)
	}
	sum := sha256.Sum256(whole)
	whole = append(whole, sum[:]...)
	altered := bytes.Clone(whole)
	altered[700] ^= 1
	for name, c := range map[string]struct {
		content []byte
		want    error
	}{
		"whole": {whole, nil}, "altered": {altered, ErrHash}, "without a hash": {whole[:3*sector], ErrHash}, "cut": {whole[sector:], ErrHash}, "short": {whole[:10], ErrHash}, "empty": {nil, ErrHash},
	} {
		for _, r := range []io.Reader{bytes.NewReader(c.content), iotest.OneByteReader(bytes.NewReader(c.content)), iotest.DataErrReader(bytes.NewReader(c.content))} {
			if err := VerifyHash(r); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	broken := errors.New("broken")
	if err := VerifyHash(io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// TestNeeds: files of every shape are no larger than was said, and not much smaller than that.
func TestNeeds(t *testing.T) {
	always := func(size int) func(int, *rand.Rand) int { return func(int, *rand.Rand) int { return size } }
	for _, c := range []struct {
		name string
		rows int
		size func(i int, rng *rand.Rand) int
	}{
		{"nothing", 0, always(0)},
		{"one", 1, always(100)},
		{"keys alone", 30_000, always(0)},
		{"small", 10_000, always(100)},
		{"an object", 10_000, always(700)},
		{"three on a page", 5_000, always(1290)},
		{"half a page", 5_000, always(1980)},
		{"half a page and more", 5_000, always(2100)},
		{"nearly a page", 2_000, always(3900)},
		{"a page and more", 2_000, always(4100)},
		{"two pages and more", 2_000, always(8200)},
		{"large", 100, always(150_000)},
		{"the largest", 20, always(1_500_000)},
		{"many of the largest", 100, always(1_500_000)},
		{"small and half a page in turn", 5_000, func(i int, _ *rand.Rand) int { return 10 + i%2*1960 }},
		{"by chance", 10_000, func(_ int, rng *rand.Rand) int { return rng.IntN(4000) }},
		{"mostly small", 10_000, func(_ int, rng *rand.Rand) int {
			if rng.IntN(100) == 0 {
				return rng.IntN(100_000)
			}
			return rng.IntN(1000)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			var bytes int64
			var rows []Row
			for i := range c.rows {
				key, size := fmt.Sprintf("/registry/pods/%d", i), c.size(i, rng)
				bytes += int64(len(key) + size)
				rows = append(rows, put(t, 1<<40+int64(i), 0, key, make([]byte, size)))
			}
			path := write(t, rows, &Meta{})
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			needs := Needs(int64(c.rows), bytes)
			t.Logf("%d rows with %d bytes: %d, and %d were said", c.rows, bytes, info.Size(), needs)
			if info.Size() > needs || needs > 3*info.Size()+emptyBytes {
				t.Errorf("%d rows with %d bytes make %d, and %d were said", c.rows, bytes, info.Size(), needs)
			}
		})
	}
}
