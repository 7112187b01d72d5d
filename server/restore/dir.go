package restore

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// Dir makes the data of a member in its data directory and its --wal-dir, as the options name them, beside the others of --initial-cluster: each of those
// restores the same file with its own name. Both directories may be there and be empty, a mount or a symlink to such. Nothing is at its place before all of it is
// on disk and was read back; nothing that is there is touched.
//
// All is made in a directory "restoring" within each. After a kill there may be one, on which no server starts and which the next Dir removes.
func Dir(ctx context.Context, f *etcdfile.File, opts *config.Options, o Options, logger *slog.Logger) (Stand, error) {
	if err := opts.VerifyBootstrap(ctx); err != nil {
		return Stand{}, err
	}
	founders, self, err := server.Founding(opts)
	if err != nil {
		return Stand{}, err
	}
	// A store that was restored is another one than that which the backup is of, and its backups are others.
	if len(founders.Members) == 1 && opts.Indistinct() {
		founders.ClusterID = rand.Uint64()
	}
	o.Members = founders
	s, err := occupy(opts)
	if err != nil {
		return Stand{}, err
	}
	defer s.release()
	stand, err := member(ctx, f, s.work(opts), o, raft.Identity{Cluster: founders.ClusterID, Member: self}, logger)
	if err == nil {
		err = s.place()
	}
	if err = s.finish(err); err != nil {
		return Stand{}, err
	}
	return stand, nil
}

// member makes the directories of a member.
func member(ctx context.Context, f *etcdfile.File, opts *config.Options, o Options, id raft.Identity, logger *slog.Logger) (Stand, error) {
	path, err := server.DatabasePath(opts.DataDir)
	if err != nil {
		return Stand{}, err
	}
	open := func(readOnly bool) (datastore, error) {
		return sqlite.Open(ctx, sqlite.Options{Path: path, Logger: logger, ReadOnly: readOnly})
	}
	end, stand, err := proven(ctx, open, f, o)
	if err != nil {
		return Stand{}, err
	}
	if len(o.Members.Members) > 1 {
		if err := found(opts, o, id, end, logger); err != nil {
			return Stand{}, err
		}
	}
	for _, dir := range []string{filepath.Dir(path), opts.DataDir} {
		if err := syncDir(dir); err != nil {
			return Stand{}, err
		}
	}
	return stand, nil
}

// datastore is a log in a database.
type datastore interface {
	drivers.Log
	io.Closer
}

// proven writes a log and reads it back by another opening of its database.
func proven(ctx context.Context, open func(readOnly bool) (datastore, error), f *etcdfile.File, o Options) (drivers.End, Stand, error) {
	log, err := open(false)
	if err != nil {
		return drivers.End{}, Stand{}, err
	}
	end, err := Write(ctx, log, f, o)
	if err = errors.Join(err, log.Close()); err != nil {
		return drivers.End{}, Stand{}, err
	}
	if log, err = open(true); err != nil {
		return drivers.End{}, Stand{}, err
	}
	stand, err := Prove(ctx, log, f, o)
	return end, stand, errors.Join(err, log.Close())
}

// found makes the Raft log of one of several.
func found(opts *config.Options, o Options, id raft.Identity, end drivers.End, logger *slog.Logger) error {
	dir := server.RaftDir(*opts)
	if err := makeAll(filepath.Dir(dir)); err != nil {
		return err
	}
	var voters []uint64
	for _, m := range o.Members.Members {
		voters = append(voters, m.ID)
	}
	return raft.Bootstrap(raft.Options{Dir: dir, Logger: logger}, id, voters, end)
}
