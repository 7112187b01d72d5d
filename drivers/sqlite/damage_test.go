package sqlite

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// writtenFile is a log's file with some content, closed.
func writtenFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	l, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 20, 20, 500)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// readAll reads a log in all ways, and gives the first error.
func readAll(t *testing.T, path string, readOnly bool) error {
	t.Helper()
	l, err := Open(t.Context(), Options{Path: path, ReadOnly: readOnly})
	if err != nil {
		return err
	}
	var positions []int64
	for _, values := range []bool{false, true} {
		positions = positions[:0]
		err = errors.Join(err, l.Scan(t.Context(), drivers.ScanOptions{Values: values}, func(es []drivers.Entry) error {
			for _, e := range es {
				positions = append(positions, e.Position)
			}
			return nil
		}))
	}
	err = errors.Join(err, l.Values(t.Context(), positions, make([][]byte, len(positions))))
	return errors.Join(err, l.Close())
}

func TestWhatIsNotALogIsLeftAlone(t *testing.T) {
	schema := func(sqls ...string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			db, err := sql.Open("sqlite3", path)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sqls {
				if _, err := db.Exec(s); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	content := func(b []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	truncated := func(part int64) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			whole := writtenFile(t)
			data, err := os.ReadFile(whole)
			if err != nil {
				t.Fatal(err)
			}
			content(data[:int64(len(data))*part/100])(t, path)
		}
	}
	newer := func(t *testing.T, path string) {
		data, err := os.ReadFile(writtenFile(t))
		if err != nil {
			t.Fatal(err)
		}
		data[63] = 99 // user_version
		content(data)(t, path)
	}
	damaged := func(from, to int) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			data, err := os.ReadFile(writtenFile(t))
			if err != nil {
				t.Fatal(err)
			}
			for i := len(data) * from / 100; i < len(data)*to/100; i++ {
				data[i] ^= 0xa5
			}
			content(data)(t, path)
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want error
	}{
		"text":                      {content([]byte("the quick brown fox")), drivers.ErrForeign},
		"long text":                 {content(bytes.Repeat([]byte("the quick brown fox"), 1000)), drivers.ErrForeign},
		"empty":                     {content(nil), drivers.ErrForeign},
		"another database":          {schema("CREATE TABLE kine (id)", "INSERT INTO kine VALUES (1)"), drivers.ErrForeign},
		"another database with WAL": {schema("PRAGMA journal_mode=WAL", "CREATE TABLE kine (id)"), drivers.ErrForeign},
		"another journal mode": {func(t *testing.T, path string) {
			truncated(100)(t, path)
			schema("PRAGMA journal_mode=DELETE")(t, path)
		}, drivers.ErrForeign},
		"a newer schema":      {newer, drivers.ErrNewer},
		"half a file":         {truncated(50), drivers.ErrCorrupt},
		"most of a file":      {truncated(99), drivers.ErrCorrupt},
		"damaged pages":       {damaged(30, 70), drivers.ErrCorrupt},
		"a damaged beginning": {damaged(1, 10), drivers.ErrCorrupt},
		"a damaged end":       {damaged(90, 100), drivers.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log.db")
			c.make(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{true, false} {
				if err := readAll(t, path, readOnly); !errors.Is(err, c.want) {
					t.Errorf("read-only %v: got %v, want %v", readOnly, err, c.want)
				}
				after, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(before, after) {
					t.Errorf("read-only %v: the file has changed, %v", readOnly, err)
				}
			}
		})
	}
}

// TestDamageIsNotHealedOver: a write-ahead log beside a damaged database is not copied into it when that cannot be opened.
func TestDamageIsNotHealedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	l, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 20, 20, 500)
	if err := l.checkpointer.checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 2, 1, 1)
	copied := filepath.Join(t.TempDir(), "log.db")
	var files [2][]byte
	for i, suffix := range []string{"", "-wal"} {
		if files[i], err = os.ReadFile(path + suffix); err != nil {
			t.Fatal(err)
		}
	}
	files[0] = files[0][:len(files[0])/2]
	for i, suffix := range []string{"", "-wal"} {
		if err := os.WriteFile(copied+suffix, files[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Path: copied}); !errors.Is(err, drivers.ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
	for i, suffix := range []string{"", "-wal"} {
		if after, err := os.ReadFile(copied + suffix); err != nil || !bytes.Equal(after, files[i]) {
			t.Errorf("log.db%s has changed, %v", suffix, err)
		}
	}
}

func TestALostDatabaseIsNotMadeAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	if err := os.WriteFile(path+"-wal", []byte("commits"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Path: path}); err == nil || !strings.Contains(err.Error(), path+"-wal") {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(path + "-wal"); err != nil || string(data) != "commits" {
		t.Errorf("the write-ahead log has changed: %q, %v", data, err)
	}
}

func TestLeftoversOfCreationAreRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log[1].db")
	other := path + ".newer"
	for _, name := range []string{path + tmpInfix + "123", path + tmpInfix + "123-wal", other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openLog(t, Options{Path: path})
	if names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"+tmpInfix+"*")); err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

// unprivileged runs fn without the power to write what is not its own.
func unprivileged(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		fn()
		return
	}
	// For this thread alone, and SQLite runs on it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	fn()
}

func TestReadOnlyDirectory(t *testing.T) {
	path := writtenFile(t)
	dir := filepath.Dir(path)
	for name, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, path: 0o444, dir: 0o555} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(dir, 0o700)
	unprivileged(t, func() {
		if _, err := Open(t.Context(), Options{Path: path}); !errors.Is(err, drivers.ErrReadOnly) {
			t.Errorf("open: got %v", err)
		}
		if _, err := Open(t.Context(), Options{Path: filepath.Join(dir, "other.db")}); !errors.Is(err, drivers.ErrReadOnly) {
			t.Errorf("create: got %v", err)
		}
		if err := readAll(t, path, true); err != nil {
			t.Errorf("for inspection: %v", err)
		}
	})
	// The file is writable, but nothing can be put beside it.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	unprivileged(t, func() {
		if _, err := Open(t.Context(), Options{Path: path}); !errors.Is(err, drivers.ErrReadOnly) {
			t.Errorf("open a file in a read-only directory: got %v", err)
		}
	})
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}
