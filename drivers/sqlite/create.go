package sqlite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keelson-io/keelson/drivers"
)

// create makes an empty log at the path unless something is there already.
//
// It is made whole under another name and then linked to its own, so that
// whatever stands at the path is either a whole database of Keelson's or
// somebody else's file, also after a crash in between. A link never replaces anything, so
// two processes that create at once end up with one file.
func create(o Options) error {
	if _, err := os.Lstat(o.Path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := noLeftovers(o.Path); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(o.Path), filepath.Base(o.Path)+tmpInfix+"*")
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("%w: the directory %s must be writable: %w", drivers.ErrReadOnly, filepath.Dir(o.Path), err)
		}
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := makeLog(tmp.Name(), o); err != nil {
		return err
	}
	if err := syncPath(tmp.Name()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), o.Path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(filepath.Dir(o.Path))
}

// tmpInfix marks the names of databases in the making.
const tmpInfix = ".new-"

// noLeftovers refuses to make a database beside a write-ahead log that has lost its own:
// SQLite would delete or even replay it.
func noLeftovers(path string) error {
	for _, suffix := range []string{"-wal", "-journal"} {
		switch _, err := os.Lstat(path + suffix); {
		case err == nil:
			return fmt.Errorf("%s is there, which may hold commits, but %s is not: put the database back beside it, or move it away to begin an empty log", path+suffix, path)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// makeLog makes a log of an empty file.
func makeLog(path string, o Options) error {
	c, err := connect(connOptions{path: path, cache: 1 << 20, vfs: o.vfs})
	if err != nil {
		return err
	}
	if err = initialise(c, o); err == nil {
		// Last, so that the header of the file itself, not only of its
		// write-ahead log, says whose it is.
		err = c.exec("PRAGMA journal_mode=WAL")
	}
	return errors.Join(err, c.close())
}

// initialise writes the schema into an empty database.
func initialise(c *conn, o Options) error {
	if err := c.exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA auto_vacuum=INCREMENTAL", o.PageSize)); err != nil {
		return err
	}
	return migrate(c)
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// removeLeftovers deletes databases in the making that a crash left behind. The caller
// holds the lock on the database, so nobody who is making one can still come first.
func removeLeftovers(path string) {
	names, err := filepath.Glob(globEscape(path+tmpInfix) + "*")
	if err != nil {
		return
	}
	for _, name := range names {
		_ = os.Remove(name) // the next start tries again
	}
}

func globEscape(s string) string {
	var b bytes.Buffer
	for _, r := range s {
		if bytes.ContainsRune([]byte(`*?[\`), r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// checkHeader tells from the first bytes of a file whether it is a log of
// Keelson's, before SQLite sees it: SQLite might recover or checkpoint somebody else's database.
func checkHeader(f *os.File) error {
	var header [100]byte
	n, err := f.ReadAt(header[:], 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case n == 0:
		return fmt.Errorf("%w: %s is empty, which a log never is: it was cut off, or made by something else; remove it to begin an empty log", drivers.ErrForeign, f.Name())
	case n < len(header) || string(header[:16]) != "SQLite format 3\x00":
		return fmt.Errorf("%w: %s is not an SQLite database; nothing was changed, give another path", drivers.ErrForeign, f.Name())
	case binary.BigEndian.Uint32(header[68:]) != applicationID:
		return fmt.Errorf("%w: %s is an SQLite database of something else; nothing was changed, give another path", drivers.ErrForeign, f.Name())
	case header[18] != 2 || header[19] != 2:
		return fmt.Errorf("%w: %s is not in WAL mode, so something else has changed it, or it is a copy of a log that was broken off", drivers.ErrForeign, f.Name())
	}
	return nil
}
