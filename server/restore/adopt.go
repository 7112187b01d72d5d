package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

const (
	// adopting is where in a data directory that of a member is made of what an etcd has left there.
	adopting = "adopting"
	// AdoptedFrom is what an etcd's member directory is called, within the data directory, when it has been taken over.
	AdoptedFrom = "member.etcd"
)

// ErrNotAlone says that an etcd's data directory is that of one of several members, each of which may have more or less than the others.
var ErrNotAlone = errors.New("the data directory is that of one of several members of an etcd cluster, which may differ in how far they are: save a snapshot of one (etcdctl snapshot save) and restore it for each (keelson snapshot restore)")

// ErrBehind says that an etcd was killed, or stopped otherwise than it should.
var ErrBehind = errors.New("the etcd's write-ahead log has more than its database: start etcd on it once more and stop it with SIGTERM")

// Adopt takes over what an etcd has left in the data directory that the options name, so that a server can start there: after etcdutl snapshot
// restore, on one member or each of several, or where an etcd ran alone and was stopped. It does nothing if there is no etcd's data, or if the store is elsewhere.
//
// All is within the data directory, which may be a mount: what is new is made and proven in the directory "adopting", then etcd's is renamed, to
// AdoptedFrom, and what is new comes to its place. etcd's files are not altered and not removed. A kill at any time leaves what the next call goes on with.
func Adopt(ctx context.Context, opts *config.Options, logger *slog.Logger) error {
	if opts.Datastore != "" {
		return nil
	}
	a := adoption{opts: opts, logger: logger, work: *opts}
	a.work.DataDir = filepath.Join(opts.DataDir, adopting)
	if a.wanted() {
		return a.run(ctx)
	}
	return nil
}

type adoption struct {
	opts   *config.Options
	work   config.Options // with the directory in which the new one is made
	logger *slog.Logger
}

func (a *adoption) path(elem ...string) string {
	return filepath.Join(append([]string{a.opts.DataDir}, elem...)...)
}

// wanted tells whether there is something to take over, or one who did was killed.
func (a *adoption) wanted() bool {
	if exists(a.path("member", "keelson.db")) {
		return false
	}
	return exists(a.path("member", "snap", "db")) || a.parted()
}

// parted tells whether etcd's directory has gone aside, and the new one has not come to its place.
func (a *adoption) parted() bool {
	return !exists(a.path("member")) && exists(a.path(AdoptedFrom)) && exists(filepath.Join(a.work.DataDir, "member"))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (a *adoption) run(ctx context.Context) error {
	release, err := hold(a.work.DataDir)
	if err != nil {
		return err
	}
	defer release()
	if !a.parted() {
		if err := a.prepare(ctx); err != nil {
			return fmt.Errorf("take over the data of etcd in %s: %w", a.opts.DataDir, errors.Join(err, os.RemoveAll(a.work.DataDir)))
		}
	}
	// What is new is whole, and may have its name.
	if err := move(filepath.Join(a.work.DataDir, "member"), a.path("member")); err != nil {
		return err
	}
	a.logger.Warn("the data of etcd have been taken over, and what comes is written to Keelson's alone; etcd's files are kept, for you to remove", "kept", a.path(AdoptedFrom))
	return os.Remove(a.work.DataDir)
}

// prepare makes the new directory, and puts etcd's aside.
func (a *adoption) prepare(ctx context.Context) error {
	if a.opts.WALDir != "" {
		return errors.New("it has a --wal-dir: save a snapshot and restore it (keelson snapshot restore)")
	}
	if exists(a.path(AdoptedFrom)) {
		return fmt.Errorf("%s is there, of an earlier time: move it away", a.path(AdoptedFrom))
	}
	if err := empty(a.work.DataDir); err != nil {
		return err
	}
	f, err := etcdfile.Open(a.path("member", "snap", "db"), etcdfile.Options{})
	if err != nil {
		return err
	}
	// Until it has its new name it is locked, so no etcd starts on it.
	defer f.Close()
	founders, self, err := server.Founding(a.opts)
	if err != nil {
		return err
	}
	var ids []uint64
	for _, m := range founders.Members {
		ids = append(ids, m.ID)
	}
	if err := a.mayBeTaken(f.Meta(), ids); err != nil {
		return err
	}
	a.logger.Warn("the data directory holds the data of an etcd, which are taken over", "rows-bytes", size(a.path("member", "snap", "db")), "revision", f.Meta().Revision)
	stand, err := member(ctx, f, &a.work, Options{Members: founders, Progress: a.tell("written"), Proved: a.tell("proven")}, raft.Identity{Cluster: founders.ClusterID, Member: self}, a.logger)
	if err != nil {
		return err
	}
	a.logger.Info("the data are written and proven", "revision", stand.Revision, "compact_revision", stand.Compact, "keys", stand.Keys, "hash", stand.Hash)
	if err := os.Rename(a.path("member"), a.path(AdoptedFrom)); err != nil {
		return err
	}
	return syncDir(a.opts.DataDir)
}

// mayBeTaken tells whether a database has all that its etcd has promised, and the cluster is that of the options.
func (a *adoption) mayBeTaken(m *etcdfile.Meta, founders []uint64) error {
	last, err := etcdfile.LastEntry(a.path("member", "wal"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no write-ahead log in %s, so nobody knows whether the database is all: restore it (keelson snapshot restore --skip-hash-check %s)", a.path("member", "wal"), a.path("member", "snap", "db"))
	case err != nil:
		return err
	case last > m.Index:
		return fmt.Errorf("%w (entries %d and %d)", ErrBehind, last, m.Index)
	}
	// A restore writes an entry for each member and nothing else.
	restored := len(m.Members) > 0 && last == uint64(len(m.Members))
	switch {
	case len(m.Members) > 1 && !restored:
		return ErrNotAlone
	case len(m.Members) <= 1 && len(founders) == 1:
		return nil
	}
	var ids []uint64
	for _, e := range m.Members {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	slices.Sort(founders)
	if !slices.Equal(ids, founders) {
		return fmt.Errorf("it was restored with other members than --initial-cluster and --initial-cluster-token say (%x, and not %x): restore it with the same", ids, founders)
	}
	return nil
}

// tell gives a function that tells the log now and then how far it is.
func (a *adoption) tell(what string) func(int64) {
	told := time.Now()
	return func(rows int64) {
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			a.logger.Info("taking over the data of etcd", what, rows)
		}
	}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
