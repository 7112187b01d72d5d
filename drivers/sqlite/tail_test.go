package sqlite

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// TestRefusedForGood: an append that failed is not made whole again by the next one, even if the
// two begin with the same pages and a crash comes in the middle of the second.
func TestRefusedForGood(t *testing.T) {
	crash := filepath.Join(t.TempDir(), "log.db")
	var l *Log
	failSync, writes := false, -1
	l = faulty(t, hook(func(op faultfs.Op) faultfs.Verdict {
		switch {
		case isWAL(op) && op.Kind == faultfs.Sync && failSync:
			failSync = false
			return faultfs.Verdict{Errno: syscall.EIO}
		case isWAL(op) && op.Kind == faultfs.Write && writes >= 0:
			if writes++; writes == 2 {
				copyLog(t, l.opts.Path, crash)
			}
		}
		return faultfs.Verdict{}
	}), Options{})
	end := goOn(t, l, 30, 1, 600)
	big := drivers.Entry{Kind: 1, Meta: []byte("big"), Value: make([]byte, 300<<10)}
	refused, next := newBatch(1, bytes.Repeat([]byte("refused"), 100)), newBatch(1, bytes.Repeat([]byte("next"), 175))
	refused.Entries = append([]drivers.Entry{big}, refused.Entries...)
	next.Entries = append([]drivers.Entry{big}, next.Entries...)

	// Twice: only the first one after a success differs in the counter on page 1.
	for range 2 {
		failSync = true
		if err := l.Append(t.Context(), end, refused); err == nil || errors.Is(err, drivers.ErrUncertain) {
			t.Fatalf("an append whose sync failed gives %v", err)
		}
	}
	if bounds, err := l.ReadIndex(t.Context()); err != nil || bounds.End != end {
		t.Fatalf("the log ends at %v, %v, want %v", bounds.End, err, end)
	}
	writes = 0
	if err := l.Append(t.Context(), end, next); err != nil {
		t.Fatal(err)
	}
	if writes < 2 {
		t.Fatalf("the append took %d writes, too few to crash in between", writes)
	}
	writes = -1
	after, err := Open(t.Context(), Options{Path: crash})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	bounds, err := after.ReadIndex(t.Context())
	if err != nil || bounds.End != end {
		t.Errorf("after a crash the log ends at %d with batch %x, %v, want %d with %x; refused was %x", bounds.End.Position, bounds.End.Batch, err, end.Position, end.Batch, refused.ID)
	}
}

// copyLog copies a log's files as they are at this moment.
func copyLog(t *testing.T, from, to string) {
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(from + suffix)
		if err == nil {
			err = os.WriteFile(to+suffix, data, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
