package backup

import (
	"context"
	"errors"
	"io"
)

// Target is where backups are kept. Errors name the target; a context that ends ends what is under way as soon as the system below lets it.
type Target interface {
	// Put stores what r gives, which is size bytes, under a backup's name. The name is there when all of it is, and is durable; after an error it is not there, unless the
	// error came after that.
	Put(ctx context.Context, b Backup, r io.Reader) error
	// Open reads a backup.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List gives the backups that are there, of all clusters, in any order.
	List(ctx context.Context) ([]Backup, error)
	// Remove removes a backup. That it is not there is no error.
	Remove(ctx context.Context, name string) error
	// Sweep removes what Puts of a cluster's backups have left that were broken off.
	Sweep(ctx context.Context, cluster uint64) error
	// String is what stands before a backup's name to name it everywhere: a path or a URL that ends in a slash.
	String() string
}

var (
	// ErrAltered means that what was read back is not what was sent.
	ErrAltered = errors.New("backup: what was read back is not what was sent")
	// ErrShort means that a snapshot ended before its end.
	ErrShort = errors.New("backup: the snapshot ended early")
	// ErrStrange says that there are backups that cannot be earlier ones of this store: of a higher revision, as after a restore, or where another cluster of the same id backs up to the same
	// place, or of a time to come. They stay.
	ErrStrange = errors.New("backup: there are backups of a higher revision or of a time to come, which are not removed: is the place another store's too, or was the clock wrong?")
	// ErrStalled means that a target has taken, or given, nothing for so long that it was given up.
	ErrStalled = errors.New("backup: the target hangs")
)
