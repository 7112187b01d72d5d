package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within gives the names in a directory.
func within(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reading calls a function when it is read.
type reading func() error

func (r reading) Read([]byte) (int, error) { return 0, r() }

func TestDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backups")
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := within(t, path); len(got) > 0 {
		t.Errorf("a directory that was opened has %q", got)
	}
	b := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42, Size: 7}
	// While it is put nothing is there.
	content := io.MultiReader(strings.NewReader("cont"), reading(func() error {
		all, err := d.List(t.Context())
		if err != nil || len(all) > 0 {
			t.Errorf("there are %v before it is whole: %v", all, err)
		}
		// Nor does a sweep of another process take away what is written.
		if err := d.Sweep(t.Context(), 7); err != nil {
			t.Error(err)
		}
		return io.EOF
	}), strings.NewReader("ent"))
	if err := d.Put(t.Context(), b, content); err != nil {
		t.Fatal(err)
	}
	if got := within(t, path); !slices.Equal(got, []string{b.Name()}) {
		t.Errorf("there are %q", got)
	}
	r, err := d.Open(t.Context(), b.Name())
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || string(data) != "content" {
		t.Errorf("%q, %v", data, err)
	}
	if all, err := d.List(t.Context()); err != nil || len(all) != 1 || all[0] != b {
		t.Errorf("%+v, %v", all, err)
	}
	for range 2 {
		if err := d.Remove(t.Context(), b.Name()); err != nil {
			t.Error(err)
		}
	}
	if got := within(t, path); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
}

// TestDirPutFails: what fails, is broken off or is short leaves nothing.
func TestDirPutFails(t *testing.T) {
	b := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42, Size: 7}
	full := errors.New("full")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		want error
	}{
		"fails": {t.Context(), io.MultiReader(strings.NewReader("cont"), reading(func() error { return full })), full},
		"short": {t.Context(), strings.NewReader("cont"), ErrShort},
		"ended": {ended, strings.NewReader("content"), context.Canceled},
	} {
		d, err := OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Put(c.ctx, b, c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := within(t, d.path); len(got) > 0 {
			t.Errorf("%s: there are %q", name, got)
		}
	}
}

// TestDirSweep: what a kill has left goes, unless it is another cluster's, or a process has it.
func TestDirSweep(t *testing.T) {
	dir := t.TempDir()
	own, other := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42}, Backup{Cluster: 8, Time: at("2026-11-26T02:00:00Z"), Revision: 42}
	keep := []string{own.Name(), other.Name(), other.Name() + ".1" + part, own.Name() + ".3" + part, "x" + part, "keelson-7" + part}
	for _, name := range append(keep, own.Name()+".1"+part, own.Name()+".2"+part) {
		write(t, filepath.Join(dir, name))
	}
	held, err := os.Open(filepath.Join(dir, own.Name()+".3"+part))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	d := AtDir(dir)
	if err := d.Sweep(t.Context(), 7); err != nil {
		t.Error(err)
	}
	slices.Sort(keep)
	if got := within(t, dir); !slices.Equal(got, keep) {
		t.Errorf("there are\n%q, want\n%q", got, keep)
	}
	if all, err := d.List(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestDirSweepProbes: what a kill has left of looking whether files can be made goes, but not what may be there for this moment, nor what has anything.
func TestDirSweepProbes(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, content string
		age           time.Duration
	}{{".keelson-1.part", "", 2 * time.Hour}, {".keelson-2.part", "", time.Minute}, {".keelson-3.part", "content", 2 * time.Hour}, {".other-4.part", "", 2 * time.Hour}} {
		path := filepath.Join(dir, c.name)
		then := time.Now().Add(-c.age)
		if err := errors.Join(os.WriteFile(path, []byte(c.content), 0o600), os.Chtimes(path, then, then)); err != nil {
			t.Fatal(err)
		}
	}
	if err := AtDir(dir).Sweep(t.Context(), 7); err != nil {
		t.Error(err)
	}
	if got := within(t, dir); !slices.Equal(got, []string{".keelson-2.part", ".keelson-3.part", ".other-4.part"}) {
		t.Errorf("there are %q", got)
	}
}

func TestOpenDirRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file)
	for _, path := range []string{file, filepath.Join(file, "below"), "/proc/keelson", filepath.Join(t.TempDir(), "nowhere", "backups")} {
		if _, err := OpenDir(path); err == nil {
			t.Errorf("%s was taken for a directory that can be written", path)
		}
		if _, err := DirToBe(path).List(t.Context()); err == nil {
			t.Errorf("%s was taken for a directory that can be written, when it was listed", path)
		}
		if err := DirToBe(path).Put(t.Context(), Backup{}, strings.NewReader("")); err == nil {
			t.Errorf("%s was put to", path)
		}
	}
}

// TestDirToBe: nothing is asked of a directory before it is needed, and then it is made.
func TestDirToBe(t *testing.T) {
	above := t.TempDir()
	d := DirToBe(filepath.Join(above, "backups"))
	if got := within(t, above); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
	if all, err := d.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if got := within(t, d.path); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
	// Who only reads makes nothing.
	if _, err := AtDir(filepath.Join(above, "other")).List(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if got := within(t, above); !slices.Equal(got, []string{"backups"}) {
		t.Errorf("there are %q", got)
	}
}

// TestDirSweepUnlocked: that it cannot be told whether a file is being written is an error, and no reason to remove it. Over NFS a lock needs a file that is open to write.
func TestDirSweepUnlocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other"+part)
	write(t, path)
	for _, c := range []struct{ lock, want error }{{syscall.ENOLCK, syscall.ENOLCK}, {syscall.EWOULDBLOCK, nil}} {
		err := removeUnlocked(path, func(f *os.File) error {
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_ACCMODE != unix.O_RDWR {
				t.Errorf("the file is open with %x, %v", flags, err)
			}
			return c.lock
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%v: %v", c.lock, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%v: %v", c.lock, err)
		}
	}
}
