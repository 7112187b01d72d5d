package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keelson-io/keelson/drivers"
)

// Swap puts a finished copy, in the same directory, at the place of a log that is closed. After a
// crash at any moment the old log or the new one is at path, whole; so it is after an error.
//
// Errors: ErrLocked if either is open, ErrForeign if the copy was not finished; it refuses when a -wal lies
// beside one of them, as a log leaves it that was not closed. DESIGN.md, "A copy in place of the log", has the reasoning.
func Swap(path, copyPath string) error {
	s := swap{sync: syncPath, rename: os.Rename}
	if err := s.do(path, copyPath); err != nil {
		return fmt.Errorf("put %s in place of the log %s: %w", copyPath, path, classify(err))
	}
	return nil
}

// swap has what Swap does to the disk.
type swap struct {
	sync   func(path string) error
	rename func(from, to string) error
}

func (s swap) do(path, copyPath string) (err error) {
	// A write-ahead log lies beside the file, not beside a link to it.
	o := Options{Path: path}
	if err := o.followLink(); err != nil {
		return err
	}
	path = o.Path
	if err := sameDir(path, copyPath); err != nil {
		return err
	}
	// Both stay locked, so that nobody opens one in between.
	for _, p := range [...]string{path, copyPath} {
		f, lerr := lockFile(p, false)
		if lerr != nil {
			return lerr
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := isWhole(f, p); err != nil {
			return err
		}
	}
	if err := s.sync(copyPath); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	// That the old -wal is gone is on disk before the new file has the name.
	if err := s.sync(dir); err != nil {
		return err
	}
	if err := s.rename(copyPath, path); err != nil {
		return err
	}
	// Should this fail, Open does it before there is a new -wal.
	return s.sync(dir)
}

func sameDir(path, copyPath string) error {
	a, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	b, err := os.Stat(filepath.Dir(copyPath))
	if err != nil {
		return err
	}
	if !os.SameFile(a, b) {
		return errors.New("they are not in the same directory")
	}
	info, err := os.Lstat(copyPath)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a file", drivers.ErrForeign, copyPath)
	}
	return nil
}
