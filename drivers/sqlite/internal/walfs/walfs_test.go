package walfs_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	_ "github.com/mattn/go-sqlite3" // SQLite itself

	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/walfs"
)

// hook counts writes, and fails those that it is asked to.
type hook struct {
	writes int
	fail   func() bool
}

func (h *hook) Before(op faultfs.Op) faultfs.Verdict {
	if op.Kind != faultfs.Write {
		return faultfs.Verdict{}
	}
	h.writes++
	if h.fail != nil && h.fail() {
		return faultfs.Verdict{Errno: syscall.ENOSPC, Part: op.Size / 2}
	}
	return faultfs.Verdict{}
}

func (h *hook) Synced(string) {}

func open(t *testing.T, h *hook) (*faultfs.File, string) {
	t.Helper()
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	vfs, err := walfs.Register(faultfs.Name)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := walfs.Register(faultfs.Name); err != nil || again != vfs {
		t.Fatalf("a second registration gives %q, %v, want %q", again, err, vfs)
	}
	path := filepath.Join(t.TempDir(), "x.db-wal")
	// SQLite gives the log the permissions of its database.
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "x.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := faultfs.OpenWAL(vfs, path)
	if err != nil {
		t.Fatal(err)
	}
	faultfs.Set(h)
	t.Cleanup(func() { faultfs.Set(nil) })
	return f, path
}

func TestRegisterWithoutParent(t *testing.T) {
	if name, err := walfs.Register("nowhere"); err == nil {
		t.Fatalf("there is a VFS %q before one that there is not", name)
	}
}

// TestLikeAFile compares all that can be seen of a file with a slice of bytes.
func TestLikeAFile(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		f, path := open(t, new(hook))
		var model []byte
		next := int64(0) // mostly it is appended
		for step := range 400 {
			switch r.IntN(20) {
			default:
				at, data := next, bytes.Repeat([]byte{byte(step)}, []int{24, 1024, 1 + r.IntN(100<<10)}[r.IntN(11)/5])
				if r.IntN(10) == 0 {
					at = r.Int64N(int64(len(model)) + 1)
				}
				if err := f.WriteAt(data, at); err != nil {
					t.Fatal(err)
				}
				if grow := at + int64(len(data)) - int64(len(model)); grow > 0 {
					model = append(model, make([]byte, grow)...)
				}
				copy(model[at:], data)
				next = at + int64(len(data))
			case 0, 1, 2:
				at := r.Int64N(int64(len(model)) + 1)
				got := make([]byte, r.Int64N(min(int64(len(model))-at, 4000)+1))
				if err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, model[at:at+int64(len(got))]) {
					t.Fatalf("seed %d, step %d: %d bytes at %d are not what was written: %v", seed, step, len(got), at, err)
				}
			case 3:
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, model) {
					t.Fatalf("seed %d, step %d: after a sync the file is not what was written: %v", seed, step, err)
				}
			case 4:
				if r.IntN(4) > 0 {
					break
				}
				model = model[:r.IntN(len(model)+1)]
				next = int64(len(model))
				if err := f.Truncate(next); err != nil {
					t.Fatal(err)
				}
			}
			if size, err := f.Size(); err != nil || size != int64(len(model)) {
				t.Fatalf("seed %d, step %d: the size is %d, %v, want %d", seed, step, size, err, len(model))
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFewWrites: frames go out together.
func TestFewWrites(t *testing.T) {
	h := new(hook)
	f, _ := open(t, h)
	at := int64(0)
	for range 50 {
		for _, n := range []int{24, 1024} {
			if err := f.WriteAt(make([]byte, n), at); err != nil {
				t.Fatal(err)
			}
			at += int64(n)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if h.writes != 1 {
		t.Errorf("%d writes for %d bytes, want 1", h.writes, at)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLostBytes: after a failed write nothing succeeds that builds on the bytes it
// lost, until they are written again.
func TestLostBytes(t *testing.T) {
	failing := true
	h := &hook{fail: func() bool { return failing }}
	f, path := open(t, h)
	if err := f.WriteAt([]byte("abc"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != faultfs.Code(13) {
		t.Fatalf("a sync whose write finds the disk full gives %v, want SQLITE_FULL", err)
	}
	failing = false
	if err := f.WriteAt([]byte("d"), 3); err == nil {
		t.Error("a write behind bytes that are lost succeeds")
	}
	if err := f.Sync(); err == nil {
		t.Error("a sync of bytes that are lost succeeds")
	}
	if h.writes != 1 {
		t.Errorf("what was lost is written again by itself, in %d writes", h.writes)
	}
	if err := f.WriteAt([]byte("xy"), 0); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "xy" {
		t.Errorf("the file has %q, %v", got, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
