package sqlite

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// quota is a disk with room for so many bytes of files. Where fsync is set it says that there is none left only
// then, as a network file system may.
type quota struct {
	mu    sync.Mutex
	room  int64
	sizes map[string]int64
	fsync bool
	over  map[string]bool
}

func (q *quota) Before(op faultfs.Op) faultfs.Verdict {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch op.Kind {
	case faultfs.Write:
		used := int64(0)
		for _, n := range q.sizes {
			used += n
		}
		grown := max(op.Offset+int64(op.Size)-q.sizes[op.Path], 0)
		if used+grown > q.room && grown > 0 {
			if !q.fsync {
				return faultfs.Verdict{Errno: syscall.ENOSPC}
			}
			q.over[op.Path] = true
			return faultfs.Verdict{}
		}
		q.sizes[op.Path] += grown
	case faultfs.Truncate:
		q.sizes[op.Path] = min(q.sizes[op.Path], op.Offset)
	case faultfs.Sync:
		if q.over[op.Path] {
			delete(q.over, op.Path)
			return faultfs.Verdict{Errno: syscall.ENOSPC}
		}
	}
	return faultfs.Verdict{}
}

func (q *quota) Synced(string) {}

// small is a disk that can be filled and given room again.
type small interface {
	open(t *testing.T) *Log
	more(t *testing.T) // makes room
}

func (q *quota) open(t *testing.T) *Log {
	q.sizes, q.over, q.room = make(map[string]int64), make(map[string]bool), 2<<20
	l := faulty(t, q, Options{CheckpointBytes: 256 << 10})
	throughDisk(l, q)
	return l
}

func (q *quota) more(*testing.T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room += 8 << 20
}

// tmpfs is a real file system of a few megabytes.
type tmpfs struct{ dir string }

// mountTmpfs reports whether it may mount.
func mountTmpfs(t *testing.T) (*tmpfs, bool) {
	t.Helper()
	f := &tmpfs{dir: t.TempDir()}
	if err := syscall.Mount("keelson-test", f.dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Logf("no tmpfs, so no disk that is really full: %v", err)
		return nil, false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(f.dir, 0); err != nil {
			t.Error(err)
		}
	})
	return f, true
}

func (f *tmpfs) open(t *testing.T) *Log {
	if err := os.WriteFile(filepath.Join(f.dir, "filler"), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return openLog(t, Options{Path: filepath.Join(f.dir, "log.db"), CheckpointBytes: 256 << 10})
}

func (f *tmpfs) more(t *testing.T) {
	if err := os.Remove(filepath.Join(f.dir, "filler")); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk: nothing is acknowledged that is not stored, reads go on,
// scrubbing and defragmenting may be tried, and when there is room the log goes on without being opened again.
func TestFullDisk(t *testing.T) {
	disks := map[string]small{"at a write": &quota{}, "at an fsync": &quota{fsync: true}}
	if f, ok := mountTmpfs(t); ok {
		disks["tmpfs"] = f
	}
	for name, disk := range disks {
		t.Run(name, func(t *testing.T) {
			l := disk.open(t)
			want := ledger{}
			refused := 0
			try := func() {
				t.Helper()
				b := newBatch(3, make([]byte, 3000))
				err := l.Append(t.Context(), want.end, b)
				switch {
				case err == nil:
					want.append(b)
				case errors.Is(err, drivers.ErrNoSpace) && !errors.Is(err, drivers.ErrUncertain):
					refused++
				default:
					t.Fatal(err)
				}
			}
			for refused < 20 {
				try()
				if t.Failed() || len(want.entries) > 10000 {
					t.Fatalf("%d entries, %d refused", len(want.entries), refused)
				}
			}
			if len(want.entries) < 100 {
				t.Errorf("only %d entries", len(want.entries))
			}
			if err := want.compare(l); err != nil {
				t.Error(err)
			}
			positions := []int64{1, 2, 3, 7}
			if err := l.Scrub(t.Context(), positions); err == nil {
				want.scrub(positions)
			} else if !errors.Is(err, drivers.ErrNoSpace) {
				t.Error(err)
			}
			if err := l.Defragment(t.Context()); err != nil && !errors.Is(err, drivers.ErrNoSpace) {
				t.Error(err)
			}
			disk.more(t)
			before := refused
			for range 100 {
				try()
			}
			if refused != before {
				t.Errorf("%d refused with room", refused-before)
			}
			if err := l.Defragment(t.Context()); err != nil {
				t.Error(err)
			}
			if err := want.compare(l); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCheckpointsFailForLong: the database file cannot be written. Appends go on until the write-ahead log
// has its limit and are refused then; when the file can be written they go on.
func TestCheckpointsFailForLong(t *testing.T) {
	const checkpointBytes = 16 << 10
	failing := true
	var mu sync.Mutex
	l := faulty(t, hook(func(op faultfs.Op) faultfs.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if failing && op.Kind == faultfs.Write && !isWAL(op) && filepath.Base(op.Path) == "log.db" {
			return faultfs.Verdict{Errno: syscall.EIO}
		}
		return faultfs.Verdict{}
	}), Options{CheckpointBytes: checkpointBytes})
	want := ledger{}
	var err error
	for err == nil {
		b := newBatch(1, make([]byte, 3000))
		if err = l.Append(t.Context(), want.end, b); err == nil {
			want.append(b)
		}
		if len(want.entries) > 10000 {
			t.Fatal("appends are never refused")
		}
	}
	if errors.Is(err, drivers.ErrUncertain) {
		t.Errorf("got %v", err)
	}
	size := fileSize(t, l.opts.Path+"-wal")
	if size < hardLimit*checkpointBytes || size > (stopLimit+hardLimit)*checkpointBytes {
		t.Errorf("the write-ahead log has %d bytes", size)
	}
	if err := want.compare(l); err != nil {
		t.Error(err)
	}
	mu.Lock()
	failing = false
	mu.Unlock()
	for range 10 {
		b := newBatch(1, make([]byte, 3000))
		if err := l.Append(t.Context(), want.end, b); err != nil {
			t.Fatal(err)
		}
		want.append(b)
	}
	if err := want.compare(l); err != nil {
		t.Error(err)
	}
}

// TestFailedCheckpointsStayFailed: that pages were freed says nothing of the write-ahead log, which
// still cannot be copied.
func TestFailedCheckpointsStayFailed(t *testing.T) {
	l := faulty(t, hook(func(op faultfs.Op) faultfs.Verdict {
		if op.Kind == faultfs.Write && filepath.Base(op.Path) == "log.db" {
			return faultfs.Verdict{Errno: syscall.EIO}
		}
		return faultfs.Verdict{}
	}), Options{CheckpointBytes: 16 << 10})
	var lines bytes.Buffer
	l.logger = slog.New(slog.NewTextHandler(&lines, nil))
	end := goOn(t, l, 10, 5, 1000)
	k := l.checkpointer
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- l.Run(ctx) }()
	for p := int64(1); p < end.Position; p++ {
		if err := l.Scrub(t.Context(), []int64{p}); err != nil {
			t.Fatal(err)
		}
		k.free <- struct{}{} // Run has taken the one before
	}
	cancel()
	<-ran
	faultfs.Set(nil)
	if warned := strings.Count(lines.String(), "level=WARN"); warned != 1 || strings.Contains(lines.String(), "level=INFO") {
		t.Errorf("%d warnings:\n%s", warned, &lines)
	}
}

// TestCloseAfterAFailure: the file alone is the log after Close, also when the last append failed.
func TestCloseAfterAFailure(t *testing.T) {
	failing := false
	l := faulty(t, hook(func(op faultfs.Op) faultfs.Verdict {
		if failing && isWAL(op) && op.Kind == faultfs.Write {
			failing = false
			return faultfs.Verdict{Errno: syscall.ENOSPC, Part: op.Size / 2}
		}
		return faultfs.Verdict{}
	}), Options{})
	end := goOn(t, l, 3, 1, 1000)
	failing = true
	if err := l.Append(t.Context(), end, newBatch(1, nil)); !errors.Is(err, drivers.ErrNoSpace) {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.opts.Path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the write-ahead log is still there: %v", err)
	}
	faultfs.Set(nil)
	alone := openLog(t, Options{Path: l.opts.Path})
	if bounds, err := alone.ReadIndex(t.Context()); err != nil || bounds.End != end {
		t.Errorf("the log ends at %v, %v, want %v", bounds.End, err, end)
	}
}
