package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// TestThroughLink: the write-ahead log lies beside the database itself, not beside a link to it.
func TestThroughLink(t *testing.T) {
	real, link := filepath.Join(t.TempDir(), "real.db"), filepath.Join(t.TempDir(), "log.db")
	first := openLog(t, Options{Path: real})
	goOn(t, first, 3, 1, 100)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	failSync := false
	l := faulty(t, hook(func(op faultfs.Op) faultfs.Verdict {
		if isWAL(op) && op.Kind == faultfs.Sync && failSync {
			failSync = false
			return faultfs.Verdict{Errno: syscall.EIO}
		}
		return faultfs.Verdict{}
	}), Options{Path: link})
	end := goOn(t, l, 1, 1, 100)
	failSync = true
	if err := l.Append(t.Context(), end, newBatch(1, nil)); err == nil || errors.Is(err, drivers.ErrUncertain) {
		t.Fatalf("an append whose sync failed gives %v", err)
	}
	// Beside another link, so that a log which is opened for reading finds its write-ahead log too.
	crash, again := filepath.Join(t.TempDir(), "crash.db"), filepath.Join(t.TempDir(), "log.db")
	copyLog(t, real, crash)
	if err := os.Symlink(crash, again); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{true, false} {
		after := openLog(t, Options{Path: again, ReadOnly: readOnly})
		if bounds, err := after.ReadIndex(t.Context()); err != nil || bounds.End != end {
			t.Errorf("read-only %v: after a crash the log ends at %v, %v, want %v", readOnly, bounds.End, err, end)
		}
		if err := after.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestInspectionLeavesNothing: a log that a crash left is examined without a trace.
func TestInspectionLeavesNothing(t *testing.T) {
	l := openLog(t, Options{})
	end := goOn(t, l, 10, 2, 500)
	crash := filepath.Join(t.TempDir(), "log.db")
	copyLog(t, l.opts.Path, crash)
	before := files(t, crash)
	r := openLog(t, Options{Path: crash, ReadOnly: true})
	if bounds, err := r.ReadIndex(t.Context()); err != nil || bounds.End != end {
		t.Errorf("the log ends at %v, %v, want %v", bounds.End, err, end)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if after := files(t, crash); after != before {
		t.Errorf("there were %s, and now %s", before, after)
	}
}

// TestInspectionNeedsRoom: what a crash left cannot be read where nothing can be written, and the error says so.
func TestInspectionNeedsRoom(t *testing.T) {
	l := openLog(t, Options{})
	goOn(t, l, 10, 2, 500)
	dir := t.TempDir()
	crash := filepath.Join(dir, "log.db")
	copyLog(t, l.opts.Path, crash)
	for name, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, crash: 0o444, crash + "-wal": 0o444, dir: 0o555} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(dir, 0o700)
	unprivileged(t, func() {
		if _, err := Open(t.Context(), Options{Path: crash, ReadOnly: true}); !errors.Is(err, drivers.ErrReadOnly) {
			t.Errorf("got %v", err)
		}
	})
}

// files gives names and sizes of what lies beside a file.
func files(t *testing.T, path string) (list string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list += fmt.Sprintf("%s %d ", e.Name(), fileSize(t, filepath.Join(filepath.Dir(path), e.Name())))
	}
	return list
}
