package sqlite

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// writer is the one connection that writes. Used with the token held.
type writer struct {
	conn *conn

	begin, commit *stmt
	// last inserts the closing row of a batch, the others 1, 4 and 16 rows:
	// a statement costs more than a row.
	last    *stmt
	inserts [3]*stmt

	deleteOne, deleteRange, mark *stmt
	// rows and pages serve defragmentation; frames tells the size of the write-ahead log.
	rows, pages, frames *stmt

	// changes is how often the head row has been changed.
	changes int64
	// pending is the transaction whose COMMIT is unsettled.
	pending *pendingWrite
}

// insertRows are how many rows each of writer.inserts inserts.
var insertRows = [...]int{16, 4, 1}

const (
	// insertBytes bounds the bytes bound to one prepared statement, which keeps as much memory
	// from then on. A larger row gets a statement of its own.
	insertBytes = 256 << 10
	insertLast  = "INSERT INTO log (position, kind, batch, meta, value) VALUES (?1, ?2, ?3, ?4, ?5)"
)

// insertSQL is the statement for n rows at ?1, ?1+1, …
func insertSQL(n int) string {
	var b strings.Builder
	b.WriteString("INSERT INTO log (position, kind, meta, value) VALUES ")
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(?1 + %d, ?%d, ?%d, ?%d)", i, 3*i+2, 3*i+3, 3*i+4)
	}
	return b.String()
}

func (w *writer) prepare() error {
	for _, p := range []struct {
		to  **stmt
		sql string
	}{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
		{&w.last, insertLast},
		{&w.inserts[0], insertSQL(insertRows[0])},
		{&w.inserts[1], insertSQL(insertRows[1])},
		{&w.inserts[2], insertSQL(insertRows[2])},
		// By the primary key, both.
		{&w.deleteOne, "DELETE FROM log WHERE position = ?1"},
		{&w.deleteRange, "DELETE FROM log WHERE position BETWEEN ?1 AND ?2"},
		{&w.mark, "UPDATE head SET scrubbed = max(scrubbed, ?1), changes = changes + 1 WHERE id = 1"},
	} {
		s, err := w.conn.prepare(p.sql, 0)
		if err != nil {
			return err
		}
		*p.to = s
	}
	var err error
	// By the primary key.
	if w.rows, err = w.conn.prepare("SELECT position, kind, batch, meta, value FROM log WHERE position BETWEEN ?1 AND ?2 ORDER BY position", 5); err != nil {
		return err
	}
	if w.frames, err = w.conn.prepare("PRAGMA wal_checkpoint(NOOP)", 3); err != nil {
		return err
	}
	w.pages, err = w.conn.prepare("SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count", 1)
	return err
}

// Append implements drivers.Log.
func (l *Log) Append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	if err := validate(batch); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if err := l.lockWriter(ctx); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	defer l.unlockWriter()
	if err := l.writable(); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	bounds := *l.bounds.Load()
	if bounds.End != after {
		return fmt.Errorf("append after %d: %w: it is at %d", after.Position, drivers.ErrConflict, bounds.End.Position)
	}
	if err := l.appendLocked(after, batch); err != nil {
		return fmt.Errorf("append after %d: %w", after.Position, classify(err))
	}
	return nil
}

// writable says why nothing can be committed now. Called with the token held.
func (l *Log) writable() error {
	if l.unsettled.Load() {
		if l.writer.pending.visible != nil {
			return drivers.ErrUnresolved // the caller has to learn what became of it
		}
		if _, err := l.settleLocked(); err != nil {
			return fmt.Errorf("%w: %w", drivers.ErrUnresolved, err)
		}
	}
	return l.checkpointer.room()
}

func validate(batch *drivers.Batch) error {
	if len(batch.Entries) == 0 {
		return errors.New("the batch is empty")
	}
	for i := range batch.Entries {
		if len(batch.Entries[i].Meta) == 0 {
			return fmt.Errorf("entry %d of the batch has no meta", i)
		}
	}
	return nil
}

func (l *Log) appendLocked(after drivers.End, batch *drivers.Batch) error {
	if err := l.writer.insert(after.Position, batch); err != nil {
		// Before COMMIT nothing can have become durable.
		if isConstraint(err) {
			err = fmt.Errorf("%w: somebody else has written to the file: %w", drivers.ErrConflict, err)
		}
		return errors.Join(err, l.abandon())
	}
	end := drivers.End{Position: after.Position + int64(len(batch.Entries)), Batch: batch.ID}
	err := l.commit(func() (bool, error) {
		now, err := readEnd(l.writer.conn)
		return now == end, err
	})
	if err != nil {
		return err
	}
	l.advance(end)
	l.checkpointer.grew()
	return nil
}

// advance publishes a new end.
func (l *Log) advance(end drivers.End) {
	b := *l.bounds.Load()
	b.End = end
	l.bounds.Store(&b)
	l.wake.all()
}

// insert begins a transaction and puts the batch into it.
func (w *writer) insert(after int64, batch *drivers.Batch) error {
	if err := w.beginClean(); err != nil {
		return err
	}
	entries, position := batch.Entries, after+1
	last := len(entries) - 1
	for i := 0; i < last; {
		n, err := w.insertSome(position+int64(i), entries[i:last])
		if err != nil {
			return err
		}
		i += n
	}
	e := &entries[last]
	closing := encodeClosing(batch)
	if len(e.Meta)+len(e.Value) > insertBytes {
		return w.insertLarge(position+int64(last), e, closing)
	}
	return w.last.run(position+int64(last), int64(e.Kind), closing, e.Meta, notNil(e.Value))
}

// insertSome inserts as many of the entries as one statement takes.
func (w *writer) insertSome(position int64, entries []drivers.Entry) (int, error) {
	for i, n := range insertRows {
		if n > len(entries) {
			continue
		}
		size := 0
		for j := range n {
			size += len(entries[j].Meta) + len(entries[j].Value)
		}
		if size > insertBytes {
			if n == 1 {
				return 1, w.insertLarge(position, &entries[0], nil)
			}
			continue
		}
		s := w.inserts[i]
		s.args[0].Value = position
		for j := range n {
			e, a := &entries[j], s.args[3*j+1:]
			a[0].Value, a[1].Value, a[2].Value = int64(e.Kind), e.Meta, notNil(e.Value)
		}
		return n, s.runBound()
	}
	panic("sqlite: no insert for one row")
}

// insertLarge inserts one row by a statement that is not kept, nor its buffer.
func (w *writer) insertLarge(position int64, e *drivers.Entry, closing []byte) error {
	s, err := w.conn.prepareOnce(insertLast, 0)
	if err != nil {
		return err
	}
	var last any // NULL
	if closing != nil {
		last = closing
	}
	return errors.Join(s.run(position, int64(e.Kind), last, e.Meta, notNil(e.Value)), s.s.Close())
}

// notNil makes nil the empty value that it is stored as.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// walFrames counts the pages in the write-ahead log. SQLite has the number at hand.
func (w *writer) walFrames() (int64, error) {
	ok, err := w.frames.queryRow()
	if err != nil || !ok {
		return 0, cmp.Or(err, errStop)
	}
	return asInt(w.frames.row[1]), nil
}

// beginClean begins a transaction, after ending one whose rollback had failed.
func (w *writer) beginClean() error {
	if err := w.conn.rollback(); err != nil {
		return err
	}
	return w.begin.run()
}

// abandon ends a transaction that is not to be committed.
func (l *Log) abandon() error {
	return l.writer.conn.rollback()
}

// closing is what the last row of a batch says about it.
type closing struct {
	id     drivers.BatchID
	time   time.Time
	server uint64
}

const closingSize = 32

func encodeClosing(b *drivers.Batch) []byte {
	out := make([]byte, closingSize)
	copy(out, b.ID[:])
	binary.BigEndian.PutUint64(out[16:], uint64(b.Time.UnixMilli()))
	binary.BigEndian.PutUint64(out[24:], b.Server)
	return out
}

func decodeClosing(v any) (closing, error) {
	b, ok := v.([]byte)
	if !ok || len(b) != closingSize {
		return closing{}, fmt.Errorf("%w: it does not close a batch", drivers.ErrCorrupt)
	}
	return closing{
		id:     drivers.BatchID(b[:16]),
		time:   time.UnixMilli(int64(binary.BigEndian.Uint64(b[16:]))),
		server: binary.BigEndian.Uint64(b[24:]),
	}, nil
}
