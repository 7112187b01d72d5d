package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// Row is a row of the log's table.
type Row struct {
	Position int64
	Kind     uint8
	// Closing is nil unless the row closes a batch; then it says which, and has the mark. Opaque to
	// all but this package.
	Closing     []byte
	Meta, Value []byte
}

// rowOf makes a Row of the columns position, kind, meta, value, batch.
func rowOf(columns []driver.Value) (Row, error) {
	position, ok1 := columns[0].(int64)
	kind, ok2 := columns[1].(int64)
	meta, ok3 := columns[2].([]byte)
	value, ok4 := columns[3].([]byte)
	closing, ok5 := columns[4].([]byte)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 && columns[4] != nil || kind < 0 || kind > 255 {
		return Row{}, fmt.Errorf("%w: the row at position %d is none of Keelson's", drivers.ErrCorrupt, position)
	}
	return Row{Position: position, Kind: uint8(kind), Closing: closing, Meta: meta, Value: value}, nil
}

// Rows gives all rows in (after, upTo], or up to the log's end if that is lower, as they are in the table,
// in order, for a copy of the log elsewhere. Like Scan it holds nothing for long: rows that Scrub removes meanwhile may
// or may not be seen, so the mark that fits to the copy is one that was read afterwards. fn gets
// slices that are valid during the call; the bytes in the rows are fn's to keep. An error of fn ends it and is returned.
func (l *Log) Rows(ctx context.Context, after, upTo int64, fn func([]Row) error) error {
	if err := l.usable(ctx); err != nil {
		return fmt.Errorf("rows: %w", err)
	}
	upTo = min(upTo, l.state.Load().Position)
	var slice rowSlice
	for after = max(after, 0); after < upTo; {
		slice.reset()
		err := l.read(ctx, func(r *reader) error { return r.scanAll.query(slice.add, after, upTo) })
		if err != nil {
			return fmt.Errorf("rows after %d: %w", after, err)
		}
		if after, err = l.checkHoles(after, upTo, &slice); err != nil {
			return fmt.Errorf("rows: %w", err)
		}
		if len(slice.rows) == 0 {
			return nil
		}
		if err := fn(slice.rows); err != nil {
			return err
		}
	}
	return nil
}

// rowSlice is a run of rows read under one state of the database.
type rowSlice struct {
	rows  []Row
	bytes int
	full  bool // there may be more
}

func (s *rowSlice) reset() {
	clear(s.rows)
	s.rows, s.bytes, s.full = s.rows[:0], 0, false
}

// add takes a row in and ends the slice when it is large enough.
func (s *rowSlice) add(columns []driver.Value) error {
	r, err := rowOf(columns)
	if err != nil {
		return err
	}
	if r.Closing != nil {
		if _, err := decodeClosing(r.Closing); err != nil {
			return fmt.Errorf("position %d: %w", r.Position, err)
		}
	}
	s.rows = append(s.rows, r)
	s.bytes += len(r.Meta) + len(r.Value)
	if len(s.rows) >= sliceRows || s.bytes >= sliceBytes {
		s.full = true
		return errStop
	}
	return nil
}

func (s *rowSlice) len() int             { return len(s.rows) }
func (s *rowSlice) position(i int) int64 { return s.rows[i].Position }
func (s *rowSlice) more() bool           { return s.full }
