package sqlite

import (
	"errors"
	"fmt"
	"syscall"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/keelson-io/keelson/drivers"
)

// errSync marks the failure of an fsync during a checkpoint: see
// DESIGN.md, "After a failed fsync".
var errSync = errors.New("the database file could not be synced")

// classify puts the contract's sentinel and, where there is something to do, what
// to do around an error of SQLite's or of the file system's.
func classify(err error) error {
	var e sqlite3.Error
	if err == nil || !errors.As(err, &e) {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return classifyErrno(err, errno)
		}
		return err
	}
	switch e.Code {
	case sqlite3.ErrFull:
		return fmt.Errorf("%w: make room on its file system, no restart is needed: %w", drivers.ErrNoSpace, err)
	case sqlite3.ErrCorrupt:
		return fmt.Errorf("%w: stop the server, keep a copy of the file and its -wal, run keelson check, and restore a snapshot if it finds something: %w", drivers.ErrCorrupt, err)
	case sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %w", drivers.ErrForeign, err)
	case sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrAuth:
		return fmt.Errorf("%w: check the owner and mode of the file and its directory, and how the file system is mounted: %w", drivers.ErrReadOnly, err)
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return fmt.Errorf("%w: %w", drivers.ErrLocked, err)
	case sqlite3.ErrIoErr, sqlite3.ErrCantOpen:
		return classifyErrno(err, e.SystemErrno)
	}
	return err
}

func classifyErrno(err error, errno syscall.Errno) error {
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return fmt.Errorf("%w: make room on its file system, no restart is needed: %w", drivers.ErrNoSpace, err)
	case syscall.EROFS, syscall.EACCES, syscall.EPERM:
		return fmt.Errorf("%w: check the owner and mode of the file and its directory, and how the file system is mounted: %w", drivers.ErrReadOnly, err)
	}
	return err
}

func isCantOpen(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrCantOpen
}

func isConstraint(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && e.Code == sqlite3.ErrConstraint
}
