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
	"syscall"

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
// restores the same file with its own name. Nothing is at its place before all of it is on disk and was read back; nothing that is there is touched.
//
// After a kill there may be a directory of the same name that ends in ".restoring", which the next Dir removes.
func Dir(ctx context.Context, f *etcdfile.File, opts *config.Options, o Options, logger *slog.Logger) (Stand, error) {
	if err := opts.VerifyBootstrap(ctx); err != nil {
		return Stand{}, err
	}
	founders, self, err := server.Founding(opts)
	if err != nil {
		return Stand{}, err
	}
	o.Members = founders
	if err := vacant(opts.DataDir); err != nil {
		return Stand{}, err
	}
	work := *opts
	work.DataDir = filepath.Clean(opts.DataDir) + unfinished
	if opts.WALDir != "" {
		work.WALDir = filepath.Clean(opts.WALDir) + unfinished
	}
	release, err := hold(work.DataDir)
	if err != nil {
		return Stand{}, err
	}
	defer release()
	var stand Stand
	if err = prepare(&work, opts); err == nil {
		stand, err = member(ctx, f, &work, o, raft.Identity{Cluster: founders.ClusterID, Member: self}, logger)
	}
	if err == nil {
		err = place(&work, opts)
	}
	if err != nil {
		return Stand{}, errors.Join(err, os.RemoveAll(work.DataDir), removeAll(work.WALDir))
	}
	return stand, nil
}

// prepare removes what a process has left that was killed, and refuses a --wal-dir that is there.
func prepare(work, opts *config.Options) error {
	if err := takeBack(work, opts); err != nil {
		return err
	}
	if err := removeAll(work.WALDir); err != nil {
		return err
	}
	if err := empty(work.DataDir); err != nil {
		return err
	}
	if opts.WALDir == "" {
		return nil
	}
	if _, err := os.Lstat(opts.WALDir); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("wal-dir %q exists", opts.WALDir), err)
	}
	return nil
}

func removeAll(dir string) error {
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

// vacant refuses a place where there is something. The text is etcdutl's.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("data-dir %q not empty or could not be read", dir), err)
	}
	return nil
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

// placedWAL is a file in an unfinished data directory that tells which directory has been moved to the place of --wal-dir.
const placedWAL = "placed-wal"

// place gives what is whole its name: the data directory last, since without it the rest is nothing.
func place(work, opts *config.Options) error {
	info, err := os.Stat(work.WALDir)
	if opts.WALDir == "" || err != nil {
		return move(work.DataDir, opts.DataDir)
	}
	if err := writeSynced(filepath.Join(work.DataDir, placedWAL), identify(info)); err != nil {
		return err
	}
	if err := move(work.WALDir, opts.WALDir); err != nil {
		return err
	}
	if err := move(work.DataDir, opts.DataDir); err != nil {
		return errors.Join(err, os.Rename(opts.WALDir, work.WALDir))
	}
	return os.Remove(filepath.Join(opts.DataDir, placedWAL))
}

// takeBack takes away the directory that a process has moved to the place of --wal-dir before it was killed.
func takeBack(work, opts *config.Options) error {
	note, err := os.ReadFile(filepath.Join(work.DataDir, placedWAL))
	if opts.WALDir == "" || err != nil {
		return nil
	}
	if info, err := os.Lstat(opts.WALDir); err == nil && string(note) == identify(info) {
		if err := removeAll(work.WALDir); err != nil {
			return err
		}
		return os.Rename(opts.WALDir, work.WALDir)
	}
	return nil
}

// identify tells a directory from others of its name. It is the same after the directory has got another name.
func identify(info fs.FileInfo) string {
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d %d %d", s.Dev, s.Ino, info.ModTime().UnixNano())
}

func writeSynced(path, text string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Sync(), file.Close(), syncDir(filepath.Dir(path)))
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
