package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// checkSQL counts what is there above the mark and what breaks a rule. It reads the whole table, without values that lie beside it.
const checkSQL = `SELECT count(*) FILTER (WHERE l.position > h.scrubbed), coalesce(max(l.position), 0), min(h.scrubbed),
	count(*) FILTER (WHERE l.position < 1),
	count(*) FILTER (WHERE octet_length(l.meta) = 0),
	count(*) FILTER (WHERE (l.batch IS NULL) <> (l.written IS NULL) OR (l.batch IS NULL) <> (l.server IS NULL)),
	count(*) FILTER (WHERE l.kind NOT BETWEEN 0 AND 255),
	count(l.batch) - count(DISTINCT l.batch),
	(SELECT count(*) FROM {schema}.head)
FROM {schema}.head h LEFT JOIN {schema}.log l ON true`

// Check implements drivers.Checker: the rules of the contract as far as the database can judge them. The database's own
// files are for its own tools (pg_amcheck, checksums).
func (l *Log) Check(ctx context.Context, report func(finding string)) error {
	err := l.read(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		// A long log takes longer than an answer may.
		return query(context.WithoutCancel(ctx), c, statement{sql: l.sql.examine}, func(row [][]byte) error {
			cols := columns{row: row}
			above, last, mark := cols.int8(), cols.int8(), cols.int8()
			if want := max(last-mark, 0); above != want {
				report(fmt.Sprintf("%d rows of the %d above the scrub mark, %d, are missing", want-above, want, mark))
			}
			if mark > 0 && mark >= last {
				report(fmt.Sprintf("the log is scrubbed up to %d and ends at %d", mark, last))
			}
			for _, what := range [...]string{"rows below position 1", "rows without a meta", "rows with part of a batch's columns", "rows of an impossible kind", "batch ids that come twice"} {
				if n := cols.int8(); n != 0 {
					report(fmt.Sprintf("there are %d %s", n, what))
				}
			}
			if n := cols.int8(); n != 1 {
				report(fmt.Sprintf("the table head has %d rows", n))
			}
			return cols.err("check")
		})
	})
	if err != nil {
		return fmt.Errorf("check: %w", classify(err))
	}
	bounds, err := l.ReadIndex(ctx)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if bounds.End.Position > 0 && bounds.End.Batch == (drivers.BatchID{}) {
		report(fmt.Sprintf("the row at position %d, the log's last, closes no batch", bounds.End.Position))
	}
	return nil
}
