package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// unfinished is what a directory is called until it is whole.
const unfinished = ".restoring"

// Dir makes the data directory of a member, and its --wal-dir, as the options name them, beside the others of --initial-cluster: each of those
// restores the same file with its own name. Nothing is at its place before all of it is on disk; nothing that is there is touched.
//
// After a kill there may be a directory of the same name that ends in ".restoring", which the next Dir removes.
func Dir(ctx context.Context, f *etcdfile.File, opts *config.Options, o Options, logger *slog.Logger) error {
	if err := opts.VerifyBootstrap(ctx); err != nil {
		return err
	}
	founders, self, err := server.Founding(opts)
	if err != nil {
		return err
	}
	o.Members = founders
	if err := vacant(opts.DataDir, opts.WALDir); err != nil {
		return err
	}
	work := *opts
	work.DataDir = filepath.Clean(opts.DataDir) + unfinished
	if opts.WALDir != "" {
		work.WALDir = filepath.Clean(opts.WALDir) + unfinished
	}
	release, err := claim(work.DataDir)
	if err != nil {
		return err
	}
	defer release()
	if err = removeAll(work.WALDir); err == nil {
		err = member(ctx, f, &work, o, raft.Identity{Cluster: founders.ClusterID, Member: self}, logger)
	}
	if err == nil {
		err = place(&work, opts)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(work.DataDir), removeAll(work.WALDir))
	}
	return nil
}

func removeAll(dir string) error {
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

// vacant refuses places where there is something. The texts are etcdutl's.
func vacant(dataDir, walDir string) error {
	entries, err := os.ReadDir(dataDir)
	if len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("data-dir %q not empty or could not be read", dataDir), err)
	}
	if walDir == "" {
		return nil
	}
	if _, err := os.Lstat(walDir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("wal-dir %q exists", walDir), err)
	}
	return nil
}

// member makes the directories of a member.
func member(ctx context.Context, f *etcdfile.File, opts *config.Options, o Options, id raft.Identity, logger *slog.Logger) error {
	path, err := server.DatabasePath(opts.DataDir)
	if err != nil {
		return err
	}
	log, err := sqlite.Open(ctx, sqlite.Options{Path: path, Logger: logger})
	if err != nil {
		return err
	}
	end, err := Write(ctx, log, f, o)
	if err = errors.Join(err, log.Close()); err != nil {
		return err
	}
	if len(o.Members.Members) > 1 {
		if err := found(opts, o, id, end, logger); err != nil {
			return err
		}
	}
	for _, dir := range []string{filepath.Dir(path), opts.DataDir} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// found makes the Raft log of one of several.
func found(opts *config.Options, o Options, id raft.Identity, end drivers.End, logger *slog.Logger) error {
	dir := server.RaftDir(*opts)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	var voters []uint64
	for _, m := range o.Members.Members {
		voters = append(voters, m.ID)
	}
	return raft.Bootstrap(raft.Options{Dir: dir, Logger: logger}, id, voters, end)
}

// place gives what is whole its name: the data directory last, since without it the rest is nothing.
func place(work, opts *config.Options) error {
	if _, err := os.Stat(work.WALDir); opts.WALDir != "" && err == nil {
		if err := move(work.WALDir, opts.WALDir); err != nil {
			return err
		}
	}
	return move(work.DataDir, opts.DataDir)
}

// move renames a directory for good. An empty one may be at the place.
func move(from, to string) error {
	_ = os.Remove(to) // which removes no other
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(to)))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
