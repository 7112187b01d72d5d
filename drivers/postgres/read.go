package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// read runs fn on one of the connections that are for reading; see exchange.
func (l *Log) read(ctx context.Context, fn func(context.Context, *pgconn.PgConn) error) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	defer l.end()
	select {
	case l.reading <- struct{}{}:
		defer func() { <-l.reading }()
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return drivers.ErrClosed
	}
	return l.exchange(ctx, fn)
}

// Follow implements drivers.Log. What came along with a question is at hand; the rest is read in slices.
func (l *Log) Follow(ctx context.Context, after drivers.End, fn func(*drivers.Batch) error) error {
	for first := true; ; first = false {
		if err := l.usable(ctx); err != nil {
			return fmt.Errorf("follow after %d: %w", after.Position, err)
		}
		b, changed, news := l.seen.next(after)
		batches := []*drivers.Batch{b}
		if b == nil && (news || first) {
			var err error
			if batches, err = l.after(ctx, after); err != nil {
				return fmt.Errorf("follow after %d: %w", after.Position, classify(err))
			}
		} else if b == nil {
			batches = nil
		}
		for _, b := range batches {
			if err := l.usable(ctx); err != nil {
				return fmt.Errorf("follow after %d: %w", after.Position, err)
			}
			after = drivers.End{Position: after.Position + int64(len(b.Entries)), Batch: b.ID}
			if err := fn(b); err != nil {
				return err
			}
		}
		if len(batches) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-l.closed:
		}
	}
}

// after reads batches that come after an end: one whole batch at least, if there is any.
func (l *Log) after(ctx context.Context, after drivers.End) ([]*drivers.Batch, error) {
	if after.Position < 0 || after.Position == 0 && after.Batch != (drivers.BatchID{}) {
		return nil, drivers.ErrDiverged
	}
	rows := collector{last: after.Position}
	for {
		q := question{log: l, entries: true, known: after}
		err := l.read(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
			q.rows = collector{}
			return q.more(ctx, c, rows.last)
		})
		if err != nil {
			return nil, err
		}
		if err := q.continues(); err != nil {
			return nil, err
		}
		rows.open = append(rows.open, q.rows.open...)
		if len(q.rows.batches) > 0 {
			first := q.rows.batches[0]
			first.Entries = append(rows.open[:len(rows.open)-len(q.rows.open)], first.Entries...)
			return q.rows.batches, nil
		}
		if len(q.rows.open) == 0 {
			if len(rows.open) > 0 {
				return nil, fmt.Errorf("%w: the batch that begins at position %d has no end", drivers.ErrCorrupt, after.Position+1)
			}
			return nil, nil
		}
		rows.last = q.rows.last
	}
}

// more asks for the rows after a position, which is q.known's or lies in the batch after it.
func (q *question) more(ctx context.Context, c *pgconn.PgConn, after int64) error {
	l := q.log
	q.follows = q.known.Position == 0
	missing := q.known.Position > 0
	_, err := pipeline(ctx, c, []statement{l.checkStatement(q.known), l.sliceStatement(after), {sql: l.sql.head}}, func(i int, row [][]byte) error {
		cols := columns{row: row}
		switch i {
		case 0:
			id, closes := cols.uuid()
			q.follows, missing = closes && id == q.known.Batch, false
		case 1:
			return q.rows.add(row)
		case 2:
			q.bounds.Scrubbed, q.fence, q.bounds.End.Position = cols.int8(), cols.int8(), cols.int8()
		}
		return cols.err("log")
	})
	q.gone = missing
	return err
}

// continues says why the log cannot be followed from q.known on.
func (q *question) continues() error {
	at, mark, end := q.known.Position, q.bounds.Scrubbed, q.bounds.End.Position
	switch {
	case end < at:
		return fmt.Errorf("%w: it ends at %d", drivers.ErrDiverged, end)
	case mark > at:
		return fmt.Errorf("%w up to %d", drivers.ErrScrubbed, mark)
	case q.gone && mark == at:
		return fmt.Errorf("%w up to it", drivers.ErrScrubbed)
	case q.gone:
		return fmt.Errorf("%w: there is no row at position %d", drivers.ErrCorrupt, at)
	case !q.follows:
		return drivers.ErrDiverged
	}
	return nil
}

// Scan implements drivers.Log.
func (l *Log) Scan(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	bounds, err := l.ReadIndex(ctx)
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	if end := bounds.End.Position; opts.UpTo == 0 || opts.UpTo > end {
		opts.UpTo = end
	}
	opts.After = max(opts.After, 0)
	for s := (slice{opts: opts}); s.opts.After < s.opts.UpTo; s.opts.After = s.next {
		if err := l.usable(ctx); err != nil {
			return fmt.Errorf("scan: %w", err)
		}
		err := l.read(ctx, func(ctx context.Context, c *pgconn.PgConn) error { return s.read(ctx, c, l) })
		if err != nil {
			return fmt.Errorf("scan: %w", classify(err))
		}
		if len(s.entries) > 0 {
			if err := fn(s.entries); err != nil {
				return err
			}
		}
	}
	return l.usable(ctx)
}

// slice is a part of a scan, and then the next one.
type slice struct {
	opts    drivers.ScanOptions
	span    int64 // how many positions are looked at, without values; at least metaRows
	entries []drivers.Entry
	next    int64 // where the scan goes on
}

// metaRows is how many rows are read at once without their values.
const metaRows = 20_000

// metasSQL reads up to $3 rows after $1 and up to $2 along the primary key, without values, timesSQL with the times of batches too. Without statistics
// the planner may read all rows between the two and sort them: so $2 is only as far from $1 as slice.span says.
const (
	metasSQL = "SELECT position, kind, meta FROM {schema}.log WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"
	timesSQL = "SELECT position, kind, meta, batch, written FROM {schema}.log WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"
)

func (s *slice) read(ctx context.Context, c *pgconn.PgConn, l *Log) error {
	s.entries, s.next = nil, s.opts.UpTo
	if s.opts.Values {
		var rows collector
		err := query(ctx, c, l.sliceStatement(s.opts.After), rows.add)
		for _, b := range rows.batches {
			if s.opts.Times {
				b.Entries[len(b.Entries)-1].Written = b.Time.UnixMilli()
			}
			s.entries = append(s.entries, b.Entries...)
		}
		if s.entries = append(s.entries, rows.open...); len(s.entries) > 0 {
			s.next = rows.last // the next slice says whether it was the last one
		}
		s.cut()
		return err
	}
	sql := l.sql.metas
	if s.opts.Times {
		sql = l.sql.times
	}
	upTo, most := s.wanted()
	err := query(ctx, c, statement{sql, []param{int8Param(s.opts.After), int8Param(upTo), int8Param(most)}}, s.add)
	if err == nil {
		s.advance(upTo, most)
	}
	return err
}

// wanted gives the last position that is looked at, and how many rows are asked for.
func (s *slice) wanted() (upTo, most int64) {
	n := min(max(s.span, metaRows), s.opts.UpTo-s.opts.After)
	return s.opts.After + n, min(metaRows, n)
}

// advance notes where the next slice begins, and how far it looks: as far as this one's rows went if there were enough, otherwise farther, so that many holes
// do not take many slices.
func (s *slice) advance(upTo, most int64) {
	n := int64(len(s.entries))
	s.next = upTo
	if n == most {
		s.next = s.entries[n-1].Position
		s.span = s.next - s.opts.After
	} else if n < most/2 {
		s.span = 2 * max(s.span, metaRows)
	}
}

// cut leaves out what lies beyond the last position wanted, of rows with values.
func (s *slice) cut() {
	n := len(s.entries)
	for n > 0 && s.entries[n-1].Position > s.opts.UpTo {
		n--
	}
	s.entries = s.entries[:n]
}

// add takes in a row of metasSQL or timesSQL.
func (s *slice) add(row [][]byte) error {
	cols := columns{row: row}
	e := drivers.Entry{Position: cols.int8()}
	kind := cols.int2()
	e.Kind, e.Meta = uint8(kind), cols.bytes()
	if s.opts.Times {
		if _, closes := cols.uuid(); closes {
			e.Written = cols.time().UnixMilli()
		}
	}
	if cols.bad || kind < 0 || kind > 255 {
		return fmt.Errorf("%w: the row at position %d is none of Keelson's", drivers.ErrCorrupt, e.Position)
	}
	s.entries = append(s.entries, e)
	return nil
}

// Load implements drivers.Shared, in one transaction that sees one state. It keeps the database from removing dead rows meanwhile.
func (l *Log) Load(ctx context.Context, values bool, fn func([]drivers.Entry) error) (drivers.Bounds, error) {
	if err := l.begin(ctx); err != nil {
		return drivers.Bounds{}, fmt.Errorf("load: %w", err)
	}
	defer l.end()
	f, err := l.snapshot(ctx)
	if err != nil {
		return drivers.Bounds{}, fmt.Errorf("load: %w", classify(err))
	}
	defer f.close()
	if err := l.locate(ctx, f); err != nil {
		return drivers.Bounds{}, fmt.Errorf("load: %w", classify(err))
	}
	q := l.question(false)
	if err := f.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error { return q.run(ctx, c) }); err != nil {
		return drivers.Bounds{}, fmt.Errorf("load: %w", classify(err))
	}
	opts := drivers.ScanOptions{UpTo: q.bounds.End.Position, Values: values}
	for s := (slice{opts: opts}); s.opts.After < s.opts.UpTo; s.opts.After = s.next {
		if err := l.usable(ctx); err != nil {
			return drivers.Bounds{}, fmt.Errorf("load: %w", err)
		}
		if err := f.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error { return s.read(ctx, c, l) }); err != nil {
			return drivers.Bounds{}, fmt.Errorf("load: %w", classify(err))
		}
		if len(s.entries) > 0 {
			if err := fn(s.entries); err != nil {
				return drivers.Bounds{}, err
			}
		}
	}
	return q.bounds, nil
}

// valuesAtOnce is how many values one statement fetches.
const valuesAtOnce = 5000

// Values implements drivers.Log.
func (l *Log) Values(ctx context.Context, positions []int64, dst [][]byte) error {
	if len(dst) != len(positions) {
		return fmt.Errorf("values: %w: %d positions but room for %d", errRefused, len(positions), len(dst))
	}
	wanted := make(map[int64][]int, len(positions))
	for i, p := range positions {
		wanted[p] = append(wanted[p], i)
	}
	order := make([]int64, 0, len(wanted))
	for p := range wanted {
		order = append(order, p)
	}
	slices.Sort(order)
	for some := range slices.Chunk(order, valuesAtOnce) {
		err := l.read(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
			found := 0
			err := query(ctx, c, statement{l.sql.values, []param{int8ArrayParam(some)}}, func(row [][]byte) error {
				cols := columns{row: row}
				p, value := cols.int8(), cols.bytes()
				for i, at := range wanted[p] {
					if i > 0 {
						value = slices.Clone(value) // each belongs to the caller
					}
					dst[at] = value
				}
				found++
				return cols.err("values")
			})
			if err == nil && found < len(some) {
				err = drivers.ErrScrubbed
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("values: %w", classify(err))
		}
	}
	if len(positions) == 0 {
		return l.usable(ctx)
	}
	return nil
}

// Size implements drivers.Sizer. Postgres counts live and dead rows as it goes, so what is in use is an estimate. What is free since dead rows were removed counts
// as in use.
func (l *Log) Size(ctx context.Context) (total, inUse int64, err error) {
	err = l.read(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		return query(ctx, c, statement{sql: l.sql.size}, func(row [][]byte) error {
			cols := columns{row: row}
			total = cols.int8()
			live, dead := cols.int8(), cols.int8()
			if inUse = total; live+dead > 0 {
				inUse = int64(float64(total) * float64(live) / float64(live+dead))
			}
			return cols.err("size")
		})
	})
	if err != nil {
		return 0, 0, fmt.Errorf("size: %w", classify(err))
	}
	return total, max(inUse, min(total, 8192)), nil
}

// Needs implements drivers.Estimator: what rows and their places in the index take, and a fifth for what pages do not fill and what is dead until autovacuum
// has been there. Of values of 300 and 1000 bytes it is a fifth and a seventh more than was measured; of such as 3000, of which two fill a page, an eighth less.
func (l *Log) Needs(entries, bytes int64) int64 { return (bytes + rowBytes*entries) * 6 / 5 }

// rowBytes is what a row takes besides its key and value: its head, the other columns, and its place in the index.
const rowBytes = 110

const sizeSQL = `SELECT pg_total_relation_size(o) + pg_total_relation_size('{schema}.head'::regclass) + pg_total_relation_size('{schema}.servers'::regclass),
	pg_stat_get_live_tuples(o), pg_stat_get_dead_tuples(o) FROM (SELECT '{schema}.log'::regclass::oid AS o) log`
