package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"fmt"
	"slices"

	"github.com/keelson-io/keelson/drivers"
)

// reader is a connection of the pool. Who has taken it from there has it alone.
type reader struct {
	conn *conn

	begin, commit *stmt
	value, values *stmt
	scan, scanAll *stmt
	scanTimes     *stmt
	closing       *stmt
	space, sizes  *stmt
	check         *stmt
}

func newReader(o connOptions) (*reader, error) {
	c, err := connect(o)
	if err != nil {
		return nil, err
	}
	r := &reader{conn: c}
	for _, p := range []struct {
		to      **stmt
		columns int
		sql     string
	}{
		{&r.begin, 0, "BEGIN"},
		{&r.commit, 0, "COMMIT"},
		// All by the primary key.
		{&r.value, 1, "SELECT value FROM log WHERE position = ?1"},
		{&r.values, 2, "SELECT position, value FROM log WHERE position BETWEEN ?1 AND ?2 ORDER BY position"},
		{&r.scan, 3, "SELECT position, kind, meta FROM log WHERE position > ?1 AND position <= ?2 ORDER BY position"},
		{&r.scanAll, 5, "SELECT position, kind, meta, value, batch FROM log WHERE position > ?1 AND position <= ?2 ORDER BY position"},
		{&r.scanTimes, 4, "SELECT position, kind, meta, batch FROM log WHERE position > ?1 AND position <= ?2 ORDER BY position"},
		{&r.closing, 1, "SELECT batch FROM log WHERE position = ?1"},
		// length of a value does not read it.
		{&r.sizes, 2, "SELECT position, length(meta) + length(value) FROM log WHERE position > ?1 AND position <= ?2 ORDER BY position"},
		{&r.check, 4, "SELECT position, kind, length(meta), batch FROM log WHERE position > ?1 ORDER BY position"},
		{&r.space, 3, "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"},
	} {
		if *p.to, err = c.prepare(p.sql, p.columns); err != nil {
			return nil, err
		}
	}
	return r, nil
}

const (
	// A slice of a read ends after so many rows or bytes, and with it the
	// state of the database that it stands on, which a checkpoint may have to wait for.
	sliceRows  = 2048
	sliceBytes = 1 << 20
)

// read runs fn with a reader and with the gate held: fn must be short and not call out.
func (l *Log) read(ctx context.Context, fn func(*reader) error) error {
	if err := l.usable(ctx); err != nil {
		return err
	}
	var r *reader
	select {
	case r = <-l.readers:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return drivers.ErrClosed
	}
	defer func() { l.readers <- r }()
	l.gate.RLock()
	defer l.gate.RUnlock()
	return classify(fn(r))
}

// Scan implements drivers.Log.
func (l *Log) Scan(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	if err := l.usable(ctx); err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	upTo := l.state.Load().Position
	if opts.UpTo > 0 {
		upTo = min(upTo, opts.UpTo)
	}
	var slice scanSlice
	for after := max(opts.After, 0); after < upTo; {
		slice.reset()
		err := l.read(ctx, func(r *reader) error {
			return slice.fill(r, drivers.ScanOptions{After: after, UpTo: upTo, Values: opts.Values, Times: opts.Times})
		})
		if err != nil {
			return fmt.Errorf("scan after %d: %w", after, err)
		}
		last, err := l.checkHoles(after, upTo, &slice)
		if err != nil {
			return fmt.Errorf("scan: %w", err)
		}
		after = last
		if len(slice.entries) == 0 {
			return nil
		}
		if err := fn(slice.entries); err != nil {
			return err
		}
	}
	return nil
}

// positions are those of a run of rows read under one state of the database.
type positions interface {
	len() int
	position(i int) int64
	more() bool // there may be more rows behind them
}

// checkHoles finds what is missing among the rows read after a position, up to upTo if
// they are all, and gives the last position that they speak for.
func (l *Log) checkHoles(after, upTo int64, rows positions) (int64, error) {
	// The mark moves before holes can be seen, so this one is not too old.
	scrubbed := l.state.Load().scrubbed
	for i := range rows.len() {
		p := rows.position(i)
		if p-1 > max(after, scrubbed) {
			return 0, missing(max(after, scrubbed)+1, p-1)
		}
		after = p
	}
	if rows.more() {
		return after, nil
	}
	if upTo > max(after, scrubbed) {
		return 0, missing(max(after, scrubbed)+1, upTo)
	}
	return upTo, nil
}

func missing(from, to int64) error {
	return fmt.Errorf("%w: the rows at %d to %d are missing", drivers.ErrCorrupt, from, to)
}

// scanSlice is a run of rows read under one state of the database.
type scanSlice struct {
	entries []drivers.Entry
	// closings has what closes a batch, by index into entries. With values or times only.
	closings []closingAt
	bytes    int
	times    bool // entries say when they were written
	full     bool // there may be more
}

type closingAt struct {
	index int
	closing
}

func (s *scanSlice) reset() {
	clear(s.entries)
	s.entries, s.closings, s.bytes, s.full = s.entries[:0], s.closings[:0], 0, false
}

func (s *scanSlice) fill(r *reader, opts drivers.ScanOptions) error {
	q := r.scan
	switch s.times = opts.Times; {
	case opts.Values:
		q = r.scanAll
	case opts.Times:
		q = r.scanTimes
	}
	return q.query(s.add, opts.After, opts.UpTo)
}

// add takes a row in and ends the slice when it is large enough.
func (s *scanSlice) add(row []driver.Value) error {
	position, ok1 := row[0].(int64)
	kind, ok2 := row[1].(int64)
	meta, ok3 := row[2].([]byte)
	if !ok1 || !ok2 || !ok3 || kind < 0 || kind > 255 {
		return fmt.Errorf("%w: the row at position %d is none of Keelson's", drivers.ErrCorrupt, position)
	}
	e := drivers.Entry{Position: position, Kind: uint8(kind), Meta: meta}
	if len(row) == 5 {
		var ok bool
		if e.Value, ok = row[3].([]byte); !ok {
			return fmt.Errorf("%w: the row at position %d has no value", drivers.ErrCorrupt, position)
		}
	}
	if batch := row[len(row)-1]; len(row) > 3 && batch != nil {
		c, err := decodeClosing(batch)
		if err != nil {
			return fmt.Errorf("position %d: %w", position, err)
		}
		s.closings = append(s.closings, closingAt{index: len(s.entries), closing: c})
		if s.times {
			e.Written = c.time.UnixMilli()
		}
	}
	s.entries = append(s.entries, e)
	s.bytes += len(e.Meta) + len(e.Value)
	if len(s.entries) >= sliceRows || s.bytes >= sliceBytes {
		s.full = true
		return errStop
	}
	return nil
}

func (s *scanSlice) len() int             { return len(s.entries) }
func (s *scanSlice) position(i int) int64 { return s.entries[i].Position }
func (s *scanSlice) more() bool           { return s.full }

// Values implements drivers.Log.
func (l *Log) Values(ctx context.Context, positions []int64, dst [][]byte) error {
	if len(dst) != len(positions) {
		return fmt.Errorf("values: %d positions but room for %d", len(positions), len(dst))
	}
	if len(positions) == 1 {
		return l.read(ctx, func(r *reader) error { return l.readValue(r, positions[0], &dst[0]) })
	}
	f := valueFetch{log: l, positions: positions, dst: dst, order: make([]int32, len(positions))}
	for i := range f.order {
		f.order[i] = int32(i)
	}
	slices.SortFunc(f.order, func(a, b int32) int { return cmp.Compare(positions[a], positions[b]) })
	for len(f.order) > 0 {
		if err := l.read(ctx, f.slice); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) readValue(r *reader, position int64, dst *[]byte) error {
	ok, err := r.value.queryRow(position)
	if err != nil {
		return fmt.Errorf("value at %d: %w", position, err)
	}
	if !ok {
		if b := l.state.Load().bounds(); position > b.Scrubbed && position <= b.End.Position {
			return missing(position, position)
		}
		return fmt.Errorf("value at %d: %w", position, drivers.ErrScrubbed)
	}
	*dst, ok = r.value.row[0].([]byte)
	r.value.row[0] = nil
	if !ok {
		return fmt.Errorf("value at %d: %w: there is none", position, drivers.ErrCorrupt)
	}
	return nil
}

// valueFetch fetches many values in the order of their positions.
type valueFetch struct {
	log       *Log
	positions []int64
	dst       [][]byte
	order     []int32 // indexes into positions that are still to be fetched, ascending by position
}

// slice fetches some, all under one state of the database, so that its pages
// are read once.
func (f *valueFetch) slice(r *reader) error {
	if err := r.begin.run(); err != nil {
		return err
	}
	err := f.fetch(r)
	// A COMMIT of a reader has nothing to fail with; after an error it may be over already.
	if r.conn.c.AutoCommit() {
		return err
	}
	return cmp.Or(err, r.commit.run())
}

func (f *valueFetch) fetch(r *reader) error {
	for rows, bytes := 0, 0; len(f.order) > 0 && rows < sliceRows && bytes < sliceBytes; rows++ {
		i := f.order[0]
		if err := f.log.readValue(r, f.positions[i], &f.dst[i]); err != nil {
			return err
		}
		bytes += len(f.dst[i])
		f.order = f.order[1:]
	}
	return nil
}

// Size implements drivers.Sizer.
func (l *Log) Size(ctx context.Context) (total, inUse int64, err error) {
	err = l.read(ctx, func(r *reader) error {
		ok, err := r.space.queryRow()
		if err != nil || !ok {
			return fmt.Errorf("size: %w", cmp.Or(err, errStop))
		}
		var n [3]int64
		for i := range n {
			n[i], _ = r.space.row[i].(int64)
		}
		total, inUse = n[0]*n[2], (n[0]-n[1])*n[2]
		return nil
	})
	return total, inUse, err
}
