package postgres

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// frozen is a transaction that sees the log as it is at one moment, however long it is read.
type frozen struct {
	log  *Log
	mu   sync.Mutex
	conn *pgxpool.Conn
}

// snapshotSQL begins it. Its first statement decides which moment that is. Whoever reads may take his time between two statements.
const snapshotSQL = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT set_config('idle_in_transaction_session_timeout', '0', true), " + transactionTimeoutSQL

// transactionTimeoutSQL lets a transaction last as long as it takes, whatever the role's default is. Servers before version 17 have no such timeout.
const transactionTimeoutSQL = "CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL THEN set_config('transaction_timeout', '0', true) END"

// snapshot begins a transaction that must be closed.
func (l *Log) snapshot(ctx context.Context) (*frozen, error) {
	if l.frozen != nil {
		return &frozen{log: l, conn: l.frozen.conn}, nil
	}
	c, err := l.acquire(ctx)
	if err != nil {
		return nil, err
	}
	f := &frozen{log: l, conn: c}
	err = f.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error { return run(ctx, c, snapshotSQL) })
	if err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// freeze makes everything be read from one transaction.
func (l *Log) freeze(ctx context.Context) (err error) {
	l.frozen, err = l.snapshot(ctx)
	return err
}

// exchange runs fn in the transaction, once: it cannot be begun again.
func (f *frozen) exchange(ctx context.Context, fn func(context.Context, *pgconn.PgConn) error) error {
	if err := f.log.usable(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.log.opts.Answer)
	defer cancel()
	return fn(ctx, f.conn.Conn().PgConn())
}

// close ends the transaction, unless everything is read from it.
func (f *frozen) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.log; l.frozen != nil && l.frozen != f {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.log.opts.Answer)
	defer cancel()
	if pc := f.conn.Conn().PgConn(); !pc.IsClosed() {
		_ = run(ctx, pc, "ROLLBACK") // a connection on which that fails is closed by Release
	}
	f.conn.Release()
}
