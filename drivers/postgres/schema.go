package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// migrations lead from each schema to the next, forward only: migrations[n] takes a schema n to n+1. A released one is
// never changed. {schema} stands for the quoted name of the Postgres schema that holds one log.
//
// log: one row for each entry; the primary key on position is its only index. batch, written and
// server stand on the last row of each batch alone (a null costs a bit). Values of more than 2 kB lie beside the table
// (TOAST) and are not compressed, which would cost the database more time than the rest of an append;
// reading rows without values does not touch them. Metas of up to 64 kB must fit too. Rows are inserted
// once, never updated, and deleted when they are superseded, so autovacuum is told to come early and not to rest.
//
// head: one row. Appends lock it and do not change it, so it has no dead versions. scrubbed is the scrub mark, fence see rule P3.
//
// servers: who has the log open. It is not worth being logged, or replicated.
var migrations = [...]string{
	`CREATE TABLE {schema}.log (
	position bigint PRIMARY KEY,
	kind smallint NOT NULL,
	batch uuid,
	written timestamptz,
	server bigint,
	meta bytea NOT NULL,
	value bytea NOT NULL
) WITH (fillfactor = 100, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
	autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_insert_scale_factor = 0.5,
	toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_threshold = 5000, toast.autovacuum_vacuum_cost_delay = 1);
ALTER TABLE {schema}.log ALTER COLUMN value SET STORAGE EXTERNAL, ALTER COLUMN meta SET STORAGE MAIN;
CREATE TABLE {schema}.head (
	id integer PRIMARY KEY CHECK (id = 1),
	version integer NOT NULL,
	scrubbed bigint NOT NULL,
	fence bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
CREATE UNLOGGED TABLE {schema}.servers (
	id bigint PRIMARY KEY,
	instance uuid NOT NULL,
	info bytea NOT NULL,
	position bigint NOT NULL,
	since timestamptz NOT NULL,
	seen timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
COMMENT ON TABLE {schema}.log IS 'Keelson: the log of an etcd v3 server';
INSERT INTO {schema}.head (id, version, scrubbed, fence) VALUES (1, 1, 0, 0)`,
}

// schemaVersion is what this code reads and writes.
const schemaVersion = len(migrations)

// The codes of Postgres' errors that mean something here; see its manual, appendix A.
const (
	codeUndefinedTable        = "42P01"
	codeUndefinedColumn       = "42703"
	codeInvalidSchema         = "3F000"
	codeInsufficientPrivilege = "42501"
)

// prepare makes sure that the schema is there and of today's version, that the server can be written, and that it keeps what it
// acknowledges.
func (l *Log) prepare(ctx context.Context) error {
	return l.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		if err := l.examineServer(ctx, c); err != nil {
			return err
		}
		version, err := l.version(ctx, c)
		switch {
		case err != nil:
			return err
		case version > schemaVersion:
			return fmt.Errorf("%w: %d, and this Keelson knows %d: run the newer Keelson that wrote it, or one newer still", drivers.ErrNewer, version, schemaVersion)
		case version < schemaVersion && l.opts.ReadOnly:
			return fmt.Errorf("the log has schema %d and this Keelson reads %d: start the server once, which migrates it", version, schemaVersion)
		case version < schemaVersion:
			if err := l.migrate(ctx, c); err != nil {
				return fmt.Errorf("migrate schema %s to version %d: %w", l.opts.Name, schemaVersion, err)
			}
		}
		return l.examineRights(ctx, c)
	})
}

// oldest is the oldest Postgres that has all that is used here.
const oldest = 130000

func (l *Log) examineServer(ctx context.Context, c *pgconn.PgConn) error {
	row, err := one(ctx, c, "SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery()::text, current_database()")
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(row[0]); err == nil && n < oldest {
		return fmt.Errorf("the database server is PostgreSQL %s: 13 or later is needed", row[1])
	}
	if row[4] == "true" && !l.opts.ReadOnly {
		return fmt.Errorf("%w: the database server is a standby: name the primary, or several hosts with target_session_attrs=read-write", drivers.ErrReadOnly)
	}
	if row[2] != "on" || row[3] != "on" {
		l.logger.Warn("the database server does not keep what it acknowledges when power fails: set fsync and full_page_writes to on", "fsync", row[2], "full_page_writes", row[3])
	}
	l.logger.Info("opened the database", "server_version", row[1], "database", row[5], "schema", l.opts.Name)
	return nil
}

// version gives the schema's version, 0 if there is none yet.
func (l *Log) version(ctx context.Context, c *pgconn.PgConn) (int, error) {
	row, err := one(ctx, c, l.q("SELECT version::text FROM {schema}.head"))
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return strconv.Atoi(row[0])
	case errors.As(err, &pgErr) && (pgErr.Code == codeUndefinedTable || pgErr.Code == codeInvalidSchema):
		if l.opts.ReadOnly {
			return 0, fmt.Errorf("%w: there is none in schema %s", drivers.ErrForeign, l.opts.Name)
		}
		return 0, nil
	case errors.As(err, &pgErr) && pgErr.Code == codeUndefinedColumn, errors.Is(err, errNoRow):
		return 0, fmt.Errorf("%w: schema %s has a table of somebody else's called head: choose another name", drivers.ErrForeign, l.opts.Name)
	}
	return 0, err
}

// migrationLock is the advisory lock under which schemas are made, so that two servers that start at once do not disturb each other.
const migrationLock = 0x4b65656c

func (l *Log) migrate(ctx context.Context, c *pgconn.PgConn) error {
	err := run(ctx, c, fmt.Sprintf("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; SELECT pg_advisory_xact_lock(%d)", migrationLock))
	if err != nil {
		return err
	}
	if err = l.migrateLocked(ctx, c); err != nil {
		return errors.Join(err, run(ctx, c, "ROLLBACK"))
	}
	return run(ctx, c, "COMMIT")
}

func (l *Log) migrateLocked(ctx context.Context, c *pgconn.PgConn) error {
	// Both need rights that are not needed where the thing is there.
	row, err := one(ctx, c, "SELECT count(*) FILTER (WHERE relname IS NULL)::text, count(relname)::text FROM pg_namespace n LEFT JOIN pg_class r ON r.relnamespace = n.oid AND r.relname = 'head' WHERE n.nspname = "+quoteLiteral(l.opts.Name))
	if err != nil {
		return err
	}
	version := 0
	switch {
	case row[1] != "0":
		if version, err = l.version(ctx, c); err != nil {
			return err
		}
	case row[0] == "0":
		if err := run(ctx, c, l.q("CREATE SCHEMA {schema}")); err != nil {
			return err
		}
	}
	for ; version < schemaVersion; version++ {
		if err := run(ctx, c, l.q(migrations[version])); err != nil {
			return err
		}
		l.logger.Info("migrated the log's schema", "schema", l.opts.Name, "version", version+1)
	}
	return run(ctx, c, l.q(fmt.Sprintf("UPDATE {schema}.head SET version = %d WHERE version < %[1]d", schemaVersion)))
}

// examineRights refuses a role that could read and then not write.
func (l *Log) examineRights(ctx context.Context, c *pgconn.PgConn) error {
	if l.opts.ReadOnly {
		return nil
	}
	row, err := one(ctx, c, l.q(`SELECT (has_table_privilege(r.log, 'SELECT') AND has_table_privilege(r.log, 'INSERT') AND has_table_privilege(r.log, 'DELETE')
	AND has_table_privilege(r.head, 'SELECT') AND has_table_privilege(r.head, 'UPDATE')
	AND has_table_privilege(r.servers, 'SELECT') AND has_table_privilege(r.servers, 'INSERT') AND has_table_privilege(r.servers, 'UPDATE') AND has_table_privilege(r.servers, 'DELETE'))::text,
	current_user FROM (SELECT '{schema}.log'::regclass::oid AS log, '{schema}.head'::regclass::oid AS head, '{schema}.servers'::regclass::oid AS servers) r`))
	if err != nil {
		return err
	}
	if row[0] != "true" {
		return fmt.Errorf("%w: the role lacks rights: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %s TO %s", drivers.ErrReadOnly, l.quoted, pgx.Identifier{row[1]}.Sanitize())
	}
	return nil
}

// q puts the schema's name into a statement.
func (l *Log) q(sql string) string { return strings.ReplaceAll(sql, "{schema}", l.quoted) }

// quoteLiteral quotes a text for a statement. Names have no backslashes (see Options.validate).
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
