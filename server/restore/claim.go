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

// hold makes a directory this process's alone, until release is called or the process ends, also under another name. It is made if it is not there.
func hold(dir string) (release func(), err error) {
	for {
		if err := makeAll(dir); err != nil {
			return nil, err
		}
		held, err := lock(dir)
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

// empty removes all that is in a directory.
func empty(dir string) error {
	left, err := os.ReadDir(dir)
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// errMoved says that a directory has got another name, or none, before it was held.
var errMoved = errors.New("the directory is no longer there")

func lock(dir string) (*os.File, error) {
	file, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errMoved
	}
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err == nil {
		var mine, there os.FileInfo
		if mine, err = file.Stat(); err == nil {
			if there, err = os.Stat(dir); err != nil || !os.SameFile(mine, there) {
				err = errMoved
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
