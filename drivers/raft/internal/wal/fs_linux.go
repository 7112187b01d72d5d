package wal

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

func (f osFile) Datasync() error {
	return f.retry("fdatasync", unix.Fdatasync)
}

// Allocate implements file. A file system that cannot do it does without.
func (f osFile) Allocate(size int64) error {
	err := f.retry("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func (f osFile) retry(op string, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = c.Control(func(fd uintptr) {
		for {
			if doErr = do(int(fd)); !errors.Is(doErr, unix.EINTR) {
				return
			}
		}
	})
	if err == nil && doErr != nil {
		err = &fs.PathError{Op: op, Path: f.Name(), Err: doErr}
	}
	return err
}
