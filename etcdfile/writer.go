package etcdfile

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// A transaction ends with so many rows or bytes. What it has is in memory.
	batchRows  = 10_000
	batchBytes = 4 << 20
	// What was written is synced now and then, since a server that syncs its log to the same disk waits for all of it.
	batchesUnsynced = 4

	// pageSize is the same everywhere, so that the same content makes the same file.
	pageSize = 4096
)

const (
	// rowBytes is more than a row takes in a file beside its key and value: its place on the page, its revision, its other fields, and its part of the pages above.
	rowBytes = 144
	// emptyBytes is more than a file takes without rows.
	emptyBytes = 64 << 10
)

// Needs gives about how large a file becomes that has so many rows, with so many bytes in their keys and values: rather too much, up to three times where rows are tiny. A page is left as it is
// when the next row has no room on it: with each row no more is lost than it has itself, nor than half a page. Where a batch has few rows, its last page is written anew with the next one.
func Needs(rows, bytes int64) int64 {
	lost := min(bytes, rows*pageSize/2)
	if bytes > rows*(batchBytes/64) {
		lost = bytes / 2
	}
	return emptyBytes + bytes + rows*rowBytes + lost
}

// Writer makes a database file. It uses memory for one batch of rows.
type Writer struct {
	path string
	db   *bbolt.DB
	err  error // why nothing can be done any more

	tx    *bbolt.Tx // the batch, nil if it has nothing
	rows  int       // of the batch
	arena []byte    // values of the batch: bbolt copies them when it commits
	key   []byte    // scratch

	unsynced int      // batches
	last     Revision // of the rows
}

// Create makes a file that was not there, in a directory that is. Nothing of it counts before Finish has returned.
// Close must be called, also after Finish.
func Create(path string) (*Writer, error) {
	created := false
	exclusive := func(name string, flag int, mode os.FileMode) (*os.File, error) {
		file, err := os.OpenFile(name, flag|os.O_EXCL, mode)
		created = err == nil
		return file, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		OpenFile: exclusive,
		PageSize: pageSize,
		// Both until Finish: the file grows as it is written, and commits do not wait for it.
		NoSync:     true,
		NoGrowSync: true,
		// etcd does without a freelist in the file, too, and finds what is free when it opens it.
		NoFreelistSync: true,
		NoStatistics:   true,
	})
	if err != nil {
		err = fmt.Errorf("etcdfile: create: %w", err)
		if created {
			err = errors.Join(err, os.Remove(path))
		}
		return nil, err
	}
	return &Writer{path: path, db: db, arena: make([]byte, 0, batchBytes)}, nil
}

// Add writes the next row. Rows come in ascending order of their revisions, and only those that the compaction of Meta.Compact
// keeps: etcd takes that for finished and frees no more. The row's bytes stay the caller's. After an error the file is lost.
func (w *Writer) Add(row Row) error {
	if w.err != nil {
		return w.err
	}
	if row.Compare(w.last) <= 0 {
		return w.fail(fmt.Errorf("%w: revision %v after %v", ErrRow, row.Revision, w.last))
	}
	if _, err := row.check(); err != nil {
		return w.fail(err)
	}
	w.last = row.Revision
	w.key = row.appendKey(w.key[:0])
	return w.put(keyBucket, w.key, row.KeyValue)
}

// put writes into a bucket. Both slices stay the caller's.
func (w *Writer) put(bucket string, key, value []byte) error {
	if w.rows == batchRows || w.rows > 0 && len(w.arena)+len(value) > cap(w.arena) {
		if err := w.commit(); err != nil {
			return err
		}
	}
	if err := w.begin(); err != nil {
		return err
	}
	b := w.tx.Bucket([]byte(bucket))
	if b == nil {
		var err error
		if b, err = w.tx.CreateBucket([]byte(bucket)); err != nil {
			return w.fail(err)
		}
	}
	// What there is much of comes in the order of its keys: no page is inserted into later.
	b.FillPercent = 1
	// A value greater than the arena is in memory of its own.
	at := len(w.arena)
	held := append(w.arena, value...)
	if cap(held) == cap(w.arena) {
		w.arena = held
	}
	if err := b.Put(key, held[at:len(held):len(held)]); err != nil {
		return w.fail(err)
	}
	w.rows++
	return nil
}

func (w *Writer) begin() (err error) {
	if w.err != nil || w.tx != nil {
		return w.err
	}
	if w.tx, err = w.db.Begin(true); err != nil {
		return w.fail(err)
	}
	return nil
}

// commit ends the batch.
func (w *Writer) commit() error {
	if w.err != nil || w.tx == nil {
		return w.err
	}
	tx := w.tx
	w.tx, w.rows = nil, 0
	if err := tx.Commit(); err != nil {
		return w.fail(errors.Join(err, rollback(tx)))
	}
	w.arena = w.arena[:0]
	if w.unsynced++; w.unsynced < batchesUnsynced {
		return nil
	}
	return w.sync()
}

// sync makes durable what was committed.
func (w *Writer) sync() error {
	w.unsynced = 0
	if err := w.db.Sync(); err != nil {
		return w.fail(err)
	}
	return nil
}

// rollback gives a transaction up, if its commit has not done so.
func rollback(tx *bbolt.Tx) error {
	if err := tx.Rollback(); !errors.Is(err, bbolterrors.ErrTxClosed) {
		return err
	}
	return nil
}

func (w *Writer) fail(err error) error {
	if !errors.Is(err, ErrRow) && !errors.Is(err, ErrMeta) {
		err = fmt.Errorf("etcdfile: write %s: %w", w.path, err)
	}
	w.err = cmp.Or(w.err, fmt.Errorf("%w: %w", ErrClosed, err))
	return err
}

// Finish writes what is left. When it returns, the file is whole, and it and its name are durable; it has no hash yet.
func (w *Writer) Finish(m *Meta) error {
	if w.err != nil {
		return w.err
	}
	revision := max(1, w.last.Main, m.Compact)
	if m.Revision != 0 && m.Revision != revision {
		return w.fail(fmt.Errorf("%w: revision %d, but etcd will find %d", ErrMeta, m.Revision, revision))
	}
	if err := w.putMeta(m); err != nil {
		return err
	}
	size, err := w.seal(m)
	if err != nil {
		return err
	}
	w.err = ErrClosed
	db := w.db
	w.db = nil
	if err := db.Close(); err != nil {
		return w.abandon(err)
	}
	if err := cut(w.path, size); err != nil {
		return w.abandon(err)
	}
	return nil
}

// seal commits the bucket that makes the file whole, with all else on disk before, and gives the size of what is used.
func (w *Writer) seal(m *Meta) (size int64, err error) {
	for _, name := range plainBuckets() {
		if err := w.begin(); err != nil {
			return 0, err
		}
		if _, err := w.tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return 0, w.fail(err)
		}
	}
	if err := w.commit(); err != nil {
		return 0, err
	}
	w.db.NoSync = false // from here on: pages, sync, meta page, sync
	if err := w.sync(); err != nil {
		return 0, err
	}
	if err := w.putState(m); err != nil {
		return 0, err
	}
	if err := w.commit(); err != nil {
		return 0, err
	}
	// A transaction that changes nothing: then the other meta page says the same.
	if err := w.begin(); err != nil {
		return 0, err
	}
	size = w.tx.Size()
	return size, w.commit()
}

// cut takes away what bbolt has reserved behind the last page.
func cut(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(size), file.Sync(), file.Close()); err != nil {
		return err
	}
	return syncDir(path)
}

// Close releases the Writer. Unless Finish has returned without an error, nothing is left of the file.
func (w *Writer) Close() error {
	if w.db == nil {
		return nil
	}
	w.err = cmp.Or(w.err, ErrClosed)
	var err error
	if w.tx != nil {
		err = rollback(w.tx)
	}
	err = errors.Join(err, w.db.Close())
	w.tx, w.db = nil, nil
	return w.abandon(err)
}

// abandon removes the file.
func (w *Writer) abandon(err error) error {
	if removed := os.Remove(w.path); removed != nil {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return fmt.Errorf("etcdfile: write %s: %w", w.path, err)
	}
	return nil
}
