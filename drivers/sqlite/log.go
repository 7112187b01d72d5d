package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/internal/wake"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/walfs"
)

var (
	_ drivers.Log          = (*Log)(nil)
	_ drivers.Sizer        = (*Log)(nil)
	_ drivers.Checker      = (*Log)(nil)
	_ drivers.Defragmenter = (*Log)(nil)
)

// Log is a log in an SQLite file. See the package's comment for the rules of concurrency.
type Log struct {
	opts   Options
	logger *slog.Logger
	file   *os.File // holds the lock; closed after all connections: see lockFile

	// token is held (by having sent into it) by whoever writes: appends, scrubs, vacuum slices and the end
	// of a checkpoint. It guards writer and what its comment says.
	token  chan struct{}
	writer *writer

	// gate is held shared by a reader for the length of one slice, and
	// exclusively for the end of a checkpoint, which needs that no reader
	// stands on an older state. Taken after the token and after a reader.
	gate    sync.RWMutex
	readers chan *reader

	checkpointer *checkpointer

	// checking is held (by having sent into it) by who checks the pages.
	checking chan struct{}
	// immutable is set when the log was opened for inspection and has no write-ahead log, leftover if it has one, and
	// SQLite makes a file for that one's index which it does not remove.
	immutable, leftover bool

	// state is what has been committed. Written with the token held.
	state atomic.Pointer[state]
	// unsettled is set while the outcome of a COMMIT is unknown.
	unsettled atomic.Bool

	wake wake.Signal // followers wait for it

	closed    chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// busyTimeout is how long the writer waits for a lock that nobody keeps.
const busyTimeout = 5 * time.Second

// Open opens the log at Options.Path and makes it if it does not exist. It starts no
// goroutine: call Run for the work in the background.
//
// Errors: drivers.ErrLocked, ErrForeign, ErrNewer, ErrCorrupt, ErrReadOnly,
// ErrNoSpace, or one of the file system.
func Open(ctx context.Context, opts Options) (*Log, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := opts.followLink(); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if !opts.ReadOnly {
		var err error
		if opts.vfs, err = walfs.Register(opts.vfs); err != nil {
			return nil, fmt.Errorf("open the log %s: %w", opts.Path, err)
		}
		if err := create(opts); err != nil {
			return nil, fmt.Errorf("create the log %s: %w", opts.Path, classify(err))
		}
	}
	file, err := lockFile(opts.Path, opts.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("open the log %s: %w", opts.Path, err)
	}
	l := &Log{
		opts:     opts,
		logger:   opts.Logger,
		file:     file,
		token:    make(chan struct{}, 1),
		readers:  make(chan *reader, opts.Readers),
		closed:   make(chan struct{}),
		checking: make(chan struct{}, 1),
	}
	if err := l.open(); err != nil {
		err = classify(err)
		if l.damagedOrForeign(err) {
			// The end of the last connection would copy the write-ahead log into
			// the database and delete it. The end of the process does not, and
			// until then the lock stays.
			return nil, fmt.Errorf("open the log %s: %w", opts.Path, err)
		}
		return nil, errors.Join(fmt.Errorf("open the log %s: %w", opts.Path, err), l.closeAll())
	}
	return l, nil
}

// damagedOrForeign tells an error after which the files are to be left as they are, if
// there is anything that closing them would change.
func (l *Log) damagedOrForeign(err error) bool {
	if !errors.Is(err, drivers.ErrCorrupt) && !errors.Is(err, drivers.ErrForeign) && !errors.Is(err, drivers.ErrNewer) {
		return false
	}
	info, serr := os.Stat(l.opts.Path + "-wal")
	return serr == nil && info.Size() > 0 && !l.opts.ReadOnly
}

func (l *Log) open() error {
	if err := checkHeader(l.file); err != nil {
		return err
	}
	if l.opts.ReadOnly {
		return l.openReadOnly()
	}
	// The file's name is durable before a write-ahead log lies beside it: see Swap.
	if err := syncPath(filepath.Dir(l.opts.Path)); err != nil {
		return err
	}
	removeLeftovers(l.opts.Path)
	c, err := connect(connOptions{path: l.opts.Path, cache: l.opts.WriterCache, vfs: l.opts.vfs})
	if err != nil {
		return err
	}
	l.writer = &writer{conn: c}
	if err := migrate(c); err != nil {
		return err
	}
	// SQLite cuts the write-ahead log down to this when it begins anew after something
	// big; otherwise the file is written over and over, which is cheaper than growing it.
	if err := c.runAll(fmt.Sprintf("PRAGMA journal_size_limit=%d", 2*l.opts.CheckpointBytes)); err != nil {
		return err
	}
	// A reader that meets the writer in the middle of changing the index of the write-ahead log takes the
	// writer's lock for a moment, to see whether it was left so.
	if err := c.runAll(fmt.Sprintf("PRAGMA busy_timeout=%d", busyTimeout.Milliseconds())); err != nil {
		return err
	}
	if err := l.writer.prepare(); err != nil {
		return err
	}
	if l.checkpointer, err = newCheckpointer(l); err != nil {
		return err
	}
	if err := l.openReaders(l.inspection()); err != nil {
		return err
	}
	return l.readState(c)
}

// openReadOnly makes readers only. Without a write-ahead log the file is
// whole by itself, and SQLite is told that it will not change, so that it needs
// no write permission for anything.
func (l *Log) openReadOnly() error {
	_, err := os.Stat(l.opts.Path + "-wal")
	l.immutable = errors.Is(err, os.ErrNotExist)
	if _, err := os.Lstat(l.opts.Path + "-shm"); errors.Is(err, os.ErrNotExist) {
		l.leftover = !l.immutable
	}
	if err := l.openReaders(l.inspection()); err != nil {
		if l.leftover && isCantOpen(err) {
			err = fmt.Errorf("%w: the file's -wal cannot be read where nothing can be put beside it: copy both to a directory that can be written: %w", drivers.ErrReadOnly, err)
		}
		return err
	}
	r := <-l.readers
	defer func() { l.readers <- r }()
	if err := checkSchema(r.conn); err != nil {
		return err
	}
	return l.readState(r.conn)
}

func (l *Log) openReaders(o connOptions) error {
	for range l.opts.Readers {
		r, err := newReader(o)
		if err != nil {
			return err
		}
		l.readers <- r
	}
	return nil
}

// Path is the path of the file itself, also where Options.Path was a symbolic link.
func (l *Log) Path() string { return l.opts.Path }

// ReadIndex implements drivers.Log. No other process can append, so the
// answer is at hand, except after an append whose outcome is unknown.
func (l *Log) ReadIndex(ctx context.Context) (drivers.Bounds, error) {
	if err := l.usable(ctx); err != nil {
		return drivers.Bounds{}, err
	}
	if l.unsettled.Load() {
		if err := l.settle(ctx); err != nil {
			return drivers.Bounds{}, fmt.Errorf("read index: %w", classify(err))
		}
	}
	return l.state.Load().bounds(), nil
}

// usable says why a call cannot begin.
func (l *Log) usable(ctx context.Context) error {
	select {
	case <-l.closed:
		return drivers.ErrClosed
	default:
		return ctx.Err()
	}
}

// lockWriter takes the token.
func (l *Log) lockWriter(ctx context.Context) error {
	if err := l.usable(ctx); err != nil {
		return err
	}
	if l.opts.ReadOnly {
		return fmt.Errorf("%w: it was opened for inspection", drivers.ErrReadOnly)
	}
	select {
	case l.token <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return drivers.ErrClosed
	}
	if err := l.usable(ctx); err != nil {
		l.unlockWriter()
		return err
	}
	return nil
}

func (l *Log) unlockWriter() { <-l.token }

// Close waits for calls that are under way, ends those that wait (ErrClosed)
// and closes the file. The write-ahead log is copied into the database and
// removed, so that the file alone is the log; if it cannot be, that is logged, and the next start does it.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		close(l.closed)
		l.token <- struct{}{} // and keep it
		l.closeErr = l.closeAll()
	})
	return l.closeErr
}

// closeAll closes what is open; the file that holds the lock comes last.
func (l *Log) closeAll() error {
	l.checking <- struct{}{} // and keep it
	if k := l.checkpointer; k != nil {
		if l.state.Load() != nil {
			// The last connection would do it too, but not if it is the writer and its last write was lost.
			if err := k.finishLocked(); err != nil {
				k.report(err)
			}
		}
		if err := k.mend(); err != nil {
			// Closing the last connection would delete the write-ahead log, which
			// may hold the only good copy: see DESIGN.md. The lock stays, too.
			return fmt.Errorf("close the log: %w; end the process, the next start recovers from the write-ahead log", err)
		}
	}
	var errs []error
	for range cap(l.readers) {
		select {
		case r := <-l.readers:
			errs = append(errs, r.conn.close())
		default:
			if l.state.Load() != nil {
				// Open succeeded, so there are this many: wait for its slice to end.
				errs = append(errs, (<-l.readers).conn.close())
			}
		}
	}
	if l.checkpointer != nil {
		errs = append(errs, l.checkpointer.close())
	}
	if l.writer != nil {
		errs = append(errs, l.writer.conn.close())
	}
	if l.leftover {
		if err := os.Remove(l.opts.Path + "-shm"); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, l.file.Close())
	return classify(errors.Join(errs...))
}

// Bounds gives the bounds of what is committed, without settling a COMMIT whose outcome is unknown.
func (l *Log) Bounds() drivers.Bounds { return l.state.Load().bounds() }
