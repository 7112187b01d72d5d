package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// writer is the one connection that writes. Used with the token held.
type writer struct {
	conn *conn

	begin, commit *stmt
	inserter      inserter

	deleteOne, deleteRange, mark *stmt
	// rows and pages serve defragmentation; frames tells the size of the write-ahead log.
	rows, pages, frames *stmt

	// changes is how often the head row has been changed.
	changes int64
	// pending is the transaction whose COMMIT is unsettled.
	pending *pendingWrite
}

func (w *writer) prepare() error {
	for _, p := range []struct {
		to  **stmt
		sql string
	}{
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
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
	if err := w.inserter.prepare(w.conn); err != nil {
		return err
	}
	var err error
	// By the primary key.
	if w.rows, err = w.conn.prepare("SELECT position, kind, meta, value, batch FROM log WHERE position BETWEEN ?1 AND ?2 ORDER BY position", 5); err != nil {
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
	return l.AppendAll(ctx, after, []Marked{{Batch: batch}})
}

// AppendAll appends batches one after the other in one transaction: all of them or none, durable on
// return. Otherwise it is as Append, with the same errors.
func (l *Log) AppendAll(ctx context.Context, after drivers.End, batches []Marked) error {
	if err := validate(batches); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if err := l.lockWriter(ctx); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	defer l.unlockWriter()
	if err := l.writable(); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if end := l.state.Load().End; end != after {
		return fmt.Errorf("append after %d: %w: it is at %d", after.Position, drivers.ErrConflict, end.Position)
	}
	if err := l.appendLocked(after, batches); err != nil {
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

func validate(batches []Marked) error {
	if len(batches) == 0 {
		return errors.New("there is no batch")
	}
	for _, m := range batches {
		if len(m.Batch.Entries) == 0 {
			return errors.New("the batch is empty")
		}
		for i := range m.Batch.Entries {
			if len(m.Batch.Entries[i].Meta) == 0 {
				return fmt.Errorf("entry %d of the batch has no meta", i)
			}
		}
	}
	return nil
}

func (l *Log) appendLocked(after drivers.End, batches []Marked) error {
	last, err := l.writer.insert(after.Position, batches)
	if err != nil {
		// Before COMMIT nothing can have become durable.
		if isConstraint(err) {
			err = fmt.Errorf("%w: somebody else has written to the file: %w", drivers.ErrConflict, err)
		}
		return errors.Join(err, l.abandon())
	}
	err = l.commit(func() (bool, error) {
		now, err := readEnd(l.writer.conn)
		return now == last, err
	})
	if err != nil {
		return err
	}
	l.advance(last)
	l.checkpointer.grew()
	return nil
}

// advance publishes a new end.
func (l *Log) advance(last markedEnd) {
	s := *l.state.Load()
	s.markedEnd = last
	l.state.Store(&s)
	l.wake.All()
}

// insert begins a transaction and puts the batches into it. It gives the end that the log has with them.
func (w *writer) insert(after int64, batches []Marked) (markedEnd, error) {
	if err := w.beginClean(); err != nil {
		return markedEnd{}, err
	}
	position := after
	for i := range batches {
		entries := batches[i].Batch.Entries
		for j := range entries {
			position++
			e := &entries[j]
			r := Row{Position: position, Kind: e.Kind, Meta: e.Meta, Value: e.Value}
			if j == len(entries)-1 {
				r.Closing = encodeClosing(&batches[i])
			}
			if err := w.inserter.put(r); err != nil {
				return markedEnd{}, err
			}
		}
	}
	last := batches[len(batches)-1]
	end := drivers.End{Position: position, Batch: last.Batch.ID}
	return markedEnd{End: end, mark: last.Mark}, w.inserter.flush()
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
