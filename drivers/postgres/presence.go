package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

const (
	// hereSQL writes down that a server is there. Who comes again under an id with another instance is there since now.
	hereSQL = `INSERT INTO {schema}.servers AS s (id, instance, info, position, since, seen)
VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, info = excluded.info, position = excluded.position,
	since = CASE WHEN s.instance = excluded.instance THEN s.since ELSE excluded.since END, seen = excluded.seen`

	// goneSQL removes a server that leaves, and those that have not been seen for long. Both by a scan of a small table.
	goneSQL = `DELETE FROM {schema}.servers WHERE id = $1 AND instance = $2 OR seen < clock_timestamp() - interval '1 day'`

	aliveSQL = `SELECT id, instance, info, position FROM {schema}.servers
WHERE seen > clock_timestamp() - $1 * interval '1 millisecond' ORDER BY since, id`

	// lazySQL lets a transaction be lost when power fails.
	lazySQL = `SELECT set_config('synchronous_commit', 'off', true)`
)

// Announce implements drivers.Shared, in one round trip.
func (l *Log) Announce(ctx context.Context, self drivers.Server) ([]drivers.Server, error) {
	if err := l.begin(ctx); err != nil {
		return nil, fmt.Errorf("announce: %w", err)
	}
	defer l.end()
	if l.opts.ReadOnly {
		return nil, fmt.Errorf("announce: %w: the log was opened for inspection", drivers.ErrReadOnly)
	}
	change := statement{l.sql.here, []param{int8Param(int64(self.ID)), uuidParam(self.Instance), byteaParam(self.Info), int8Param(self.Position)}}
	if self.Leaving {
		change = statement{l.sql.gone, []param{int8Param(int64(self.ID)), uuidParam(self.Instance)}}
	}
	var alive []drivers.Server
	err := l.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		alive = nil
		_, err := pipeline(ctx, c, []statement{{sql: lazySQL}, change, {l.sql.alive, []param{int8Param(drivers.PresenceTTL.Milliseconds())}}}, func(i int, row [][]byte) error {
			if i != 2 {
				return nil
			}
			cols := columns{row: row}
			s := drivers.Server{ID: uint64(cols.int8())}
			s.Instance, _ = cols.uuid()
			s.Info, s.Position = cols.bytes(), cols.int8()
			alive = append(alive, s)
			return cols.err("servers")
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("announce: %w", classify(err))
	}
	l.company.Store(len(alive) > 1 || len(alive) == 1 && alive[0].ID != self.ID)
	return alive, nil
}
