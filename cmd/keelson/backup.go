package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	f := flag.NewFlagSet("backup", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	c.client.define(f, p.getenv)
	if err := p.defineBackup(f, &c.opts); err != nil {
		return nil, err
	}
	f.BoolVar(&c.lost, "lost-quorum", false, "")
	f.BoolVar(&c.json, "json", false, "")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.stdout, backupUsage)
		writeFlag(p.stdout, "--backup-dir DIR", "the directory of the backups")
		writeFlag(p.stdout, "--backup-s3-bucket NAME", "the bucket of the backups; --backup-s3-endpoint, -region,")
		writeFlag(p.stdout, "", "-prefix, -credentials-file and -trusted-ca-file as for the server")
		writeFlag(p.stdout, "--backup-keep N", "keep the newest N")
		writeFlag(p.stdout, "--backup-keep-for DURATION", "keep those that are no older")
		writeFlag(p.stdout, "--lost-quorum", lostQuorumHelp)
		writeFlag(p.stdout, "--json", "one JSON object for each backup")
		c.client.help(p.stdout)
		return nil, flag.ErrHelp
	case err != nil:
		return nil, errUsage{err}
	case f.NArg() > 0:
		return nil, usageError("it takes no argument such as %q", f.Arg(0))
	}
	if err := c.opts.ValidateBackupTarget(); err != nil {
		return nil, errUsage{err}
	}
	return c, nil
}

// defineStore defines the server's flags that say where a store of buckets is and who asks it, with what its variables say.
func (p *program) defineStore(f *flag.FlagSet, o *config.Options) {
	p.defineText(f, &o.BackupS3Endpoint, "backup-s3-endpoint")
	p.defineText(f, &o.BackupS3Region, "backup-s3-region")
	p.defineText(f, &o.BackupS3CredentialsFile, "backup-s3-credentials-file")
	p.defineText(f, &o.BackupS3CAFile, "backup-s3-trusted-ca-file")
}

// defineText defines a flag of the server's, with what its variable says.
func (p *program) defineText(f *flag.FlagSet, field *string, name string) {
	f.StringVar(field, name, p.getenv("ETCD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))), "")
}

// defineBackup defines the server's flags about the place of backups and what is kept there, with what its variables say.
func (p *program) defineBackup(f *flag.FlagSet, o *config.Options) error {
	p.defineText(f, &o.BackupDir, "backup-dir")
	p.defineText(f, &o.BackupS3Bucket, "backup-s3-bucket")
	p.defineText(f, &o.BackupS3Prefix, "backup-s3-prefix")
	p.defineStore(f, o)
	var err error
	if text := p.getenv("ETCD_BACKUP_KEEP"); text != "" {
		if o.BackupKeep, err = strconv.Atoi(text); err != nil {
			return usageError("invalid value %q for ETCD_BACKUP_KEEP", text)
		}
	}
	if text := p.getenv("ETCD_BACKUP_KEEP_FOR"); text != "" {
		if o.BackupKeepFor, err = time.ParseDuration(text); err != nil {
			return usageError("invalid value %q for ETCD_BACKUP_KEEP_FOR", text)
		}
	}
	f.IntVar(&o.BackupKeep, "backup-keep", o.BackupKeep, "")
	f.DurationVar(&o.BackupKeepFor, "backup-keep-for", o.BackupKeepFor, "")
	return nil
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
