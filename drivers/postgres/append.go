package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keelson-io/keelson/drivers"
)

const (
	// Not REPEATABLE READ, which a role may have by default: each statement must see what was committed before it (rule P1).
	beginSQL = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

	// tuneSQL makes a transaction that writes durable, whatever the role's defaults are (rule P4), and bounded: nobody waits long for
	// the head row's lock, nobody keeps it long without doing anything or being there, and no timeout of statements ends the waiting for
	// a synchronous standby, which would leave the commit unconfirmed.
	tuneSQL = `SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
	set_config('tcp_keepalives_idle', '5', true), set_config('tcp_keepalives_interval', '2', true), set_config('tcp_keepalives_count', '3', true),
	set_config('lock_timeout', '5s', true), set_config('idle_in_transaction_session_timeout', '2s', true), set_config('statement_timeout', '0', true)`

	// insertSQL inserts entries after the position $1, which must be the log's last row and have the batch $2. What is
	// inserted in parts has parts that end in a row without a batch; there $2 is NULL. $3 is the number of the
	// entry that closes the batch, with $2's successors $4, $5 and $6 as its columns; 0 if none does.
	// All conditions are answered by the primary key before the first row is inserted, whatever statistics there are.
	insertSQL = `INSERT INTO {schema}.log (position, kind, batch, written, server, meta, value)
SELECT $1 + e.n, e.kind, CASE WHEN e.n = $3 THEN $4 END, CASE WHEN e.n = $3 THEN $5 END, CASE WHEN e.n = $3 THEN $6 END, e.meta, e.value
FROM ROWS FROM (unnest($7::smallint[]), unnest($8::bytea[]), unnest($9::bytea[])) WITH ORDINALITY AS e (kind, meta, value, n)
WHERE coalesce((SELECT max(position) FROM {schema}.log), 0) = $1
AND ($1 = 0 OR EXISTS (SELECT FROM {schema}.log WHERE position = $1 AND batch IS NOT DISTINCT FROM $2))
AND EXISTS (SELECT FROM {schema}.head WHERE id = 1 AND fence = $10)`
)

// A statement inserts no more than this; a single entry may exceed the bytes.
const (
	insertRows  = 8192
	insertBytes = 4 << 20
)

// validate refuses batches that are against the contract.
func validate(batch *drivers.Batch) error {
	if len(batch.Entries) == 0 {
		return fmt.Errorf("%w: the batch is empty", errRefused)
	}
	for i := range batch.Entries {
		if len(batch.Entries[i].Meta) == 0 {
			return fmt.Errorf("%w: entry %d of the batch has no meta", errRefused, i)
		}
	}
	return nil
}

// Append implements drivers.Log. Of a batch that fits into one statement all is sent at once, its COMMIT included, so it takes
// one round trip: the conditions are judged by the database. In a turn it is the same, but for the lock.
func (l *Log) Append(ctx context.Context, after drivers.End, batch *drivers.Batch) error {
	if err := validate(batch); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if err := l.begin(ctx); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	defer l.end()
	t := l.turn.Swap(nil)
	if t == nil {
		if err := l.takeAppending(ctx); err != nil {
			return fmt.Errorf("append: %w", err)
		}
	}
	defer func() { <-l.appending }()
	err := l.writable(ctx)
	if err == nil {
		a := appender{log: l, after: after, batch: batch, parts: parts(batch.Entries)}
		if err = a.run(ctx, t); err == nil {
			l.committed(drivers.End{Position: after.Position + int64(len(batch.Entries)), Batch: batch.ID})
		}
	} else if t != nil {
		t.rollback()
	}
	if err != nil {
		return fmt.Errorf("append after %d: %w", after.Position, classify(err))
	}
	return nil
}

// takeAppending takes the sole right to append in this process.
func (l *Log) takeAppending(ctx context.Context) error {
	select {
	case l.appending <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return drivers.ErrClosed
	}
}

// parts divides entries into what one statement inserts.
func parts(entries []drivers.Entry) (parts [][]drivers.Entry) {
	from, size := 0, 0
	for i := range entries {
		n := len(entries[i].Meta) + len(entries[i].Value)
		if i > from && (i-from == insertRows || size+n > insertBytes) {
			parts, from, size = append(parts, entries[from:i]), i, 0
		}
		size += n
	}
	return append(parts, entries[from:])
}

// appender appends one batch.
type appender struct {
	log   *Log
	after drivers.End
	batch *drivers.Batch
	parts [][]drivers.Entry
}

// run appends, in a turn if there is one, and tries again while it is certain that nothing was written.
func (a *appender) run(ctx context.Context, t *turn) error {
	l := a.log
	if a.after.Position < 0 || a.after.Position == 0 && a.after.Batch != (drivers.BatchID{}) ||
		a.after.Position > math.MaxInt64-int64(len(a.batch.Entries)) {
		if t != nil {
			t.rollback()
		}
		return drivers.ErrConflict // no log ends there
	}
	if t != nil {
		return a.inTurn(ctx, t)
	}
	for again := l.tries(); ; {
		// A scrub's outcome may have become unknown while this waited.
		if err := l.writable(ctx); err != nil {
			return err
		}
		c, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		fence := l.fence.Load()
		var found int64
		err = l.with(ctx, c, func(ctx context.Context, pc *pgconn.PgConn) (err error) {
			found, err = a.alone(ctx, pc, fence)
			return err
		})
		switch {
		case errors.Is(err, drivers.ErrConflict) && found != fence:
			l.fence.Store(found) // somebody has settled a doubt: that is no change of the log
			continue
		case err == nil, errors.Is(err, drivers.ErrConflict), errors.Is(err, drivers.ErrUncertain), !again.again(ctx, err):
			return err
		}
	}
}

// alone appends without a turn. It gives the fence as found.
func (a *appender) alone(ctx context.Context, c *pgconn.PgConn, fence int64) (found int64, err error) {
	takeWarning(c)
	first := []statement{{sql: beginSQL}, {sql: a.log.sql.tune}, {sql: a.log.sql.lock}, a.insert(0, fence)}
	if len(a.parts) == 1 {
		first = append(first, statement{sql: commitSQL})
	}
	touched, err := pipeline(ctx, c, first, func(i int, row [][]byte) error {
		if i == 2 {
			cols := columns{row: row}
			found = cols.int8()
			return cols.err("head")
		}
		return nil
	})
	if err != nil {
		return found, a.failed(err, len(a.parts) == 1)
	}
	return found, a.rest(ctx, c, touched[3], fence)
}

// inTurn appends with the lock held already.
func (a *appender) inTurn(ctx context.Context, t *turn) error {
	if t.bounds.End != a.after {
		t.rollback()
		return drivers.ErrConflict
	}
	l := a.log
	return l.with(ctx, t.conn, func(ctx context.Context, c *pgconn.PgConn) error {
		defer t.over()
		takeWarning(c)
		first := []statement{a.insert(0, t.fence)}
		if len(a.parts) == 1 {
			first = append(first, statement{sql: commitSQL})
		}
		touched, err := pipeline(ctx, c, first, nil)
		if err != nil {
			return a.failed(err, len(a.parts) == 1)
		}
		return a.rest(ctx, c, touched[0], t.fence)
	})
}

// insert makes the statement for one part.
func (a *appender) insert(i int, fence int64) statement {
	base := a.after.Position
	for _, p := range a.parts[:i] {
		base += int64(len(p))
	}
	before, closing := uuidParam(a.after.Batch), int64(0)
	if i > 0 {
		before = nullParam(oidUUID)
	}
	if i == len(a.parts)-1 {
		closing = int64(len(a.parts[i]))
	}
	e := entryParams(a.parts[i])
	return statement{a.log.sql.insert, []param{int8Param(base), before, int8Param(closing), uuidParam(a.batch.ID), timeParam(a.batch.Time),
		int8Param(int64(a.batch.Server)), e[0], e[1], e[2], int8Param(fence)}}
}

// rest judges the first part by the number of rows it inserted, and inserts and commits the others.
func (a *appender) rest(ctx context.Context, c *pgconn.PgConn, inserted, fence int64) error {
	if inserted == 0 {
		return drivers.ErrConflict
	}
	for i := 1; i < len(a.parts); i++ {
		if before := a.parts[i-1]; inserted != int64(len(before)) {
			return a.log.doubt(fmt.Errorf("%d rows of %d were inserted", inserted, len(before)))
		}
		next := []statement{a.insert(i, fence)}
		if i == len(a.parts)-1 {
			next = append(next, statement{sql: commitSQL})
		}
		// Each part has as long as the whole of a small batch.
		pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.log.opts.Answer)
		touched, err := pipeline(pctx, c, next, nil)
		cancel()
		if err != nil {
			return a.failed(err, len(next) == 2)
		}
		inserted = touched[0]
	}
	if last := a.parts[len(a.parts)-1]; inserted != int64(len(last)) {
		// P1 and P2 make this impossible: a database that does this is no Postgres.
		return a.log.doubt(fmt.Errorf("%d rows of %d were inserted", inserted, len(last)))
	}
	if w := takeWarning(c); w != "" {
		return a.log.doubt(fmt.Errorf("the database warns: %s", w))
	}
	return nil
}

// failed judges an error; committing says that a COMMIT was sent with what failed.
func (a *appender) failed(err error, committing bool) error {
	switch {
	case code(err) == codeUniqueViolation:
		return fmt.Errorf("%w: %w", drivers.ErrConflict, err)
	case !committing || aborted(err):
		return err
	}
	return a.log.doubt(err)
}

// committed takes note of an append of this log's own.
func (l *Log) committed(end drivers.End) {
	l.seen.committed(end)
	if l.company.Load() {
		select {
		case l.appended <- struct{}{}:
		default:
		}
	}
}

// turnTime is how long a turn may last; the database ends it a little later (see tuneSQL).
const turnTime = 1500 * time.Millisecond

// turn is a transaction that holds the head row's lock.
type turn struct {
	log    *Log
	conn   *pgxpool.Conn
	bounds drivers.Bounds
	fence  int64
	timer  *time.Timer // ends a turn that nobody uses
}

// Hold implements drivers.Shared: one round trip for the lock, the bounds and the entries that are new.
func (l *Log) Hold(ctx context.Context) (drivers.Turn, error) {
	if err := l.begin(ctx); err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	defer l.end()
	if err := l.takeAppending(ctx); err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	t, err := l.hold(ctx)
	if err != nil {
		<-l.appending
		return nil, fmt.Errorf("hold: %w", classify(err))
	}
	return t, nil
}

func (l *Log) hold(ctx context.Context) (*turn, error) {
	for again := l.tries(); ; {
		if err := l.writable(ctx); err != nil {
			return nil, err
		}
		c, err := l.acquire(ctx)
		if err != nil {
			return nil, err
		}
		t := &turn{log: l, conn: c}
		if err = t.begin(ctx); err == nil {
			t.timer = time.AfterFunc(turnTime, t.Release)
			l.turn.Store(t)
			return t, nil
		}
		if !again.again(ctx, err) {
			return nil, l.ended(ctx, err)
		}
	}
}

// begin takes the lock, reads the tail, and keeps the connection if that went well.
func (t *turn) begin(ctx context.Context) error {
	l, pc := t.log, t.conn.Conn().PgConn()
	l.enter(pc)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.opts.Answer)
	defer cancel()
	q := l.question(true)
	err := q.run(ctx, pc, statement{sql: beginSQL}, statement{sql: l.sql.tune}, statement{sql: l.sql.lock})
	l.answered(pc, err)
	if err != nil {
		if !pc.IsClosed() && pc.TxStatus() != 'I' {
			_ = run(ctx, pc, "ROLLBACK")
		}
		t.conn.Release()
		return err
	}
	t.bounds, t.fence = q.bounds, q.fence
	q.tell()
	return nil
}

// Bounds implements drivers.Turn.
func (t *turn) Bounds() drivers.Bounds { return t.bounds }

// Release implements drivers.Turn.
func (t *turn) Release() {
	if !t.log.turn.CompareAndSwap(t, nil) {
		return // an Append has it, or had it
	}
	t.rollback()
	<-t.log.appending
}

// rollback ends the transaction of a turn that was taken from the log.
func (t *turn) rollback() {
	t.over()
	pc := t.conn.Conn().PgConn()
	ctx, cancel := context.WithTimeout(context.Background(), t.log.opts.Answer)
	defer cancel()
	if !pc.IsClosed() {
		_ = run(ctx, pc, "ROLLBACK") // a connection on which that fails is closed by Release
	}
	t.conn.Release()
}

// over stops the clock of a turn.
func (t *turn) over() { t.timer.Stop() }
