package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

const (
	// headSQL asks for the mark, the fence and the last row, by the primary keys.
	headSQL = `SELECT h.scrubbed, h.fence, l.position, l.batch FROM {schema}.head h
LEFT JOIN LATERAL (SELECT position, batch FROM {schema}.log ORDER BY position DESC LIMIT 1) l ON true WHERE h.id = 1`

	// sliceSQL reads up to $2 rows after $1, and no more than the first of those with $3 bytes together or more. It goes along
	// the primary key, and no upper bound tempts the planner away from it; how long a value is, is known without reading it.
	sliceSQL = `SELECT position, kind, batch, written, server, meta, value FROM (
	SELECT *, sum(octet_length(meta) + octet_length(value)) OVER (ORDER BY position) - octet_length(meta) - octet_length(value) AS before
	FROM (SELECT * FROM {schema}.log WHERE position > $1 ORDER BY position LIMIT $2) rows
) slice WHERE before < $3 ORDER BY position`
)

// Slices of the log that are read with values end after this many rows or bytes.
const (
	sliceRows  = 2000
	sliceBytes = 2 << 20
)

// question asks the database where the log ends, and for the entries after what is known of it.
type question struct {
	log     *Log
	entries bool
	known   drivers.End // see seen.tailEnd
	news    uint64      // see seen.news

	bounds drivers.Bounds
	fence  int64
	// follows is set if the log goes on after known, and not after something else at its position.
	follows bool
	// gone is set if there is no row at known's position.
	gone bool
	rows collector
}

// question makes a question about the log as it is known now.
func (l *Log) question(entries bool) *question {
	q := &question{log: l, entries: entries}
	q.known, q.news = l.seen.snapshot()
	return q
}

// run asks, in one round trip, after statements that come before.
func (q *question) run(ctx context.Context, c *pgconn.PgConn, before ...statement) error {
	l := q.log
	statements := before
	check, slice := -1, -1
	if q.entries {
		// The mark is read after the rows: rule P5.
		check, slice = len(statements), len(statements)+1
		statements = append(statements, l.checkStatement(q.known), l.sliceStatement(q.known.Position))
	}
	head := len(statements)
	statements = append(statements, statement{sql: l.sql.head})
	q.follows, q.rows = q.known.Position == 0, collector{}
	_, err := pipeline(ctx, c, statements, func(i int, row [][]byte) error {
		cols := columns{row: row}
		switch i {
		case check:
			id, closes := cols.uuid()
			q.follows = closes && id == q.known.Batch
			return cols.err("log")
		case slice:
			return q.rows.add(row)
		case head:
			q.bounds.Scrubbed, q.fence = cols.int8(), cols.int8()
			q.bounds.End.Position = cols.int8()
			q.bounds.End.Batch, _ = cols.uuid()
			if cols.bad || q.bounds.End.Position > 0 && q.bounds.End.Batch == (drivers.BatchID{}) {
				return fmt.Errorf("%w: the row at position %d, the log's last, closes no batch", drivers.ErrCorrupt, q.bounds.End.Position)
			}
		}
		return nil
	})
	return err
}

func (l *Log) checkStatement(at drivers.End) statement {
	return statement{l.sql.check, []param{int8Param(at.Position)}}
}

func (l *Log) sliceStatement(after int64) statement {
	return statement{l.sql.slice, []param{int8Param(after), int8Param(sliceRows), int8Param(sliceBytes)}}
}

// tell makes the answer known to whoever waits for news.
func (q *question) tell() {
	l := q.log
	l.answeredAt.Store(int64(time.Since(l.opened)))
	l.fence.Store(q.fence)
	var batches []*drivers.Batch
	// With holes in between nothing can be said of what is whole.
	if q.entries && q.follows && q.bounds.Scrubbed <= q.known.Position {
		batches = q.rows.batches
	}
	l.seen.answer(q, batches)
}

// ReadIndex implements drivers.Log. All who ask while a question is on its way share the next one.
func (l *Log) ReadIndex(ctx context.Context) (drivers.Bounds, error) {
	if err := l.begin(ctx); err != nil {
		return drivers.Bounds{}, fmt.Errorf("read index: %w", err)
	}
	defer l.end()
	f := l.flights.join(l)
	select {
	case <-f.landed:
	case <-ctx.Done():
		return drivers.Bounds{}, fmt.Errorf("read index: %w", ctx.Err())
	case <-l.closed:
		return drivers.Bounds{}, fmt.Errorf("read index: %w", drivers.ErrClosed)
	}
	if f.err != nil {
		return drivers.Bounds{}, fmt.Errorf("read index: %w", classify(f.err))
	}
	return f.bounds, nil
}

// flights are the questions of ReadIndex: one is on its way, one takes those who come meanwhile.
type flights struct {
	mu     sync.Mutex
	next   *flight
	flying bool
}

// flight is one question for many.
type flight struct {
	landed chan struct{}
	bounds drivers.Bounds
	err    error
}

// join gives the flight that starts next.
func (f *flights) join(l *Log) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = &flight{landed: make(chan struct{})}
	}
	joined := f.next
	if !f.flying {
		f.flying = true
		l.under.Add(1) // the caller is under way, so Close is still to come or waits for it
		go f.fly(l)
	}
	return joined
}

// fly asks as long as anybody waits.
func (f *flights) fly(l *Log) {
	defer l.under.Done()
	for {
		f.mu.Lock()
		now := f.next
		f.next = nil
		f.flying = now != nil
		f.mu.Unlock()
		if now == nil {
			return
		}
		now.bounds, now.err = l.ask(context.Background())
		close(now.landed)
	}
}

// ask settles what is in doubt, and asks where the log ends. When it finds that the log has grown elsewhere, it brings the new entries along.
func (l *Log) ask(ctx context.Context) (bounds drivers.Bounds, err error) {
	err = l.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		if l.doubts.Load() != 0 {
			if err := l.settle(ctx, c); err != nil {
				return err
			}
		}
		q := l.question(l.busy.Load())
		if err := q.run(ctx, c); err != nil {
			return err
		}
		q.tell()
		bounds = q.bounds
		news := l.seen.lacks(q.bounds.End)
		if l.busy.Store(news || len(q.rows.batches) > 0); !news || q.entries || len(l.appending) > 0 {
			return nil
		}
		more := l.question(true)
		if err := more.run(ctx, c); err != nil {
			return err
		}
		more.tell()
		return nil
	})
	return bounds, err
}

// settle makes sure that no write whose outcome is unknown takes effect from now on (rule P3). It is durable: should a
// synchronous standby not have confirmed what was in doubt, it has when it has confirmed this.
func (l *Log) settle(ctx context.Context, c *pgconn.PgConn) error {
	doubt := l.doubts.Load()
	takeWarning(c)
	_, err := pipeline(ctx, c, []statement{{sql: beginSQL}, {sql: l.sql.tune}, {sql: l.sql.fence}, {sql: commitSQL}}, nil)
	if err != nil {
		return fmt.Errorf("find out what became of a write: %w", err)
	}
	if w := takeWarning(c); w != "" {
		return fmt.Errorf("find out what became of a write: the database warns: %s", w)
	}
	// A doubt that has come meanwhile is not settled by this.
	l.doubts.CompareAndSwap(doubt, 0)
	return nil
}
