package restore

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// nfs locks as Linux does over NFS: what is not a file open for writing is nobody's alone.
func nfs(f *os.File) error {
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return err
	}
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_GETFL, 0)
	switch {
	case errno != 0:
		return errno
	case flags&syscall.O_ACCMODE == syscall.O_RDONLY:
		return syscall.EBADF
	}
	return flock(f)
}

// TestHoldOverNFS: a directory is held where only files can be locked. What is open for that is not in it, and what comes after its removal is not taken for it.
func TestHoldOverNFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "restoring")
	release, err := holdBy(dir, nfs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holdBy(dir, nfs); !errors.Is(err, ErrBusy) {
		t.Fatalf("a second one: %v", err)
	}
	if in, err := os.ReadDir(dir); err != nil || len(in) != 0 {
		t.Errorf("in it there is %v, %v", in, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "made"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := empty(dir); err != nil {
		t.Error(err)
	}
	if _, err := holdBy(dir, nfs); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one after it was emptied: %v", err)
	}
	if err := removeHeld(dir); err != nil {
		t.Errorf("what is empty stays: %v", err)
	}
	again, err := holdBy(dir, nfs)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := holdBy(dir, nfs); !errors.Is(err, ErrBusy) {
		t.Errorf("beside the later one: %v", err)
	}
	again()
}

// TestHoldRemoved: a lock that was waiting at a file which its holder has removed is none.
func TestHoldRemoved(t *testing.T) {
	for _, gone := range []error{nil, syscall.ESTALE} { // as on the same host, and on another one
		dir := filepath.Join(t.TempDir(), "restoring")
		first := true
		late := func(f *os.File) error {
			if !first {
				return flock(f)
			}
			first = false
			if err := errors.Join(os.Remove(f.Name()), flock(f)); err != nil {
				t.Error(err)
			}
			return gone
		}
		release, err := holdBy(dir, late)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hold(dir); !errors.Is(err, ErrBusy) {
			t.Errorf("%v: a second one: %v", gone, err)
		}
		release()
	}
}

// TestHoldWithoutLocks: where nothing can be locked nothing is held.
func TestHoldWithoutLocks(t *testing.T) {
	if _, err := holdBy(filepath.Join(t.TempDir(), "restoring"), func(*os.File) error { return syscall.ENOLCK }); !errors.Is(err, syscall.ENOLCK) {
		t.Errorf("%v", err)
	}
}
