package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/keelson-io/keelson/drivers"
)

// checkpointer copies pages from the write-ahead log into the database, so that the log can begin
// anew. The bulk is copied beside commits and reads; only the end of it, some pages and
// an fsync, takes place between two batches and two reads.
type checkpointer struct {
	log      *Log
	pageSize int64

	// size is how many bytes of the write-ahead log are used since it was
	// begun, as of the last commit; 0 when all is copied.
	size atomic.Int64
	due  chan struct{} // a checkpoint is due; capacity 1
	free chan struct{} // pages have been freed; capacity 1

	// retryAt is the size at which a checkpoint that failed is tried again; 0 if the last one succeeded.
	retryAt atomic.Int64

	// suspect is set when an fsync failed: what has been copied since the write-ahead log
	// was begun may not be on disk. Nothing more is copied until mendLocked has succeeded.
	suspect atomic.Bool

	// patience is of a check of the pages that is under way.
	patience atomic.Pointer[patience]

	mu      sync.Mutex // guards what follows; taken after the token and the gate
	conn    *conn      // nil when closed
	file    databaseFile
	openWAL func() (walFile, error)
	failed  bool // the last checkpoint failed, which has been logged
}

// databaseFile is how the database file is reached past SQLite.
type databaseFile interface {
	io.WriterAt
	Sync() error
}

// patience ends something when the write-ahead log has grown to a size.
type patience struct {
	bytes int64
	end   func()
}

const (
	// hardLimit is how many times CheckpointBytes the write-ahead log may
	// reach before an append stops to check-point by itself, and stopLimit how many
	// before appends are refused unless that succeeds.
	hardLimit = 4
	stopLimit = 64
	// retryAfter is how much more of the write-ahead log a failed
	// checkpoint waits for, as a fraction of CheckpointBytes.
	retryAfter = 4
	// shortEnd is how many bytes may be left for the end of a checkpoint, as
	// a fraction of CheckpointBytes, and bulkRounds how often that is tried for.
	shortEnd    = 8
	bulkRounds  = 4
	frameHeader = 24
)

func newCheckpointer(l *Log) (*checkpointer, error) {
	c, err := connect(connOptions{path: l.opts.Path, cache: 64 << 10, vfs: l.opts.vfs})
	if err != nil {
		return nil, err
	}
	k := &checkpointer{log: l, conn: c, file: l.file, openWAL: l.openWAL, due: make(chan struct{}, 1), free: make(chan struct{}, 1)}
	if k.pageSize, err = c.getInt("PRAGMA page_size"); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return k, nil
}

func (l *Log) openWAL() (walFile, error) { return os.OpenFile(l.opts.Path+"-wal", os.O_RDWR, 0) }

// grew is told of each commit. Called with the token held.
func (k *checkpointer) grew() {
	frames, err := k.log.writer.walFrames()
	if err != nil {
		k.report(fmt.Errorf("the size of the write-ahead log: %w", classify(err)))
		return
	}
	size := frames * (k.pageSize + frameHeader)
	k.size.Store(size)
	if p := k.patience.Load(); p != nil && size >= p.bytes {
		p.end()
	}
	if size < max(k.log.opts.CheckpointBytes, k.retryAt.Load()) {
		return
	}
	select {
	case k.due <- struct{}{}:
	default:
	}
	if size >= hardLimit*k.log.opts.CheckpointBytes {
		// Run is not running, or cannot keep up: writers must wait.
		if err := k.finishLocked(); err != nil {
			k.report(err)
		}
	}
}

// room says why nothing can be committed now: the write-ahead log has grown
// beyond all bounds and cannot be copied. Called with the token held.
func (k *checkpointer) room() error {
	size := k.size.Load()
	if size < stopLimit*k.log.opts.CheckpointBytes {
		return nil
	}
	if err := k.finishLocked(); err != nil {
		k.report(err)
		return fmt.Errorf("refused: the write-ahead log has %d MiB and cannot be copied into the database: %w", size>>20, err)
	}
	return nil
}

// freed is told that there are free pages.
func (k *checkpointer) freed() {
	select {
	case k.free <- struct{}{}:
	default:
	}
}

// checkpoint copies everything and lets the write-ahead log begin anew.
func (k *checkpointer) checkpoint(ctx context.Context) error {
	for range bulkRounds {
		if k.suspect.Load() {
			break // it is mended with the token held
		}
		p, err := k.passive()
		if err != nil {
			return err
		}
		// The fsync at the end will find little to do.
		if err := k.sync(); err != nil {
			return err
		}
		if p.left()*k.pageSize*shortEnd < k.log.opts.CheckpointBytes {
			break
		}
	}
	if err := k.log.lockWriter(ctx); err != nil {
		return err
	}
	defer k.log.unlockWriter()
	return k.finishLocked()
}

// finishLocked is the end of a checkpoint: with the token and the gate held nothing
// moves, so that all pages are copied and the next commit finds
// that it can write over the log from its beginning.
func (k *checkpointer) finishLocked() error {
	if err := k.mend(); err != nil {
		return err
	}
	k.log.gate.Lock()
	defer k.log.gate.Unlock()
	p, err := k.passive()
	if err != nil {
		return err
	}
	if p.left() > 0 {
		k.size.Store(p.frames * (k.pageSize + frameHeader))
		return fmt.Errorf("%d of %d pages could not be copied: something else reads the file", p.left(), p.frames)
	}
	k.size.Store(0)
	k.report(nil)
	return nil
}

// progress is what a checkpoint reports.
type progress struct{ frames, copied int64 }

func (p progress) left() int64 { return p.frames - p.copied }

func (k *checkpointer) passive() (progress, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.suspect.Load() {
		return progress{}, errSync
	}
	p, err := k.ask("PRAGMA wal_checkpoint(PASSIVE)")
	if isSyncError(err) {
		k.suspect.Store(true)
		err = fmt.Errorf("%w: %w", errSync, err)
	}
	if err != nil {
		return progress{}, fmt.Errorf("checkpoint: %w", classify(err))
	}
	return p, nil
}

// ask runs a pragma of checkpoints. Called with mu held.
func (k *checkpointer) ask(pragma string) (progress, error) {
	if k.conn == nil {
		return progress{}, drivers.ErrClosed
	}
	row, err := k.conn.get(pragma, 3)
	if err != nil {
		return progress{}, err
	}
	p := progress{frames: asInt(row[1]), copied: asInt(row[2])}
	if p.frames < 0 || p.copied < 0 {
		return progress{}, fmt.Errorf("%s says nothing: the file is busy", pragma)
	}
	return p, nil
}

func asInt(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}

// sync forces out what has been copied. SQLite does it too at the end, on
// a descriptor of its own; each of the two would see an error.
func (k *checkpointer) sync() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil {
		return drivers.ErrClosed
	}
	if err := k.file.Sync(); err != nil {
		k.suspect.Store(true)
		return fmt.Errorf("checkpoint: %w: %w", errSync, classify(err))
	}
	return nil
}

func isSyncError(err error) bool {
	var e sqlite3.Error
	return errors.As(err, &e) && (e.ExtendedCode == sqlite3.ErrIoErrFsync || e.ExtendedCode == sqlite3.ErrIoErrDirFsync)
}

// report logs the first of a row of failures, and that it is over: nil is for who has copied everything.
func (k *checkpointer) report(err error) {
	k.mu.Lock()
	was := k.failed
	k.failed = err != nil
	k.mu.Unlock()
	if err != nil {
		k.retryAt.Store(k.size.Load() + k.log.opts.CheckpointBytes/retryAfter)
	} else {
		k.retryAt.Store(0)
	}
	switch {
	case err != nil && !was:
		k.log.logger.Warn("the write-ahead log could not be copied into the database and grows; this is tried again", "path", k.log.opts.Path, "error", err)
	case err == nil && was:
		k.log.logger.Info("the write-ahead log was copied into the database again", "path", k.log.opts.Path)
	}
}

func (k *checkpointer) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.conn
	k.conn = nil
	return c.close()
}
