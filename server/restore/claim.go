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

// lockSuffix ends the name of the file that is locked where a directory is held. It is a file, open for writing, because over NFS Linux asks the server for the locks
// of such alone, and grants one of a directory on each host by itself; with the mount options nolock and local_lock it does so with all, and then a directory is held
// on one host only. And it is beside the directory, because there what is removed while it is open stays under another name, and the directory could not be removed.
const lockSuffix = ".lock"

// hold makes a directory this process's alone, until release is called or the process ends, also when that above it has got another name. It is made if it is not there.
func hold(dir string) (release func(), err error) { return holdBy(dir, flock) }

func flock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// holdBy holds a directory by what locks an open file, or fails with EWOULDBLOCK.
func holdBy(dir string, by func(*os.File) error) (release func(), err error) {
	for {
		if err := makeAbove(dir); err != nil {
			return nil, err
		}
		held, err := lock(dir+lockSuffix, by)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("restore to %s: %w", dir, err)
		}
		if err := makeAll(dir); err != nil {
			return nil, errors.Join(err, os.Remove(held.Name()), held.Close())
		}
		return func() { held.Close() }, nil
	}
}

// makeAll makes a directory that is not there, and those above it, for good.
func makeAll(dir string) error {
	if err := makeAbove(dir); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made := err == nil
	if err = syncDir(filepath.Dir(dir)); err != nil && made {
		_ = os.Remove(dir)
	}
	return err
}

// makeAbove makes the directory above a path, if it is not there.
func makeAbove(path string) error {
	above := filepath.Dir(path)
	if _, err := os.Stat(above); errors.Is(err, fs.ErrNotExist) {
		return makeAll(above)
	}
	return nil
}

// empty removes all that is in a directory that is held.
func empty(dir string) error {
	left, err := os.ReadDir(dir)
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// removeHeld removes a directory that is held and has nothing in it, which is then held by nobody.
func removeHeld(dir string) error {
	for _, path := range []string{dir, dir + lockSuffix} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// errMoved says that a file has got another name, or none, before it was locked.
var errMoved = errors.New("the file is no longer there")

// lock locks a file, which is made if it is not there, and sees that it still has its name then.
func lock(path string, by func(*os.File) error) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMoved // with the directory that it was to be in
	}
	if err != nil {
		return nil, err
	}
	err = by(file)
	var mine, there os.FileInfo
	if err == nil {
		mine, err = file.Stat()
	}
	if err == nil {
		if there, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
			err = errMoved
		}
	}
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = ErrBusy
	case errors.Is(err, syscall.ESTALE): // by another host
		err = errMoved
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
