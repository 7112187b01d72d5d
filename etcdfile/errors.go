package etcdfile

import (
	"errors"
	"fmt"
)

var (
	// ErrDamaged means that a file is not a whole database of etcd: it was cut or altered, or never was one.
	ErrDamaged = errors.New("etcdfile: no whole etcd database")
	// ErrHash means that a file is not what its trailing sha256 was made of.
	ErrHash = errors.New("etcdfile: the sha256 at the file's end is not the file's")
	// ErrInUse means that another process has the file open for writing.
	ErrInUse = errors.New("etcdfile: the database is in use")
	// ErrRow means that a row is not as etcd writes them, or not in order.
	ErrRow = errors.New("etcdfile: invalid row")
	// ErrMeta means that what belongs to the whole file contradicts itself or its rows.
	ErrMeta = errors.New("etcdfile: invalid meta")
	// ErrClosed means that a Writer was finished or closed, or has failed.
	ErrClosed = errors.New("etcdfile: the writer is closed")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}
