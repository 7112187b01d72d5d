package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog/mvcc"
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
// AdoptedFrom, and what is new comes to its place. etcd's files are not altered and not removed. A kill at any time leaves what the next call goes on with: before the first rename
// it begins anew, after it what is new is whole and is never removed. A directory that has only etcd's files aside, and nothing new, is refused: a server would begin an empty store.
func Adopt(ctx context.Context, opts *config.Options, logger *slog.Logger) error {
	if opts.Datastore != "" {
		return nil
	}
	a := adoption{opts: opts, logger: logger, work: *opts}
	a.work.DataDir = filepath.Join(opts.DataDir, adopting)
	p, err := a.look()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("look into the data directory: %w: it and its files must belong to the user that the server runs as", err)
	case err != nil:
		return fmt.Errorf("look into the data directory: %w", err)
	case p.own, !p.etcd && !p.aside:
		// A kill may have left them at the very end. A directory that has something in it stays, and there is nothing left to take over that the lock would be for.
		_ = removeHeld(a.work.DataDir)
		return nil // what else is in the way the server will say
	}
	if err := a.run(ctx); err != nil {
		return fmt.Errorf("take over the data of etcd in %s: %w", a.opts.DataDir, err)
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

// exist tells which of some paths are there. What cannot be told is an error: it must not look like an empty store.
func exist(paths ...string) ([]bool, error) {
	there := make([]bool, len(paths))
	for i, path := range paths {
		switch _, err := os.Lstat(path); {
		case err == nil:
			there[i] = true
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			return nil, err
		}
	}
	return there, nil
}

// parts of a data directory.
type parts struct{ own, etcd, member, aside, made bool }

func (a *adoption) look() (p parts, err error) {
	there, err := exist(a.path("member", "keelson.db"), a.path("member", "snap", "db"), a.path("member"), a.path(AdoptedFrom), filepath.Join(a.work.DataDir, "member"))
	if err != nil {
		return p, err
	}
	return parts{there[0], there[1], there[2], there[3], there[4]}, nil
}

func (a *adoption) run(ctx context.Context) error {
	release, err := hold(a.work.DataDir)
	if err != nil {
		return err
	}
	defer release()
	p, err := a.look()
	if err != nil || p.own {
		_ = removeHeld(a.work.DataDir)
		return err
	}
	var from io.Closer // etcd's database, locked until it has its new name: no etcd starts on it
	switch {
	case p.etcd && p.aside:
		err = fmt.Errorf("%s is there, of an earlier time: move it away", a.path(AdoptedFrom))
	case p.etcd:
		from, err = a.make(ctx)
	case p.member || !p.made:
		err = fmt.Errorf("the etcd's files are in %s, and what was made of them is gone: move that directory back to %s to take them over once more, or away, if the server is to begin an empty store",
			a.path(AdoptedFrom), a.path("member"))
	}
	if err != nil {
		return errors.Join(err, removeIf(p.etcd, a.work.DataDir))
	}
	if p.etcd {
		defer from.Close()
		if err := move(a.path("member"), a.path(AdoptedFrom)); err != nil {
			return err
		}
	}
	if err := move(filepath.Join(a.work.DataDir, "member"), a.path("member")); err != nil {
		return err
	}
	a.logger.Warn("the data of etcd have been taken over, and what comes is written to Keelson's alone; etcd's files are kept, for you to remove", "kept", a.path(AdoptedFrom))
	if err := removeHeld(a.work.DataDir); err != nil {
		a.logger.Warn("what was needed while the data of etcd were taken over could not be removed, and is of no use any more", "error", err)
	}
	return nil
}

// removeIf removes what was made while etcd's files are at their place still, and otherwise a directory that is empty.
func removeIf(all bool, dir string) error {
	if all {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	_ = removeHeld(dir)
	return nil
}

// make makes the new member directory. It gives etcd's database, open and locked.
func (a *adoption) make(ctx context.Context) (_ io.Closer, err error) {
	if a.opts.WALDir != "" {
		return nil, errors.New("it has a --wal-dir: save a snapshot and restore it (keelson snapshot restore)")
	}
	if err := a.opts.VerifyBootstrap(ctx); err != nil {
		return nil, err
	}
	founders, self, err := server.Founding(a.opts)
	if err != nil {
		return nil, err
	}
	if err := empty(a.work.DataDir); err != nil {
		return nil, err
	}
	path := a.path("member", "snap", "db")
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	wal, err := etcdfile.ReadWAL(a.path("member", "wal"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no write-ahead log in %s, so nobody knows whether the database is all: restore it (keelson snapshot restore --skip-hash-check %s)", a.path("member", "wal"), path)
	}
	if err != nil {
		return nil, err
	}
	if err := mayBeTaken(f.Meta(), wal, founders, self); err != nil {
		return nil, err
	}
	a.logger.Warn("the data directory holds the data of an etcd, which are taken over", "revision", f.Meta().Revision, "kept-at", a.path(AdoptedFrom))
	stand, err := member(ctx, f, &a.work, Options{Members: founders, Progress: a.tell("written"), Proved: a.tell("proven")}, raft.Identity{Cluster: founders.ClusterID, Member: self}, a.logger)
	if err != nil {
		return nil, err
	}
	a.logger.Info("the data are written and proven", "revision", stand.Revision, "compact_revision", stand.Compact, "keys", stand.Keys, "hash", stand.Hash)
	return f, nil
}

// mayBeTaken tells whether a database has all that its etcd has promised, and the cluster is that of the options.
func mayBeTaken(m *etcdfile.Meta, wal etcdfile.WAL, founders *mvcc.Bootstrap, self uint64) error {
	switch {
	case wal.Last > m.Index:
		return fmt.Errorf("%w (entries %d and %d)", ErrBehind, wal.Last, m.Index)
	case wal.Last < m.Index:
		return fmt.Errorf("the database is at entry %d, and the write-ahead log ends at %d: they are not of one etcd, or the log was cut: save a snapshot of an etcd on them, or restore a backup", m.Index, wal.Last)
	case slices.Contains(m.Removed, wal.Member):
		return fmt.Errorf("it is of a member that was removed from its cluster (%x): others have gone on without it", wal.Member)
	}
	var ids, initial []uint64
	for _, e := range m.Members {
		ids = append(ids, e.ID)
	}
	for _, e := range founders.Members {
		initial = append(initial, e.ID)
	}
	slices.Sort(ids)
	slices.Sort(initial)
	// A restore writes an entry for each member and nothing else. That of etcd 3.4 has the members in these entries alone.
	restored := wal.Last == uint64(max(len(ids), len(initial)))
	switch alone := slices.Equal(ids, []uint64{wal.Member}) && len(initial) == 1; {
	case alone:
		return nil // under whatever id
	case !restored && len(ids) > 1:
		return ErrNotAlone
	case restored && (slices.Equal(ids, initial) || len(ids) == 0) && wal.Member == self:
		return nil
	}
	return fmt.Errorf("it is of the member %x of %x, and --name, --initial-cluster and --initial-cluster-token say %x of %x: start, or restore, it with the same", wal.Member, ids, self, initial)
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
