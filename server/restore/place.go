package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// ErrUnsynced says that all is at its place, but that the disk has failed when the last name was to be made durable.
var ErrUnsynced = errors.New("all of it was read back and is at its place, but the disk has failed when that was to be made durable: examine the disk, move the directories away and restore again")

// spot is a directory in which something is made, in a directory of its own, before it gets its name.
type spot struct {
	dir  string // without symlinks
	made bool   // it was not there
	free func()
}

func (p *spot) path(name string) string { return filepath.Join(p.dir, name) }

// work is where it is made.
func (p *spot) work(name string) string { return filepath.Join(p.dir, server.Restoring, name) }

// occupySpot holds a directory, which is made if it is not there.
func occupySpot(dir string) (*spot, error) {
	_, err := os.Lstat(dir)
	p := &spot{dir: dir, made: errors.Is(err, fs.ErrNotExist)}
	if p.free, err = hold(p.work("")); err != nil {
		if p.made && !errors.Is(err, ErrBusy) {
			_ = os.Remove(p.dir) // which removes only an empty one
		}
		return nil, err
	}
	return p, nil
}

// leave removes the directory in which things are made, if there is nothing in it.
func (p *spot) leave() { _ = removeHeld(p.work("")) } // which removes no other

// release ends the hold, and removes the directory if there is nothing in it and it was made here: not before, as over NFS what is removed stays while it is open.
func (p *spot) release() {
	p.free()
	if p.made {
		_ = os.Remove(p.dir)
	}
}

// site is where a member's data come to be.
type site struct {
	data *spot
	wal  *spot                  // nil without a --wal-dir
	sync func(dir string) error // makes the names in a directory durable
}

// target is where the options want a member's data.
type target struct {
	opts      *config.Options
	data, wal string // without symlinks; wal is empty if there is no --wal-dir
	within    string // the name of the --wal-dir within the data directory, if it is there
}

func newTarget(opts *config.Options) (t target, err error) {
	t.opts = opts
	if t.data, err = resolve(opts.DataDir); err != nil || opts.WALDir == "" {
		return t, err
	}
	if t.wal, err = resolve(opts.WALDir); err != nil {
		return t, err
	}
	t.within, err = inside(t.data, t.wal)
	return t, err
}

// Vacant tells whether Dir would find the directories empty, but for what a restore has left that was killed.
func Vacant(opts *config.Options) error {
	t, err := newTarget(opts)
	if err != nil {
		return err
	}
	return t.vacant()
}

// vacant refuses a target where there is something. The text is etcdutl's.
func (t *target) vacant() error {
	if err := vacant(t.data, t.within); err != nil {
		return fmt.Errorf("data-dir %q not empty or could not be read: %w", t.opts.DataDir, err)
	}
	if t.wal == "" {
		return nil
	}
	mine := ""
	if noted(t.data, t.wal) {
		mine = raftName
	}
	if err := vacant(t.wal, mine); err != nil {
		return fmt.Errorf("wal-dir %q not empty or could not be read: %w", t.opts.WALDir, err)
	}
	return nil
}

// occupy holds the directories of a member, makes sure that there is nothing in them, and removes what a process has left that was killed.
func occupy(opts *config.Options) (*site, error) {
	t, err := newTarget(opts)
	if err == nil {
		err = t.vacant()
	}
	if err != nil {
		return nil, err
	}
	s := &site{sync: syncDir}
	if s.data, err = occupySpot(t.data); err != nil {
		return nil, err
	}
	if t.wal != "" {
		s.wal, err = occupySpot(t.wal)
	}
	// A server looks for the directory that is held here after it has made its own, and so one of the two sees the other.
	if err == nil {
		err = t.vacant()
	}
	if err == nil {
		err = s.prepare()
	}
	if err != nil {
		s.leave()
		s.release()
		return nil, err
	}
	return s, nil
}

// resolve gives the path without symlinks of a directory that need not be there.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	if _, lerr := os.Lstat(dir); lerr == nil {
		return "", fmt.Errorf("%s is a symlink to nothing: %w", dir, err)
	}
	above, err := resolve(filepath.Dir(dir))
	return filepath.Join(above, filepath.Base(dir)), err
}

// inside gives the name of a --wal-dir within the data directory, if it is there.
func inside(data, wal string) (name string, err error) {
	name, err = filepath.Rel(data, wal)
	switch {
	case err != nil:
		return "", err
	case name == ".." || strings.HasPrefix(name, "../"):
		return "", nil
	case name == "." || name == memberName || name == server.Restoring || name == server.Restoring+lockSuffix || strings.Contains(name, "/"):
		return "", fmt.Errorf("wal-dir %q is in the way of what is made in the data directory: choose one beside it, or right under it", wal)
	}
	return name, nil
}

// vacant refuses a directory in which there is something, but for what restores have left, what a file system has at its root, and one other name.
func vacant(dir, other string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case server.Restoring, server.Restoring + lockSuffix, "lost+found", other:
		default:
			return fmt.Errorf("there is %q", e.Name())
		}
	}
	return nil
}

const (
	memberName = "member" // in a data directory
	raftName   = "raft"   // in a --wal-dir
	// placedWAL is a file in an unfinished data directory that tells which directory has been moved to its place in --wal-dir.
	placedWAL = "placed-wal"
)

// noted tells whether the Raft log in a --wal-dir was put there by a process that was killed before it had put the data to theirs.
func noted(data, wal string) bool {
	note, err := os.ReadFile(filepath.Join(data, server.Restoring, placedWAL))
	if err != nil {
		return false
	}
	info, err := os.Lstat(filepath.Join(wal, raftName))
	return err == nil && string(note) == identify(info)
}

// work gives the options by which a member is made in the directories that are held.
func (s *site) work(opts *config.Options) *config.Options {
	work := *opts
	work.DataDir = s.data.work("")
	if s.wal != nil {
		work.WALDir = s.wal.work("")
	}
	return &work
}

// prepare removes what a process has left that was killed.
func (s *site) prepare() error {
	if s.wal != nil {
		if err := s.takeBack(); err != nil {
			return err
		}
	}
	return empty(s.data.work(""))
}

// takeBack removes what was made for a --wal-dir, also from its place if the data have not come to theirs.
func (s *site) takeBack() error {
	if noted(s.data.dir, s.wal.dir) {
		if err := errors.Join(os.RemoveAll(s.wal.work(raftName)), os.Rename(s.wal.path(raftName), s.wal.work(raftName))); err != nil {
			return err
		}
	}
	return empty(s.wal.work(""))
}

// place gives what is whole its name: the data last, since without them the rest is nothing.
func (s *site) place() error {
	if s.wal != nil {
		if info, err := os.Lstat(s.wal.work(raftName)); err == nil {
			if err := writeSynced(s.data.work(placedWAL), identify(info)); err != nil {
				return err
			}
			if err := errors.Join(os.Rename(s.wal.work(raftName), s.wal.path(raftName)), s.sync(s.wal.dir)); err != nil {
				return err
			}
		}
	}
	if err := os.Rename(s.data.work(memberName), s.data.path(memberName)); err != nil {
		return err
	}
	// From here on a server may have begun on it.
	if err := s.sync(s.data.dir); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	_ = empty(s.data.work("")) // of a note, which counts no more
	return nil
}

// finish removes what is not at its place, where there was an error, which it returns.
func (s *site) finish(err error) error {
	if err != nil && !errors.Is(err, ErrUnsynced) {
		err = errors.Join(err, s.prepare())
	}
	s.leave()
	return err
}

// leave removes the directories in which things are made, if there is nothing in them.
func (s *site) leave() {
	if s.wal != nil {
		s.wal.leave()
	}
	s.data.leave()
}

func (s *site) release() {
	if s.wal != nil {
		s.wal.release()
	}
	s.data.release()
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
