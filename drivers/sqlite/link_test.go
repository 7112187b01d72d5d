package sqlite

import (
	"errors"
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
	end := goOn(t, first, 3, 1, 100)
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
	end = goOn(t, l, 1, 1, 100)
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
