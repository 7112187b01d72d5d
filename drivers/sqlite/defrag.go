package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

const (
	// Sparse rows are rewritten so many bytes or rows at a time; appends wait for one slice at most.
	packBytes = 256 << 10
	packRows  = 2048
	// rowOverhead is about what a row takes besides its meta and value.
	rowOverhead = 24
	// packGain is the least gain that is worth the writing: one page freed for so many rewritten.
	packGain = 8
)

// Defragment implements drivers.Defragmenter. Rows of sparse pages are
// written anew, free pages are given back, and the file is cut off, all in slices between
// which appends and reads go on. DESIGN.md, "Space", has the reasons.
func (l *Log) Defragment(ctx context.Context) error {
	if l.opts.ReadOnly {
		return fmt.Errorf("defragment: %w: it was opened for inspection", drivers.ErrReadOnly)
	}
	if err := l.pack(ctx); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	if err := l.vacuum(ctx); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	// The file itself is cut off at the end of a checkpoint.
	if err := l.checkpointer.checkpoint(ctx); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	return nil
}

// vacuum gives back as many pages as are free now; scrubs may free more meanwhile.
func (l *Log) vacuum(ctx context.Context) error {
	total, inUse, err := l.Size(ctx)
	if err != nil {
		return err
	}
	for free := total - inUse; free > 0; free -= vacuumBytes {
		if err := l.vacuumSlice(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pack rewrites the rows of sparse pages. Scrubbing leaves leaf pages that are up to
// two thirds empty; rows that are deleted and inserted again in order fill
// their pages as appended ones do.
func (l *Log) pack(ctx context.Context) error {
	for after := int64(0); ; {
		r, err := l.nextRun(ctx, after)
		if err != nil || r.rows == 0 {
			return err
		}
		if l.mayBeSparse(r) {
			if err := l.packRun(ctx, r); err != nil {
				return err
			}
		}
		after = r.last
	}
}

// run is a run of rows from first to last.
type run struct{ first, last, rows, bytes int64 }

// nextRun measures the rows after a position, up to the scrubbed mark: above it are no holes.
func (l *Log) nextRun(ctx context.Context, after int64) (run, error) {
	var n run
	err := l.read(ctx, func(r *reader) error {
		return r.sizes.query(func(row []driver.Value) error {
			n.last = asInt(row[0])
			if n.rows++; n.rows == 1 {
				n.first = n.last
			}
			if n.bytes += asInt(row[1]) + rowOverhead; n.bytes >= packBytes || n.rows >= packRows {
				return errStop
			}
			return nil
		}, after, l.state.Load().scrubbed)
	})
	return n, err
}

// mayBeSparse rules out runs without holes, whose pages are as appending left them, and runs
// of rows so large that the pages which they share with others are few.
func (l *Log) mayBeSparse(r run) bool {
	return r.last-r.first+1 > r.rows && r.bytes/r.rows < packGain*l.checkpointer.pageSize/2
}

// packRun deletes the rows of a run and inserts them again, and lets that be
// if it gains too little: what was not committed costs no writing.
func (l *Log) packRun(ctx context.Context, r run) error {
	if err := l.lockWriter(ctx); err != nil {
		return err
	}
	defer l.unlockWriter()
	if err := l.writable(); err != nil {
		return fmt.Errorf("rewrite rows: %w", err)
	}
	gained, written, err := l.writer.rewrite(r)
	if err != nil {
		return fmt.Errorf("rewrite rows %d to %d: %w", r.first, r.last, classify(errors.Join(err, l.abandon())))
	}
	if gained <= 0 || gained*packGain < written/l.checkpointer.pageSize {
		return l.abandon()
	}
	if err := l.commit(nil); err != nil {
		return fmt.Errorf("rewrite rows %d to %d: %w", r.first, r.last, classify(err))
	}
	l.checkpointer.grew()
	return nil
}

// rewrite begins a transaction and rewrites the rows in it. It gives the pages gained and
// the bytes put in.
func (w *writer) rewrite(r run) (gained, written int64, err error) {
	if err := w.beginClean(); err != nil {
		return 0, 0, err
	}
	before, err := w.pagesInUse()
	if err != nil {
		return 0, 0, err
	}
	// A scrub may have been here since the run was measured: that makes it smaller.
	var rows []Row
	err = w.rows.query(func(columns []driver.Value) error {
		row, err := rowOf(columns)
		rows = append(rows, row)
		return err
	}, r.first, r.last)
	if err != nil || len(rows) == 0 {
		return 0, 0, err
	}
	if err := w.deleteRange.run(r.first, r.last); err != nil {
		return 0, 0, err
	}
	for _, row := range rows {
		if err := w.inserter.put(row); err != nil {
			return 0, 0, err
		}
		written += int64(len(row.Meta) + len(row.Value) + rowOverhead)
	}
	if err := w.inserter.flush(); err != nil {
		return 0, 0, err
	}
	after, err := w.pagesInUse()
	return before - after, written, err
}

// pagesInUse counts pages as the transaction sees them.
func (w *writer) pagesInUse() (int64, error) {
	ok, err := w.pages.queryRow()
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, errors.New("the pages could not be counted")
	}
	return asInt(w.pages.row[0]), nil
}
