package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/keelson-io/keelson/backup"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// backupCommand makes a backup now, or lists those that there are.
type backupCommand struct {
	list   bool
	opts   config.Options // of them those that say where backups are, and what is kept
	client clientOptions
	lost   bool // take what the server has, though it may lack what its cluster has
	json   bool
}

const backupUsage = `Usage:

  keelson backup [flags]         make a backup now
  keelson backup list [flags]    list the backups that there are

A backup is a snapshot of a running server, or of any etcd: it is read back after it was stored, and older ones
that are not to be kept are then removed. Name, place and flags are those of the backups that a server
makes by itself with --backup-schedule, and the server's ETCD_BACKUP_* variables count here too.
Restore one with keelson snapshot restore. The exit code is 0, 1 for a failure, 2 for wrong usage.

`

func (p *program) backup(ctx context.Context, args []string) error {
	c, err := p.parseBackup(args)
	switch {
	case err != nil:
		return err
	case c.list:
		return c.show(ctx, p)
	}
	return c.now(ctx, p)
}

func (p *program) parseBackup(args []string) (*backupCommand, error) {
	c := &backupCommand{opts: config.Default()}
	if len(args) > 0 && args[0] == "list" {
		c.list, args = true, args[1:]
	}
	o := &c.opts
	f := p.flags(backupUsage)
	f.server("--backup-dir DIR", "the directory of the backups", &o.BackupDir)
	f.server("--backup-s3-bucket NAME", "the bucket of the backups; --backup-s3-endpoint, -region,", &o.BackupS3Bucket)
	f.own("", "-prefix, -credentials-file and -trusted-ca-file as for the server")
	f.server("--backup-s3-endpoint --backup-s3-prefix", "", &o.BackupS3Endpoint, &o.BackupS3Prefix)
	defineStore(f, o)
	f.server("--backup-keep N", "keep the newest N", &o.BackupKeep)
	f.server("--backup-keep-for DURATION", "keep those that are no older", &o.BackupKeepFor)
	f.own("--lost-quorum", lostQuorumHelp, &c.lost)
	f.own("--json", "one JSON object for each backup", &c.json)
	c.client.define(f)
	if err := f.parseAlone(args); err != nil {
		return nil, err
	}
	if err := o.ValidateBackupTarget(); err != nil {
		return nil, errUsage{err}
	}
	return c, nil
}

// defineStore defines the server's flags that say where a store of buckets is and who asks it, but for its endpoint.
func defineStore(f *flags, o *config.Options) {
	f.server("--backup-s3-region --backup-s3-credentials-file --backup-s3-trusted-ca-file", "", &o.BackupS3Region, &o.BackupS3CredentialsFile, &o.BackupS3CAFile)
}

// now makes a backup.
func (c *backupCommand) now(ctx context.Context, p *program) error {
	target, err := server.BackupTarget(c.opts, p.getenv)
	if err != nil {
		return err
	}
	conn, status, err := c.client.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	bar := newProgressLine(p.stderr)
	defer bar.clear()
	dir, err := os.MkdirTemp("", "keelson-backup-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	if _, err := save(ctx, conn, saving{path: path, lost: c.lost, bar: bar}); err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	s, err := checkedSnapshot(path)
	if err != nil {
		return err
	}
	defer s.Close()
	bar.say("storing the backup")
	m := &backup.Maker{
		Target: target, Cluster: status.GetHeader().GetClusterId(), Now: time.Now,
		Keep: backup.Keep{Count: c.opts.BackupKeep, For: c.opts.BackupKeepFor},
	}
	made, err := m.MakeWatched(ctx, s, 0)
	bar.clear()
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if err := c.print(p.stdout, target, made.Backup); err != nil {
		return err
	}
	if made.Left != nil {
		return fmt.Errorf("the backup is there, but old ones could not be removed: %w", made.Left)
	}
	return nil
}

// checkedSnapshot opens a snapshot to store it, after it was found to be whole.
func checkedSnapshot(path string) (*backup.Snapshot, error) {
	whole, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		return nil, err
	}
	revision := whole.Meta().Revision
	if err := whole.Close(); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &backup.Snapshot{ReadCloser: f, Size: info.Size(), Revision: revision}, nil
}

// show lists the backups, the oldest first.
func (c *backupCommand) show(ctx context.Context, p *program) error {
	var target backup.Target = backup.AtDir(c.opts.BackupDir)
	if c.opts.BackupDir == "" {
		var err error
		if target, err = server.BackupTarget(c.opts, p.getenv); err != nil {
			return err
		}
	}
	all, err := target.List(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintf(p.stderr, "There are no backups in %s.\n", target)
	}
	backup.Sort(all)
	return c.print(p.stdout, target, all...)
}

// listed is a backup in JSON.
type listed struct {
	Location string    `json:"location"`
	Cluster  string    `json:"cluster"`
	Time     time.Time `json:"time"`
	Revision int64     `json:"revision"`
	Size     int64     `json:"size"`
}

func (c *backupCommand) print(w io.Writer, target backup.Target, all ...backup.Backup) error {
	if c.json {
		out := json.NewEncoder(w)
		for _, b := range all {
			if err := out.Encode(listed{target.String() + b.Name(), fmt.Sprintf("%x", b.Cluster), b.Time, b.Revision, b.Size}); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range all {
		if _, err := fmt.Fprintf(table, "%s\trevision %d\t%d bytes\tof %s\n", target.String()+b.Name(), b.Revision, b.Size, b.Time.Local().Format(time.DateTime+" MST")); err != nil {
			return err
		}
	}
	return table.Flush()
}
