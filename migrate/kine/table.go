package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	_ "github.com/go-sql-driver/mysql" // the driver mysql
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	_ "github.com/mattn/go-sqlite3"    // the driver sqlite3
)

// Dialect is a database that kine can use.
type Dialect int

const (
	SQLite Dialect = iota + 1
	Postgres
	MySQL // and MariaDB
)

// Change is a row of the table, without old_value.
type Change struct {
	ID               int64
	Name             string
	Created, Deleted bool
	CreateRevision   int64 // 0 in most rows that have created set
	PrevRevision     int64 // the id of the change of the key before, or 0
	Lease            int64 // seconds
	Value            []byte
}

// CompactName is the name of the row whose prev_revision is the compact revision.
const CompactName = "compact_rev_key"

// GapName is the name of the row that fills an id which is no change.
func GapName(id int64) string { return fmt.Sprintf("gap-%d", id) }

// Key tells whether the row is the change of a key.
func (c *Change) Key() bool {
	return c.Name != CompactName && !(c.Deleted && !c.Created && c.PrevRevision == 0 && c.Name == GapName(c.ID))
}

// State is what a table says of the whole.
type State struct {
	// Compact is the compact revision, or 0.
	Compact int64
	// Current is the current revision: the greatest id.
	Current int64
	// Rows counts the rows that a reading gives, or a little more.
	Rows int64
}

// errTable says that a database has no table of kine's.
var errTable = errors.New("there is no table kine, or it cannot be read")

// ErrExists says that there is a table already.
var ErrExists = errors.New("there is a table kine already")

// DB is a database with kine's table, or one in which it is to be made.
type DB struct {
	db      *sql.DB
	dialect Dialect
}

// Open opens a database to read it. source is a path for SQLite, a URL for Postgres and a DSN for MySQL, the latter two as kine takes them behind its scheme. Nothing is written.
func Open(ctx context.Context, dialect Dialect, source string) (*DB, error) {
	if dialect == SQLite {
		source = sqliteURI(source, "mode=ro&_busy_timeout=30000&_query_only=true")
	}
	return open(ctx, dialect, source)
}

// sqliteURI escapes what SQLite would take for parameters.
func sqliteURI(path, params string) string {
	return "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path) + "?" + params
}

func open(ctx context.Context, dialect Dialect, source string) (*DB, error) {
	driver := "sqlite3"
	var err error
	switch dialect {
	case Postgres:
		driver = "pgx"
		source, err = postgresURL(source)
	case MySQL:
		driver = "mysql"
		source, err = mysqlDSN(source)
	}
	if err != nil {
		return nil, err
	}
	db, err := sql.Open(driver, source)
	if err == nil {
		if err = db.PingContext(ctx); err != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("kine: open the database: %w", err)
	}
	return &DB{db, dialect}, nil
}

// Close closes the database.
func (d *DB) Close() error { return d.db.Close() }

const (
	selectState = `SELECT COALESCE(MAX(id), 0), COUNT(*), COALESCE((SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key'), 0) FROM kine`

	// What a compaction keeps, by the primary key and by kine_name_id_index: kine frees in small steps, and its older versions left rows behind.
	selectKept = `SELECT id, name, created, deleted, create_revision, prev_revision, lease, value FROM kine
		WHERE id > ? OR deleted = 0 AND id IN (SELECT MAX(id) FROM kine WHERE id <= ? GROUP BY name) ORDER BY id`
	selectKeptPostgres = `SELECT id, name, created, deleted, create_revision, prev_revision, lease, value FROM kine
		WHERE id > $1 OR deleted = 0 AND id IN (SELECT MAX(id) FROM kine WHERE id <= $2 GROUP BY name) ORDER BY id`

	selectAll = `SELECT id, name, created, deleted, create_revision, prev_revision, lease, value FROM kine ORDER BY id`
)

// Read gives what the compaction keeps, in order and as of one moment: the state to begin, then the rows to fn, each valid during the call.
func (d *DB) Read(ctx context.Context, begin func(State) error, fn func(*Change) error) error {
	return d.reading(ctx, func(tx *sql.Tx) error {
		var s State
		if err := tx.QueryRowContext(ctx, selectState).Scan(&s.Current, &s.Rows, &s.Compact); err != nil {
			return fmt.Errorf("%w: %w", errTable, err)
		}
		if err := begin(s); err != nil {
			return err
		}
		query := selectKept
		if d.dialect == Postgres {
			query = selectKeptPostgres
		}
		return each(ctx, tx, fn, query, s.Compact, s.Compact)
	})
}

// All gives every row there is, in order and as of one moment, each valid during the call.
func (d *DB) All(ctx context.Context, fn func(*Change) error) error {
	return d.reading(ctx, func(tx *sql.Tx) error { return each(ctx, tx, fn, selectAll) })
}

// reading gives a transaction that sees one moment.
func (d *DB) reading(ctx context.Context, fn func(*sql.Tx) error) error {
	opts := &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}
	if d.dialect == SQLite {
		opts = nil // all of SQLite's see one moment
	}
	tx, err := d.db.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("kine: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // it has written nothing
	if err := fn(tx); err != nil {
		return fmt.Errorf("kine: read: %w", err)
	}
	return nil
}

func each(ctx context.Context, tx *sql.Tx, fn func(*Change) error, query string, args ...any) (err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var c Change
		var name sql.NullString
		var created, deleted, create, prev, lease sql.NullInt64
		var value sql.RawBytes
		if err := rows.Scan(&c.ID, &name, &created, &deleted, &create, &prev, &lease, &value); err != nil {
			return err
		}
		c.Name, c.Created, c.Deleted = name.String, created.Int64 != 0, deleted.Int64 != 0
		c.CreateRevision, c.PrevRevision, c.Lease, c.Value = create.Int64, prev.Int64, lease.Int64, value
		if err := fn(&c); err != nil {
			return err
		}
	}
	return rows.Err()
}
