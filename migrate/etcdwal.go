package migrate

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/keelson-io/keelson/etcdfile"
)

// ErrBehind says that a server's write-ahead log has more than its database, or may have.
var ErrBehind = errors.New("the write-ahead log has more than the database, or may have")

// checkWAL refuses an etcd's database that lacks what is in the log in a directory, or may.
func checkWAL(dir string, consistent uint64) error {
	const advice = "start etcd on it once more and stop it with SIGTERM, or name the endpoint of a member, or accept the loss with --ignore-wal"
	wal, err := etcdfile.ReadWAL(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s to compare with (--wal-dir?): %s", ErrBehind, dir, advice)
	case err != nil:
		return fmt.Errorf("%w: %s", err, advice)
	case wal.Last > consistent:
		return fmt.Errorf("%w: it ends at entry %d, and the database at %d: the etcd was killed, or had not caught up with the others: %s", ErrBehind, wal.Last, consistent, advice)
	case wal.Last < consistent:
		return fmt.Errorf("the database is at entry %d, and the etcd's write-ahead log ends at %d: they are not of one etcd, or the log was cut: %s", consistent, wal.Last, advice)
	}
	return nil
}
