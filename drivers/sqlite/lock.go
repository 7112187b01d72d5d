package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/keelson-io/keelson/drivers"
)

// lockFile opens the database file and locks it for this process alone, or,
// to read a stopped server's log, against servers only.
//
// The lock is flock's on the file itself: the kernel drops it when the process ends however
// it ends, no cleaning-up can delete it as it could a lock file, and
// another path to the same file (a link, a bind mount) meets the same lock. It does
// not collide with SQLite's own locks, which are fcntl's. Those would not be
// enough: the process loses them when anything in it closes the file, as
// the caller of lockFile does after ErrLocked.
func lockFile(path string, readOnly bool) (*os.File, error) {
	flag, how := os.O_RDWR, syscall.LOCK_EX
	if readOnly {
		flag, how = os.O_RDONLY, syscall.LOCK_SH
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return nil, fmt.Errorf("%w: check the owner and mode of the file and its directory, and how the file system is mounted: %w", drivers.ErrReadOnly, err)
		}
		return nil, err
	}
	if err := flock(f, how|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w: stop the server that has %s open, or give this one a data directory of its own", drivers.ErrLocked, path)
		}
		return nil, errors.Join(err, f.Close())
	}
	// The path may have got another file between open and lock.
	if err := samePath(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func samePath(f *os.File, path string) error {
	a, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(a, b) {
		return fmt.Errorf("%w: %s was replaced while it was opened", drivers.ErrLocked, path)
	}
	return nil
}
