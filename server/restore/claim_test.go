package restore

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestHoldOverNFS: where a directory cannot be locked a file in it is. It stands in nobody's way, and what comes after its removal is not taken for it.
func TestHoldOverNFS(t *testing.T) {
	for _, refusal := range []error{syscall.EBADF, syscall.EINVAL, syscall.ENOLCK, syscall.ENOTSUP} {
		dir := filepath.Join(t.TempDir(), "restoring")
		nfs := func(f *os.File) error {
			if info, err := f.Stat(); err != nil || info.IsDir() {
				return errors.Join(err, refusal)
			}
			return flock(f)
		}
		release, err := holdBy(dir, nfs)
		if err != nil {
			t.Fatalf("%v: %v", refusal, err)
		}
		if _, err := holdBy(dir, nfs); !errors.Is(err, ErrBusy) {
			t.Errorf("%v: a second one: %v", refusal, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "made"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := empty(dir); err != nil {
			t.Error(err)
		}
		if _, err := holdBy(dir, nfs); !errors.Is(err, ErrBusy) {
			t.Errorf("%v: a second one after it was emptied: %v", refusal, err)
		}
		if err := removeHeld(dir); err != nil {
			t.Errorf("%v: what is empty stays: %v", refusal, err)
		}
		again, err := holdBy(dir, nfs)
		if err != nil {
			t.Fatalf("%v: %v", refusal, err)
		}
		release()
		if _, err := holdBy(dir, nfs); !errors.Is(err, ErrBusy) {
			t.Errorf("%v: beside the later one: %v", refusal, err)
		}
		again()
	}
}

// TestHoldWithoutLocks: where nothing can be locked nothing is held.
func TestHoldWithoutLocks(t *testing.T) {
	if _, err := holdBy(filepath.Join(t.TempDir(), "restoring"), func(*os.File) error { return syscall.ENOLCK }); !errors.Is(err, syscall.ENOLCK) {
		t.Errorf("%v", err)
	}
}
