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

	"golang.org/x/sys/unix"
)

// Dir is a directory of backups.
type Dir struct{ path string }

// AtDir gives a directory of backups as it is, to read it.
func AtDir(path string) *Dir { return &Dir{path: path} }

// part ends the name of a file that is not whole.
const part = ".part"

// OpenDir gives a directory to put backups in. It makes it if it is not there, and sees that files can be made in it.
func OpenDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	probe, err := os.CreateTemp(path, ".keelson-*"+part)
	if err == nil {
		err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		return nil, fmt.Errorf("backup: the directory cannot be written: %w", err)
	}
	return AtDir(path), nil
}

// String implements Target.
func (d *Dir) String() string { return filepath.Clean(d.path) + string(filepath.Separator) }

// Put implements Target. The file is locked while it is not whole, and so it is known from what a kill has left.
func (d *Dir) Put(ctx context.Context, b Backup, r io.Reader) (err error) {
	f, err := os.CreateTemp(d.path, b.Name()+".*"+part)
	if err != nil {
		return err
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	// Where there are no such locks nothing is swept.
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

// Sweep implements Target. What another process is writing is locked.
func (d *Dir) Sweep(_ context.Context, cluster uint64) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), namesOf(cluster)+"-") && strings.HasSuffix(e.Name(), part) && e.Type().IsRegular() {
			errs = append(errs, removeUnlocked(filepath.Join(d.path, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
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
