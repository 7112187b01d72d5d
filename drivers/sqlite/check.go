package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/keelson-io/keelson/drivers"
)

// checkPatience is how many times CheckpointBytes the write-ahead log of a running server may
// reach before a check of the pages, which stands on one state of the file, gives way to it.
const checkPatience = 16

// errPatience ends a check of the pages that commits would wait for.
var errPatience = errors.New("too much was written meanwhile to check the pages of a running log: stop the server and check again")

// Check implements drivers.Checker: first the rows, in slices, then SQLite's
// own check of every page. The latter stands on one state of the file, so the write-ahead
// log of a running server cannot begin anew meanwhile; when that
// has grown too much the check ends with an error that is not a finding.
func (l *Log) Check(ctx context.Context, report func(finding string)) error {
	c := rowCheck{report: report, after: math.MinInt64}
	for !c.done {
		err := l.read(ctx, c.slice)
		switch {
		case errors.Is(err, drivers.ErrCorrupt):
			report(fmt.Sprintf("the rows after position %d cannot be read: %v", c.after, err))
			c.done = true
		case err != nil:
			return fmt.Errorf("check: %w", err)
		}
	}
	if err := l.checkPages(ctx, report); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// rowCheck walks the rows.
type rowCheck struct {
	report func(string)
	// after is the last position seen, math.MinInt64 at first; open is set if its row does not close a batch.
	after int64
	open  bool
	last  drivers.BatchID
	rows  int
	done  bool
}

// slice checks some rows and the mark under one state of the database.
func (c *rowCheck) slice(r *reader) error {
	if err := r.begin.run(); err != nil {
		return err
	}
	err := c.sliceLocked(r)
	if r.conn.c.AutoCommit() {
		return err
	}
	return errors.Join(err, r.commit.run())
}

func (c *rowCheck) sliceLocked(r *reader) error {
	row, err := r.conn.get("SELECT scrubbed FROM head WHERE id = 1", 1)
	if errors.Is(err, io.EOF) {
		c.report("the head row is missing")
		c.done = true
		return nil
	}
	if err != nil {
		return err
	}
	scrubbed := asInt(row[0])
	c.rows = 0
	err = r.check.query(func(row []driver.Value) error { return c.add(row, scrubbed) }, c.after)
	if err != nil || c.rows >= sliceRows {
		return err
	}
	c.done = true
	if c.open {
		c.report(fmt.Sprintf("rule D2: the log's last row, at position %d, does not close its batch", c.after))
	}
	if end := max(c.after, 0); scrubbed > 0 && scrubbed >= end {
		c.report(fmt.Sprintf("rule D5: the log is scrubbed up to %d and ends at %d", scrubbed, end))
	}
	return nil
}

func (c *rowCheck) add(row []driver.Value, scrubbed int64) error {
	position := asInt(row[0])
	switch {
	case position < 1:
		c.report(fmt.Sprintf("there is a row at position %d", position))
	case position-1 > max(c.after, scrubbed):
		c.report(fmt.Sprintf("rule D5: positions %d to %d are missing, and the log is scrubbed up to %d only",
			max(c.after, scrubbed)+1, position-1, scrubbed))
	}
	if kind := asInt(row[1]); kind < 0 || kind > 255 {
		c.report(fmt.Sprintf("the row at position %d has kind %d", position, kind))
	}
	if asInt(row[2]) == 0 {
		c.report(fmt.Sprintf("the row at position %d has no meta", position))
	}
	c.open = row[3] == nil
	if !c.open {
		last, err := decodeClosing(row[3])
		switch {
		case err != nil:
			c.report(fmt.Sprintf("the row at position %d closes a batch with something else than a batch's id, time and server", position))
		case last.id == c.last:
			c.report(fmt.Sprintf("rule D1: the batch that closes at position %d has the id of the one before", position))
		}
		c.last = last.id
	}
	c.after = position
	if c.rows++; c.rows >= sliceRows {
		return errStop
	}
	return nil
}

// checkPages runs SQLite's check on a connection of its own, so that no other read waits for it. One at a time.
func (l *Log) checkPages(ctx context.Context, report func(string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	select {
	case l.checking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return drivers.ErrClosed
	}
	defer func() { <-l.checking }()
	if err := l.usable(ctx); err != nil {
		return err
	}
	// Close waits for this, so it must end soon.
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-l.closed:
			cancel(drivers.ErrClosed)
		case <-done:
		}
	}()
	if k := l.checkpointer; k != nil {
		k.patience.Store(&patience{bytes: checkPatience * l.opts.CheckpointBytes, end: func() { cancel(errPatience) }})
		defer k.patience.Store(nil)
	}
	c, err := connect(l.inspection())
	if err != nil {
		return classify(err)
	}
	err = integrityCheck(ctx, c, report)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return errors.Join(err, c.close())
}

// inspection is how to connect for reading beside the pool.
func (l *Log) inspection() connOptions {
	o := connOptions{path: l.opts.Path, cache: l.opts.ReaderCache, queryOnly: true, vfs: l.opts.vfs}
	if l.opts.ReadOnly {
		o.readOnly, o.immutable = true, l.immutable
	}
	return o
}

func integrityCheck(ctx context.Context, c *conn, report func(string)) error {
	s, err := c.prepare("PRAGMA integrity_check", 1)
	if err != nil {
		return classify(err)
	}
	rows, err := s.s.QueryContext(ctx, nil)
	if err != nil {
		return reportCorrupt(err, report)
	}
	for {
		err := rows.Next(s.row)
		switch {
		case errors.Is(err, io.EOF):
			return rows.Close()
		case err != nil:
			// Close would give the same error once more.
			_ = rows.Close()
			return reportCorrupt(err, report)
		}
		if text := fmt.Sprint(s.row[0]); text != "ok" {
			report(text)
		}
	}
}

// reportCorrupt makes a finding of an error that is one.
func reportCorrupt(err error, report func(string)) error {
	if err = classify(err); !errors.Is(err, drivers.ErrCorrupt) {
		return err
	}
	report(fmt.Sprintf("the pages cannot be checked to the end: %v", err))
	return nil
}
