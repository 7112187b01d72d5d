package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

const (
	// timelineSQL is the timeline on which a primary writes. Each promotion begins another one.
	timelineSQL = `substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)`

	// stateSQL says whether a server can be written, and its timeline, "" for a standby.
	stateSQL = `SELECT current_setting('transaction_read_only'), CASE WHEN pg_is_in_recovery() THEN '' ELSE ` + timelineSQL + ` END`
)

// epochs number the timelines that were met, one after the other.
type epochs struct {
	mu  sync.Mutex
	now string // the timeline met last, "" as long as none is known
	n   uint64
}

// note takes note of the timeline of a server that was asked.
func (e *epochs) note(timeline string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if timeline != "" && timeline != e.now {
		e.now = timeline
		e.n++
	}
}

// timeline gives that of an epoch, "" if timelines are not told here.
func (e *epochs) timeline(epoch uint64) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.n != epoch {
		return "", fmt.Errorf("%w: the database's timeline is %s by now", drivers.ErrEpoch, e.now)
	}
	return e.now, nil
}

// current gives the epoch, and whether timelines are told here.
func (e *epochs) current() (epoch uint64, told bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.n, e.now != ""
}

// Epoch implements drivers.Shared.
func (l *Log) Epoch() uint64 {
	n, _ := l.epochs.current()
	return n
}

// validate is called with each new connection: a name may lead elsewhere after a failover. It refuses a server that cannot be
// written, and takes note of the timeline of one that can.
func (l *Log) validate(ctx context.Context, c *pgconn.PgConn) error {
	row, err := one(ctx, c, stateSQL)
	switch {
	case untold(err):
		return pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, c)
	case err != nil:
		return err
	case row[0] == "on":
		return pgconn.ErrReadOnlyConnection
	}
	l.epochs.note(row[1])
	return nil
}

// untold tells whether a database refuses to tell its timeline: one that only speaks Postgres' protocol has none.
func untold(err error) bool {
	switch code(err) {
	case codeUndefinedFunction, codeNotSupported, codeInsufficientPrivilege:
		return true
	}
	return false
}

// locate takes note of the timeline of the server that a snapshot is taken from: behind a pooler it may be another one than when the
// connection was made.
func (l *Log) locate(ctx context.Context, f *frozen) error {
	if _, told := l.epochs.current(); !told {
		return nil
	}
	return f.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		row, err := one(ctx, c, stateSQL)
		if err == nil {
			l.epochs.note(row[1])
		}
		return err
	})
}
