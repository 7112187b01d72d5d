package server

import (
	"context"
	"fmt"

	"github.com/keelson-io/keelson/backup"
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
		Keep: backup.Keep{Count: n.opts.BackupKeep, For: n.opts.BackupKeepFor},
	})
}

// first tells whether this server is the one that does what one does for all: the leader, or the keeper of a log that is shared.
func (n *Node) first() bool {
	if n.roster != nil {
		return n.roster.Keeper()
	}
	return n.leads()
}
