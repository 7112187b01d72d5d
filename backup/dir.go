package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a directory of backups.
type Dir struct {
	path string
	puts bool // it is made if it is not there
}

// AtDir gives a directory of backups as it is, to read it.
func AtDir(path string) *Dir { return &Dir{path: path} }

const (
	// part ends the name of a file that is not whole.
	part = ".part"
	// probes begins the names of files that are there for a moment, to see that they can be.
	probes = "." + names
	// moment is more than that takes.
	moment = time.Hour
)

// DirToBe gives a directory to put backups in, and asks nothing of it yet: it may be one that hangs. List and Put see that it is there and can be written.
func DirToBe(path string) *Dir { return &Dir{path: path, puts: true} }

// OpenDir gives a directory to put backups in, and sees that it can be: it is made if it is not there, but not those above it, which may be where something is to be mounted.
func OpenDir(path string) (*Dir, error) {
	d := DirToBe(path)
	return d, d.ready()
}

// ready sees that files can be made in a directory that is to be put in.
func (d *Dir) ready() error {
	if !d.puts {
		return nil
	}
	if err := os.Mkdir(d.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("backup: the directory is not there and cannot be made: %w", err)
	}
	probe, err := os.CreateTemp(d.path, probes+"*"+part)
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		return fmt.Errorf("backup: the directory cannot be written: %w", err)
	}
	return nil
}

// String implements Target.
func (d *Dir) String() string { return filepath.Clean(d.path) + string(filepath.Separator) }

// Put implements Target. The file is locked while it is not whole, and so it is known from what a kill has left.
func (d *Dir) Put(ctx context.Context, b Backup, r io.Reader) (err error) {
	if err := d.ready(); err != nil {
		return err
	}
	if err := Room(Need{d.path, b.Size}); err != nil {
		return err
	}
	f, err := os.CreateTemp(d.path, b.Name()+".*"+part)
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	// Where there are no such locks nothing is swept, and Sweep says so.
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	n, err := io.Copy(f, &interrupted{ctx, r})
	if err != nil {
		return err
	}
	if n != b.Size {
		return fmt.Errorf("%w: after %d bytes of %d", ErrShort, n, b.Size)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(d.path, b.Name())); err != nil {
		return err
	}
	whole := f
	f = nil
	return errors.Join(whole.Close(), d.sync())
}

// sync makes names durable.
func (d *Dir) sync() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Open implements Target. What is read comes from the disk, as far as the system can be asked for that.
func (d *Dir) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(d.path, name))
	if err != nil {
		return nil, err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return struct {
		io.Reader
		io.Closer
	}{&interrupted{ctx, f}, f}, nil
}

// List implements Target.
func (d *Dir) List(context.Context) ([]Backup, error) {
	if err := d.ready(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var all []Backup
	for _, e := range entries {
		b, ok := Parse(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.Size = info.Size()
		all = append(all, b)
	}
	return all, nil
}

// Remove implements Target.
func (d *Dir) Remove(_ context.Context, name string) error {
	err := os.Remove(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sweep implements Target. What another process is writing is locked. It also removes what kills have left of looking whether files can be made.
func (d *Dir) Sweep(_ context.Context, cluster uint64) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		switch {
		case !strings.HasSuffix(e.Name(), part) || !e.Type().IsRegular():
		case strings.HasPrefix(e.Name(), namesOf(cluster)+"-"):
			errs = append(errs, removeUnlocked(path, tryLock))
		case strings.HasPrefix(e.Name(), probes):
			errs = append(errs, removeProbe(path))
		}
	}
	return errors.Join(errs...)
}

// removeProbe removes a file that is empty and has been there for more than a moment.
func removeProbe(path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Size() == 0 && time.Since(info.ModTime()) > moment {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// tryLock locks a file, or fails with EWOULDBLOCK where another process has it.
func tryLock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// removeUnlocked opens a file to write: over NFS there are no exclusive locks for who only reads.
func removeUnlocked(path string, lock func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := lock(f); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil
	case err != nil:
		return &fs.PathError{Op: "lock, to see whether it is being written,", Path: path, Err: err}
	}
	// It may have become whole meanwhile: then it has another name, and this one is nobody's.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// interrupted reads until a context ends.
type interrupted struct {
	ctx  context.Context
	from io.Reader
}

func (i *interrupted) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.from.Read(b)
}
