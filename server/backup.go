package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keelson-io/keelson/backup"
	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/snapshot"
)

// BackupTarget opens the place for backups that options name. Of a directory it sees that it can be written.
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
	if n.opts.BackupDir != "" {
		// It may be one that hangs, or that is away: nothing waits for it here.
		b.target = backup.DirToBe(n.opts.BackupDir)
	} else if b.target, err = BackupTarget(n.opts, nil); err != nil {
		return err
	}
	n.backups = b
	return nil
}

// backup gives what makes backups, once the cluster is known.
func (n *Node) backup(cluster uint64, snapshots *snapshot.Maker) *backup.Runner {
	places := backup.Places{Snapshots: snapshots.Dir(), Backups: n.opts.BackupDir}
	if n.cluster != nil {
		places.Stores = []string{n.opts.DataDir}
		if n.opts.WALDir != "" {
			places.Stores = append(places.Stores, n.opts.WALDir)
		}
	}
	n.logger.Info("backups are made", "schedule", n.opts.BackupSchedule, "target", n.backups.target.String())
	return backup.NewRunner(backup.Options{
		Source: func(ctx context.Context) (*backup.Snapshot, error) {
			stream, revision, err := snapshots.Take(ctx)
			if err != nil {
				return nil, err
			}
			return &backup.Snapshot{ReadCloser: stream, Size: stream.Size(), Revision: revision}, nil
		},
		Target: n.backups.target, Schedule: n.backups.schedule, Cluster: cluster, Leads: n.first, Logger: n.logger,
		Ready:    func(ctx context.Context) error { return n.backupRoom(ctx, places) },
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

// backupRoom sees that there is room for the snapshot of a backup, and for the backup itself where that is a directory. Nobody has asked for them, and they come again and again: they are not to
// take the last room of a disk that may be the store's.
func (n *Node) backupRoom(ctx context.Context, places backup.Places) error {
	size, err := n.snapshotSize(ctx)
	if err != nil {
		return err
	}
	// It is the server's own, unlike the directory of backups.
	if err := os.MkdirAll(places.Snapshots, 0o700); err != nil {
		return err
	}
	return places.Room(size)
}

// snapshotSize is about what a snapshot of now takes, which has nothing of what the log keeps beside the store, nor of what is free or dead in its database. It is no more than the log has in use,
// where that is known.
func (n *Node) snapshotSize(ctx context.Context) (int64, error) {
	needs := etcdfile.Needs(n.store.Index().Versions())
	if _, estimated := n.log.(drivers.Estimator); estimated {
		return needs, nil
	}
	_, inUse, err := n.log.Size(ctx)
	if err != nil {
		return 0, err
	}
	return min(inUse, needs), nil
}
