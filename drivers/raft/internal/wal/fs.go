package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keelson-io/keelson/drivers"
)

// fsys is what the log does to a file system. Errors are those of package os.
type fsys interface {
	// open opens a file for reading and writing.
	open(path string) (file, error)
	// create is open of an empty file, be it that there was one.
	create(path string) (file, error)
	mkdir(path string) error
	rename(from, to string) error
	// remove deletes a file or an empty directory.
	remove(path string) error
	list(dir string) ([]string, error)
	exists(path string) (bool, error)
	syncDir(dir string) error
}

type file interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	// Sync writes data and metadata to disk, Datasync data and what is needed to read it.
	Sync() error
	Datasync() error
	// Allocate makes room for the first size bytes, and the file at least that long.
	Allocate(size int64) error
	Size() (int64, error)
	Close() error
}

// osFS is the file system of the operating system.
type osFS struct{}

func (osFS) open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) mkdir(path string) error      { return os.Mkdir(path, 0o700) }
func (osFS) rename(from, to string) error { return os.Rename(from, to) }
func (osFS) remove(path string) error     { return os.Remove(path) }

func (osFS) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (osFS) exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (osFS) syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// classify puts the contract's sentinel around an error of the file system's.
func classify(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return fmt.Errorf("%w: make room on its file system, no restart is needed: %w", drivers.ErrNoSpace, err)
	case syscall.EROFS, syscall.EACCES, syscall.EPERM:
		return fmt.Errorf("%w: check the owner and mode of the Raft log's directory, and how its file system is mounted: %w", drivers.ErrReadOnly, err)
	}
	return err
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// removeAll deletes a directory and the files in it; none is no error.
func removeAll(fsys fsys, dir string) error {
	there, err := fsys.exists(dir)
	if err != nil || !there {
		return err
	}
	names, err := fsys.list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := fsys.remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return fsys.remove(dir)
}
