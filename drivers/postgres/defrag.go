package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// usedSQL measures what the log takes and what its rows need: their bytes, a row's head, and a tenth for what pages
// do not fill. It reads the table once, without values that lie beside it.
const usedSQL = `SELECT pg_table_size('{schema}.log'::regclass), (1.1 * (coalesce(sum(octet_length(meta) + octet_length(value)), 0) + 72 * count(*)))::bigint FROM {schema}.log`

// worthShrinking is the share of the table, in percent, that must be free, and the bytes, before the table is written anew.
const (
	worthShrinking = 25
	worthBytes     = 16 << 20
)

// Defragment implements drivers.Defragmenter. VACUUM disturbs nobody, frees what dead rows take, and gives back what lies at the
// table's end. Where more than a quarter is free after it, the table is written anew (VACUUM FULL), and reads and appends of this log
// wait meanwhile: about a second for 100 MB of what is live.
func (l *Log) Defragment(ctx context.Context) error {
	// All of it takes longer than an answer may, and ends with ctx.
	err := l.read(ctx, func(_ context.Context, c *pgconn.PgConn) error {
		if err := run(ctx, c, l.sql.vacuum); err != nil {
			return err
		}
		if !l.sessions.Load() {
			return nil // writing the table anew needs a bound that a shared session would keep
		}
		var size, used int64
		err := query(ctx, c, statement{sql: l.sql.used}, func(row [][]byte) error {
			cols := columns{row: row}
			size, used = cols.int8(), cols.int8()
			return cols.err("size")
		})
		free := size - used
		if err != nil || free < worthBytes || free < size*worthShrinking/100 {
			return err
		}
		l.logger.Info("writing the log's table anew: reads and writes wait meanwhile", "size", size, "free", free)
		return l.shrink(ctx, c)
	})
	if err != nil {
		return fmt.Errorf("defragment: %w", classify(err))
	}
	return nil
}

// shrinkWait is how long writing the table anew may wait for its lock. All reads and appends wait behind it meanwhile.
const shrinkWait = "2s"

// shrink writes the table anew, unless somebody else reads it for long, as a dump does. The connection is not used again.
func (l *Log) shrink(ctx context.Context, c *pgconn.PgConn) error {
	defer c.Close(context.WithoutCancel(ctx))
	err := run(ctx, c, "SET lock_timeout = '"+shrinkWait+"'")
	if err == nil {
		err = run(ctx, c, l.sql.shrink)
	}
	if code(err) == codeLockNotAvailable {
		return fmt.Errorf("the log's table is not written anew, something else in the database has been reading it for more than %s: try again later: %w", shrinkWait, errRefused)
	}
	return err
}
