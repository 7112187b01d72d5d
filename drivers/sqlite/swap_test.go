package sqlite

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// swapFixture has the files of a swap as bytes: two logs with different batches at the same positions.
type swapFixture struct {
	dir, path, copyPath string
	old, new            *ledger
	// wal is the old log's before that was closed; closed and copied are the files that are swapped.
	wal, closed, copied []byte
}

func newSwapFixture(t *testing.T) *swapFixture {
	t.Helper()
	f := &swapFixture{dir: t.TempDir(), old: &ledger{}, new: &ledger{}}
	f.path, f.copyPath = filepath.Join(f.dir, "log.db"), filepath.Join(f.dir, "log.db.copy")
	fill := func(l *Log, g *ledger) {
		for i := range 20 {
			m := []Marked{{Batch: newBatch(5, make([]byte, 100*i))}}
			m[0].Mark = markOf(m[0].Batch)
			if err := l.AppendAll(t.Context(), g.end, m); err != nil {
				t.Fatal(err)
			}
			g.appendAll(m)
		}
	}
	l := openLog(t, Options{Path: f.path})
	fill(l, f.old)
	// Something is in the file, the rest in the write-ahead log only.
	if err := l.checkpointer.checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(l, f.old)
	f.wal = f.read(t, f.path+"-wal")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	source := openLog(t, Options{})
	fill(source, f.new)
	if err := copyRows(t.Context(), source, f.copyPath, Options{}, f.new.end); err != nil {
		t.Fatal(err)
	}
	f.closed, f.copied = f.read(t, f.path), f.read(t, f.copyPath)
	return f
}

func (f *swapFixture) read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// which says which of the two logs is at a path, whole.
func (f *swapFixture) which(t *testing.T, path string) (string, error) {
	t.Helper()
	l, err := Open(t.Context(), Options{Path: path, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	defer l.Close()
	oldErr, newErr := f.old.compare(l), f.new.compare(l)
	switch {
	case oldErr == nil:
		return "old", nil
	case newErr == nil:
		return "new", nil
	}
	return "", errors.Join(oldErr, newErr)
}

func TestSwap(t *testing.T) {
	f := newSwapFixture(t)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(f.path, link); err != nil {
		t.Fatal(err)
	}
	if err := Swap(link, f.copyPath); err != nil {
		t.Fatal(err)
	}
	if got, err := f.which(t, f.path); got != "new" {
		t.Errorf("the log is the %q one, %v", got, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the link is %v, %v", info, err)
	}
	if got := files(t, f.path); got != fmt.Sprintf("log.db %d ", fileSize(t, f.path)) {
		t.Errorf("there are %s", got)
	}
	if l := openLog(t, Options{Path: link}); l.Path() != f.path {
		t.Errorf("the log is at %s", l.Path())
	}
}

// TestSwapRefuses: nothing is changed where the old log, or the copy, may not be whole.
func TestSwapRefuses(t *testing.T) {
	write := func(suffix string, data []byte) func(*testing.T, *swapFixture) {
		return func(t *testing.T, f *swapFixture) {
			if err := os.WriteFile(f.path+suffix, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	open := func(readOnly bool) func(*testing.T, *swapFixture) {
		return func(t *testing.T, f *swapFixture) { openLog(t, Options{Path: f.path, ReadOnly: readOnly}) }
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, f *swapFixture)
		want    error
	}{
		"a -wal":                 {write("-wal", []byte("frames")), nil},
		"an empty -wal":          {write("-wal", nil), nil},
		"a -journal":             {write("-journal", nil), nil},
		"a -wal of the copy":     {write(".copy-wal", nil), nil},
		"an open log":            {open(false), drivers.ErrLocked},
		"an inspected log":       {open(true), drivers.ErrLocked},
		"a copy that is no file": {func(t *testing.T, f *swapFixture) { f.copyPath = f.dir }, nil},
		"the same file":          {func(_ *testing.T, f *swapFixture) { f.copyPath = f.path }, drivers.ErrLocked},
		"another directory": {func(t *testing.T, f *swapFixture) {
			f.copyPath = filepath.Join(t.TempDir(), "copy.db")
			if err := os.WriteFile(f.copyPath, f.copied, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"no copy": {func(_ *testing.T, f *swapFixture) { f.copyPath += "2" }, os.ErrNotExist},
		"no log":  {func(_ *testing.T, f *swapFixture) { f.path += "2" }, os.ErrNotExist},
		"a copy being made": {func(t *testing.T, f *swapFixture) {
			c, err := NewCopy(f.copyPath, Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Abort() })
		}, drivers.ErrLocked},
		"a copy broken off": {func(t *testing.T, f *swapFixture) {
			c, err := NewCopy(f.copyPath, Options{})
			if err != nil {
				t.Fatal(err)
			}
			// As the end of the process leaves it.
			if err := errors.Join(c.conn.close(), c.file.Close()); err != nil {
				t.Fatal(err)
			}
		}, drivers.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			f := newSwapFixture(t)
			path := f.path
			c.prepare(t, f)
			before := files(t, path)
			err := Swap(f.path, f.copyPath)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if after := files(t, path); after != before {
				t.Errorf("there were %s, and now %s", before, after)
			}
		})
	}
}

// dirOp is a change of a directory that a loss of power may undo until the directory is synced.
type dirOp string

const (
	unlinkWAL dirOp = "the old log's Close deletes its -wal"
	renamed   dirOp = "the copy gets the log's name"
)

// TestSwapCrashes stops a swap at each of its steps. After a crash of the process there, and after a loss of power that
// undoes any of the changes not synced yet, the log is the old one or the new one, whole.
func TestSwapCrashes(t *testing.T) {
	seen := map[string]bool{}
	for at := range 5 {
		f := newSwapFixture(t)
		pending, done := []dirOp{unlinkWAL}, map[dirOp]bool{}
		n := 0
		step := func(fn func() error) error {
			if n++; n > at {
				return syscall.EIO
			}
			return fn()
		}
		s := swap{
			sync: func(path string) error {
				return step(func() error {
					if path == f.dir {
						for _, op := range pending {
							done[op] = true
						}
						pending = nil
					}
					return syncPath(path)
				})
			},
			rename: func(from, to string) error {
				return step(func() error {
					pending = append(pending, renamed)
					return os.Rename(from, to)
				})
			},
		}
		if err := s.do(f.path, f.copyPath); (err == nil) != (at == 4) {
			t.Fatalf("after %d steps: %v", at, err)
		}
		for kept := range 1 << len(pending) {
			state := map[dirOp]bool{}
			for op := range done {
				state[op] = true
			}
			for i, op := range pending {
				state[op] = kept&(1<<i) > 0
			}
			got, err := f.which(t, f.image(t, state))
			if err != nil {
				t.Errorf("after %d steps and a loss of power that left %v: %v", at, state, err)
			}
			seen[fmt.Sprint(at, " ", got)] = true
		}
		got, err := f.which(t, f.path)
		if want := map[bool]string{false: "old", true: "new"}[at >= 3]; got != want || err != nil {
			t.Errorf("after %d steps the log is the %q one, %v", at, got, err)
		}
	}
	for _, want := range []string{"2 old", "3 old", "3 new", "4 new"} {
		if !seen[want] {
			t.Errorf("step and log %q were not seen", want)
		}
	}
	if seen["4 old"] {
		t.Error("a swap that was done was undone")
	}
	// The danger is real: what the first sync prevents is no whole log.
	f := newSwapFixture(t)
	if got, err := f.which(t, f.image(t, map[dirOp]bool{renamed: true})); err == nil {
		t.Errorf("the new file with the old -wal is the %s log", got)
	}
}

// image makes the files as a directory in a state has them.
func (f *swapFixture) image(t *testing.T, state map[dirOp]bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	write := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if state[renamed] {
		write(path, f.copied)
	} else {
		// Close has synced the file before it deleted the -wal.
		write(path, f.closed)
		write(path+".copy", f.copied)
	}
	if !state[unlinkWAL] {
		write(path+"-wal", f.wal)
	}
	return path
}

// TestOpenSyncsTheName: the error of a directory that cannot be synced keeps a log from being opened, since its name may not last.
func TestOpenSyncsTheName(t *testing.T) {
	path := writtenFile(t)
	dir := filepath.Dir(path)
	for name, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, path: 0o666, dir: 0o733} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	unprivileged(t, func() {
		if _, err := Open(t.Context(), Options{Path: path}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	})
}
