package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/walfs"
)

const (
	// A transaction of a copy takes so many bytes of rows.
	copyBytes = 1 << 20
	// copySync is after how many bytes of rows a copy is synced, so that the end has not all to do at once.
	copySync = 32 << 20
)

// Copy is a log being made from the rows of another one, in a file that is no log before Finish: its
// header does not say WAL mode, so Open refuses it (ErrForeign). Used by one goroutine at a time.
//
// SQLite keeps no journal of it: each page is written once, and what is broken off is thrown away.
type Copy struct {
	path     string
	file     *os.File     // holds the lock, as a Log's
	direct   databaseFile // the same file, for syncing
	conn     *conn
	inserter inserter

	last     int64   // the position of the last row written
	hole     int64   // the highest position below it that is missing
	batch    closing // of the last row, zero if that closes none
	pending  int     // bytes in the open transaction
	unsynced int     // bytes since the last sync
	err      error   // the first one; after it nothing but Abort is of use
	ended    bool    // Finish has succeeded, or Abort was called
}

// NewCopy begins a copy at a path; opts.Path and ReadOnly do not matter. A file that is there is removed, with what lies
// beside it: it is one of a copy that was broken off or never used. ErrLocked if somebody has that open.
func NewCopy(path string, opts Options) (*Copy, error) {
	c, err := newCopy(path, opts)
	if err != nil {
		return nil, fmt.Errorf("make a copy at %s: %w", path, classify(err))
	}
	return c, nil
}

func newCopy(path string, opts Options) (*Copy, error) {
	opts.Path = path
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	vfs, err := walfs.Register(opts.vfs)
	if err != nil {
		return nil, err
	}
	opts.vfs = vfs
	if err := removeCopy(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	c := &Copy{path: path}
	if c.file, err = lockFile(path, false); err != nil {
		return nil, err // somebody else's copy now
	}
	c.direct = c.file
	if err := c.open(opts); err != nil {
		return nil, errors.Join(err, c.Abort())
	}
	return c, nil
}

func (c *Copy) open(opts Options) error {
	var err error
	if c.conn, err = connect(connOptions{path: c.path, cache: opts.WriterCache, vfs: opts.vfs}); err != nil {
		return err
	}
	if err := c.conn.exec("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF"); err != nil {
		return err
	}
	if err := initialise(c.conn, opts); err != nil {
		return err
	}
	return c.inserter.prepare(c.conn)
}

// RemoveCopy removes a copy that is of no use, finished or broken off, with what lies beside it. It does nothing if there is none. ErrLocked if somebody has it open.
func RemoveCopy(path string) error {
	if err := removeCopy(path); err != nil {
		return fmt.Errorf("remove the copy %s: %w", path, classify(err))
	}
	return nil
}

// removeCopy removes the file at a path, unless somebody has it open, and what lies beside it.
func removeCopy(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return removeAll(path)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: it is not a file", drivers.ErrForeign)
	}
	f, err := lockFile(path, false)
	if err != nil {
		return err
	}
	return errors.Join(removeAll(path), f.Close())
}

// removeAll removes a database, and first what lies beside it.
func removeAll(path string) error {
	for _, suffix := range [...]string{"-wal", "-journal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Write adds rows, which ascend, within a call and from one to the next. Their bytes are the caller's again on return. After an error
// the copy is of no use.
func (c *Copy) Write(rows []Row) error {
	if err := c.usable(); err != nil {
		return fmt.Errorf("write to the copy %s: %w", c.path, err)
	}
	for i := range rows {
		if c.err = c.write(&rows[i]); c.err != nil {
			c.err = fmt.Errorf("position %d: %w", rows[i].Position, c.err)
			break
		}
	}
	if c.err == nil {
		c.err = c.inserter.flush()
	}
	if c.err != nil {
		return fmt.Errorf("write to the copy %s: %w", c.path, classify(c.err))
	}
	return nil
}

func (c *Copy) usable() error {
	if c.conn == nil {
		return drivers.ErrClosed
	}
	return c.err
}

func (c *Copy) write(r *Row) error {
	switch {
	case r.Position <= c.last:
		return fmt.Errorf("it does not ascend from %d", c.last)
	case len(r.Meta) == 0:
		return errors.New("the row has no meta")
	}
	var batch closing
	if r.Closing != nil {
		var err error
		if batch, err = decodeClosing(r.Closing); err != nil {
			return err
		}
	}
	if c.pending == 0 {
		if err := c.conn.exec("BEGIN"); err != nil {
			return err
		}
	}
	if err := c.inserter.put(*r); err != nil {
		return err
	}
	if r.Position > c.last+1 {
		c.hole = r.Position - 1
	}
	c.last, c.batch = r.Position, batch
	if c.pending += len(r.Meta) + len(r.Value) + rowOverhead; c.pending < copyBytes {
		return nil
	}
	return c.commit()
}

// commit ends the open transaction, if there is one.
func (c *Copy) commit() error {
	if err := c.inserter.flush(); err != nil {
		return err
	}
	if c.pending == 0 {
		return nil
	}
	if err := c.conn.exec("COMMIT"); err != nil {
		return err
	}
	c.unsynced += c.pending
	c.pending = 0
	if c.unsynced < copySync {
		return nil
	}
	c.unsynced = 0
	return c.direct.Sync()
}

// Finish makes the copy a log that is scrubbed up to a position and ends at end, which must be its last row. On return
// the file is closed and durable, with nothing beside it. The position is the mark of the log that
// the rows are from, as it was after they were read: a hole above it is an error. So is a last row that was scrubbed meanwhile. After an error, Abort.
func (c *Copy) Finish(scrubbed int64, end drivers.End) error {
	err := c.usable()
	if err == nil {
		err = c.finish(scrubbed, end)
		c.err = err
	}
	if err != nil {
		return fmt.Errorf("finish the copy %s: %w", c.path, classify(err))
	}
	c.ended = true
	if err := c.file.Close(); err != nil {
		return fmt.Errorf("finish the copy %s: %w", c.path, err)
	}
	return nil
}

func (c *Copy) finish(scrubbed int64, end drivers.End) error {
	if err := c.check(scrubbed, end); err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	s, err := c.conn.prepare("UPDATE head SET scrubbed = ?1 WHERE id = 1", 0)
	if err != nil {
		return err
	}
	if err := s.run(scrubbed); err != nil {
		return err
	}
	now, err := readEnd(c.conn)
	if err != nil {
		return err
	}
	if now.End != end {
		return fmt.Errorf("%w: it ends at %d and should end at %d", drivers.ErrCorrupt, now.Position, end.Position)
	}
	// All of it is on disk before the header says that it is a log.
	if err := c.direct.Sync(); err != nil {
		return err
	}
	if err := c.conn.exec("PRAGMA journal_mode=WAL"); err != nil {
		return err
	}
	err = c.conn.close()
	c.conn = nil
	if err != nil {
		return err
	}
	if err := c.direct.Sync(); err != nil {
		return err
	}
	if err := isWhole(c.file, c.path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(c.path))
}

// check compares what was written with the bounds that the log is to have.
func (c *Copy) check(scrubbed int64, end drivers.End) error {
	switch {
	case end != drivers.End{Position: c.last, Batch: c.batch.id}:
		return fmt.Errorf("its last row is at %d and closes batch %x, which is not the end, %d with batch %x", c.last, c.batch.id, end.Position, end.Batch)
	case scrubbed < 0 || scrubbed > 0 && scrubbed >= end.Position:
		return fmt.Errorf("it ends at %d and cannot be scrubbed up to %d", end.Position, scrubbed)
	case c.hole > scrubbed:
		return missing(c.hole, c.hole)
	}
	return nil
}

// isWhole says whether a database is a log which is all in its file.
func isWhole(f *os.File, path string) error {
	if err := checkHeader(f); err != nil {
		return err
	}
	for _, suffix := range [...]string{"-wal", "-journal"} {
		switch _, err := os.Lstat(path + suffix); {
		case err == nil:
			return fmt.Errorf("%s is there, which may hold commits: open the log and close it, which takes them in", path+suffix)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

// Abort removes the copy. After a Finish that succeeded, or another Abort, it does nothing.
func (c *Copy) Abort() error {
	if c.ended {
		return nil
	}
	c.ended = true
	var errs []error
	if c.conn != nil {
		errs = append(errs, c.conn.close())
		c.conn = nil
	}
	// With the lock still held, so that it is this copy that is removed.
	errs = append(errs, removeAll(c.path), c.file.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the copy %s: %w", c.path, classify(err))
	}
	return nil
}
