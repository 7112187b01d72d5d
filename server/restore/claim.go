package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrBusy says that another process restores to the same place.
var ErrBusy = errors.New("another restore to it is under way")

// lockName is a file in a directory that is held, where there are no locks of directories, as over NFS.
const lockName = ".lock"

// hold makes a directory this process's alone, until release is called or the process ends, also under another name. It is made if it is not there.
func hold(dir string) (release func(), err error) { return holdBy(dir, flock) }

func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// holdBy holds a directory by what locks an open file, or fails with EWOULDBLOCK.
func holdBy(dir string, by func(*os.File) error) (release func(), err error) {
	for {
		if err := makeAll(dir); err != nil {
			return nil, err
		}
		held, err := lock(dir, by)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("restore to %s: %w", dir, err)
		}
		return func() { held.Close() }, nil
	}
}

// makeAll makes a directory that is not there, and those above it, for good.
func makeAll(dir string) error {
	above := filepath.Dir(dir)
	if _, err := os.Stat(above); errors.Is(err, fs.ErrNotExist) {
		if err := makeAll(above); err != nil {
			return err
		}
	}
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made := err == nil
	if err = syncDir(above); err != nil && made {
		_ = os.Remove(dir)
	}
	return err
}

// empty removes all that is in a directory that is held.
func empty(dir string) error {
	left, err := os.ReadDir(dir)
	for _, e := range left {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// removeHeld removes a directory that is held and has nothing in it, which is then held by nobody.
func removeHeld(dir string) error {
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(dir)
}

// errMoved says that a directory has got another name, or none, before it was held.
var errMoved = errors.New("the directory is no longer there")

// lock locks a directory, or a file in it where directories cannot be locked.
func lock(dir string, by func(*os.File) error) (*os.File, error) {
	file, err := os.Open(dir)
	if err == nil {
		file, err = lockOpen(file, by)
	}
	for _, none := range []error{syscall.EBADF, syscall.EINVAL, syscall.ENOLCK, syscall.ENOTSUP, syscall.EISDIR} {
		if errors.Is(err, none) {
			if file, err = os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600); err == nil {
				file, err = lockOpen(file, by)
			}
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMoved
	}
	return file, err
}

// lockOpen locks what is open, and sees that it still has its name then. It closes it after an error.
func lockOpen(file *os.File, by func(*os.File) error) (*os.File, error) {
	err := by(file)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err == nil {
		var mine, there os.FileInfo
		if mine, err = file.Stat(); err == nil {
			if there, err = os.Stat(file.Name()); err != nil || !os.SameFile(mine, there) {
				err = errMoved
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
