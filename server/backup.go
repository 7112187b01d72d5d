package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/backup"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/snapshot"
)

// BackupTarget opens the place for backups that options name.
func BackupTarget(o config.Options, getenv func(string) string) (backup.Target, error) {
	if o.BackupDir != "" {
		return backup.OpenDir(o.BackupDir)
	}
	return backup.OpenS3(BackupS3(o, getenv))
}

// BackupS3 gives the options of a bucket. Nil: the process's environment.
func BackupS3(o config.Options, getenv func(string) string) backup.S3Options {
	return backup.S3Options{
		Bucket: o.BackupS3Bucket, Prefix: o.BackupS3Prefix, Endpoint: o.BackupS3Endpoint, Region: o.BackupS3Region,
		CredentialsFile: o.BackupS3CredentialsFile, CAFile: o.BackupS3CAFile, Getenv: getenv,
	}
}

// backups are what is known of a server's backups before it serves.
type backups struct {
	schedule backup.Schedule
	target   backup.Target
}

// openBackups sees that backups can be made as the options say; nil if they say nothing.
func (n *Node) openBackups() (err error) {
	if n.opts.BackupSchedule == "" {
		return nil
	}
	b := new(backups)
	if b.schedule, err = backup.ParseSchedule(n.opts.BackupSchedule); err != nil {
		return fmt.Errorf("--backup-schedule: %w", err)
	}
	if b.target, err = BackupTarget(n.opts, nil); err != nil {
		return err
	}
	n.backups = b
	return nil
}

// backup gives what makes backups, once the cluster is known.
func (n *Node) backup(cluster uint64, snapshots *snapshot.Maker) *backup.Runner {
	dir := n.snapshots().Dir
	n.logger.Info("backups are made", "schedule", n.opts.BackupSchedule, "target", n.backups.target.String())
	return backup.NewRunner(backup.Options{
		Source: func(ctx context.Context) (*backup.Snapshot, error) {
			_, inUse, err := n.log.Size(ctx)
			if err == nil {
				err = room(dir, inUse)
			}
			if err != nil {
				return nil, err
			}
			stream, revision, err := snapshots.Take(ctx)
			if err != nil {
				return nil, err
			}
			return &backup.Snapshot{ReadCloser: stream, Size: stream.Size(), Revision: revision}, nil
		},
		Target: n.backups.target, Schedule: n.backups.schedule, Cluster: cluster, Leads: n.first, Logger: n.logger,
		Keep:     backup.Keep{Count: n.opts.BackupKeep, For: n.opts.BackupKeepFor},
		Revision: func() int64 { return n.store.Index().Rev }, Vouch: vouch,
	})
}

// vouch tells whether a backup is a whole snapshot.
func vouch(r io.Reader) error {
	err := etcdfile.VerifyHash(r)
	if errors.Is(err, etcdfile.ErrHash) {
		return fmt.Errorf("%w: %w", backup.ErrAltered, err)
	}
	return err
}

// first tells whether this server is the one that does what one does for all: the leader, or the keeper of a log that is shared.
func (n *Node) first() bool {
	if n.roster != nil {
		return n.roster.Keeper()
	}
	return n.leads()
}

// ErrNoRoom means that there is no room to make the snapshot of a backup.
var ErrNoRoom = errors.New("server: no room to make a snapshot for the backup")

// room sees that so many bytes are free where a directory is. Nobody has asked for the snapshots of backups, which come again and again: they are not to
// take the last room of a disk that may be the store's.
func room(dir string, bytes int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	// Block sizes and counts are far below what overflows here, but on file systems that know no end.
	if free := float64(disk.Bavail) * float64(disk.Bsize); free < float64(bytes) {
		return fmt.Errorf("%w: the store has %d bytes in use, and in %s there are %.0f free", ErrNoRoom, bytes, dir, free)
	}
	return nil
}
