package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"

	"github.com/keelson-io/keelson/backup"
	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/restore"
)

const restoreUsage = `Usage:

  keelson snapshot restore FILE --data-dir DIR [flags]
  keelson snapshot restore FILE --datastore URL [flags]
  keelson snapshot restore s3://BUCKET/KEY …

Make the data of a server that is not there yet, of a snapshot of Keelson's or of etcd's, or of the database of a
stopped etcd (member/snap/db). Nothing that is there is overwritten. What was written is read back and compared with
the file before it is put at its place. Until then, and after a kill, it is in DIR/restoring, beside which no server
starts and which the next restore removes. DIR may be there if it is empty, and be a mount.

What is in a bucket, as keelson backup list shows it, is fetched to where temporary files are (TMPDIR) first.

Each member of a new cluster restores the same file, with its own --name and --initial-advertise-peer-urls.

`

// restoreCommand is keelson snapshot restore.
type restoreCommand struct {
	opts          config.Options // of them those that say where the data are to be, and whose
	file          string
	skipHash      bool
	bump          uint64
	markCompacted bool
}

func (p *program) snapshotRestore(ctx context.Context, args []string) error {
	c, err := p.parseRestore(args)
	if err != nil {
		return err
	}
	bar := newProgressLine(p.stderr)
	defer bar.clear()
	f, err := c.open(ctx, p, bar)
	if err != nil {
		return err
	}
	stand, err := c.run(ctx, f, bar)
	meta := f.Meta()
	err = errors.Join(err, f.Close())
	bar.clear()
	if err != nil {
		return explainRestore(err)
	}
	return c.report(p.stdout, stand, meta)
}

// open opens the file, wherever it is.
func (c *restoreCommand) open(ctx context.Context, p *program, bar *progressLine) (*etcdfile.File, error) {
	if strings.HasPrefix(c.file, backup.Scheme) {
		bar.say("fetching the snapshot")
	}
	path, cleanup, err := backup.Fetch(ctx, c.file, "", server.BackupS3(c.opts, p.getenv))
	if err != nil {
		return nil, err
	}
	defer cleanup() // its name: it is there as long as it is open
	bar.say("reading the snapshot")
	f, err := openSnapshot(path, taking{bare: c.skipHash, skipHash: c.skipHash})
	if err != nil && path != c.file {
		err = fmt.Errorf("%s: %w", c.file, err)
	}
	return f, err
}

func (p *program) parseRestore(args []string) (*restoreCommand, error) {
	c := &restoreCommand{opts: config.Default()}
	o := &c.opts
	o.DataDir = ""
	f := p.flags(restoreUsage)
	f.own("--data-dir DIR", "the data directory, which is not there or empty; NAME.etcd if not given", &o.DataDir)
	f.own("--wal-dir DIR", "a directory of its own for the Raft log of a cluster's member", &o.WALDir)
	f.own("--name NAME", "the member's name; default if not given", &o.Name)
	f.own("--initial-cluster LIST", "the members of the new cluster, as name=url,name=url", &o.InitialCluster)
	f.own("--initial-cluster-token TOKEN", "sets apart clusters of the same members; etcd-cluster if not given", &o.InitialClusterToken)
	f.own("--initial-advertise-peer-urls LIST", "where the others reach this member", &o.AdvertisePeerURLs)
	f.own("--datastore URL", "restore into a PostgreSQL database instead, as the server's flag of this name has it", &o.Datastore)
	f.own("--datastore-name NAME", "which log in it, one that is not there; "+o.DatastoreName+" if not given", &o.DatastoreName)
	f.own("--datastore-password-file FILE", "where its password is", &o.DatastorePasswordFile)
	f.own("--bump-revision N", "raise the revision by so much, so that it is above all that clients have seen", &c.bump)
	f.own("--mark-compacted", "compact at the raised revision; goes with --bump-revision, and only with it", &c.markCompacted)
	f.own("--skip-hash-check", "take a file without a sha256, such as member/snap/db, and believe one that has it", &c.skipHash)
	f.server("--backup-s3-endpoint URL", "where the store of s3:// is; --backup-s3-region, -credentials-file", &o.BackupS3Endpoint)
	f.own("", "and -trusted-ca-file as for the server")
	defineStore(f, o)
	f.own("--initial-memory-map-size", "", new(uint64)) // etcdutl's, without meaning here
	var err error
	c.file, err = f.parseFile(args)
	if err != nil {
		return nil, err
	}
	switch {
	case c.bump > 0 != c.markCompacted:
		return nil, usageError("--mark-compacted required if --bump-revision > 0, and disallowed otherwise")
	case c.bump > math.MaxInt64/2:
		return nil, usageError("--bump-revision %d is too much", c.bump)
	case o.Datastore != "" && (o.DataDir != "" || o.WALDir != ""):
		return nil, usageError("--datastore and --data-dir are two places: give one")
	}
	given := o.DataDir
	o.EnsureDefaults()
	if o.Datastore != "" {
		o.DataDir = given
	}
	if err := o.ValidateDatastore(); err != nil {
		return nil, errUsage{err}
	}
	return c, nil
}

func (c *restoreCommand) run(ctx context.Context, f *etcdfile.File, bar *progressLine) (restore.Stand, error) {
	rev := f.Meta().Revision
	if c.bump > 0 && rev > math.MaxInt64/2 {
		return restore.Stand{}, fmt.Errorf("revision %d cannot be raised by %d", rev, c.bump)
	}
	o := restore.Options{Bump: int64(c.bump)}
	if bar.terminal() {
		var total int64
		for _, err := range f.Rows() {
			if err != nil {
				return restore.Stand{}, err
			}
			total++
		}
		o.Progress = bar.meter("restoring", total, formatRows).show
		o.Proved = bar.proving(total)
	}
	logger := slog.New(slog.DiscardHandler)
	if c.opts.Datastore != "" {
		return restore.Database(ctx, f, &c.opts, o, logger)
	}
	return restore.Dir(ctx, f, &c.opts, o, logger)
}

// proving is a meter that begins with the first word of it.
func (l *progressLine) proving(total int64) func(int64) {
	var m *meter
	return func(done int64) {
		if m == nil {
			m = l.meter("reading back", total, formatRows)
		}
		m.show(done)
	}
}

// explainRestore says of an error what there is to do.
func explainRestore(err error) error {
	switch {
	case errors.Is(err, restore.ErrAuth):
		return fmt.Errorf("%w; disable it where the snapshot is from (etcdctl auth disable) and save another one", err)
	case errors.Is(err, drivers.ErrNoSpace):
		return fmt.Errorf("there is no room for it and nothing was restored: make room, twice the size of the snapshot, and restore again (%w)", err)
	}
	return err
}

// report says what was restored, and what comes next.
func (c *restoreCommand) report(w io.Writer, s restore.Stand, m *etcdfile.Meta) error {
	o := &c.opts
	var b strings.Builder
	place := o.DataDir
	if o.Datastore != "" {
		place = fmt.Sprintf("the log %s in the database", o.DatastoreName)
	}
	fmt.Fprintf(&b, "Restored %s to %s: revision %d, %s, %d keys, %d leases; %d changes, all read back and equal to the file's. The hash of the keys is %d (etcdctl endpoint hashkv).\n",
		c.file, place, s.Revision, compactedAt(s.Compact), s.Keys, s.Leases, s.Rows, s.Hash)
	if c.bump > 0 {
		fmt.Fprintf(&b, "The snapshot's revision was %d and was raised by %d; what was there before can no longer be read at its revisions.\n", m.Revision, c.bump)
	}
	others, err := o.Others()
	if err != nil {
		return err
	}
	if o.Datastore == "" && len(others) > 0 {
		fmt.Fprintf(&b, "\nRestore the same file with the same Keelson and the same flags on %s, but for their own --name and --initial-advertise-peer-urls, before any of them is started.\n", strings.Join(others, ", "))
	}
	fmt.Fprintf(&b, "\nThen start the server as before with\n  %s\n", strings.Join(c.next(), " \\\n    "))
	if c.bump == 0 {
		fmt.Fprintf(&b, `
If anything was written after the snapshot, clients have seen revisions above %d, and what they keep in memory would be taken for what is there. Before they
go on, restart kube-apiserver and everything that watches it (controllers, scheduler, kubelets, operators), or restore with
--bump-revision 1000000000 --mark-compacted, which has them all list anew.
`, s.Revision)
	} else {
		fmt.Fprintf(&b, "\nClients that watched are told that their revision is compacted, and list anew. None of them may have seen a revision above %d.\n", s.Revision)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// next gives the flags that a server on the data needs.
func (c *restoreCommand) next() []string {
	o, d := &c.opts, config.Default()
	flags := []string{"keelson"}
	add := func(name, value, usual string) {
		if value != usual {
			flags = append(flags, "--"+name+"="+value)
		}
	}
	add("name", o.Name, d.Name)
	if o.Datastore != "" {
		flags = append(flags, "--datastore=URL")
		add("datastore-name", o.DatastoreName, d.DatastoreName)
		add("datastore-password-file", o.DatastorePasswordFile, "")
		return flags
	}
	add("data-dir", o.DataDir, "")
	add("wal-dir", o.WALDir, "")
	add("initial-cluster", o.InitialCluster, d.InitialCluster)
	add("initial-cluster-token", o.InitialClusterToken, d.InitialClusterToken)
	add("initial-advertise-peer-urls", o.AdvertisePeerURLs.String(), d.AdvertisePeerURLs.String())
	return flags
}
