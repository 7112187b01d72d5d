package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// unfinished ends the name of a file, and of a table where creating one is no part of a transaction, until it is whole.
const unfinished = ".migrating"

// columns is kine's own definition; so are the indexes.
const (
	createSQLite = `CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER,
		prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`
	createPostgres = `CREATE TABLE kine (id BIGSERIAL PRIMARY KEY, name TEXT COLLATE "C", created INTEGER, deleted INTEGER, create_revision BIGINT,
		prev_revision BIGINT, lease INTEGER, value BYTEA, old_value BYTEA)`
	createMySQL = `CREATE TABLE kine_migrating (id BIGINT UNSIGNED AUTO_INCREMENT, name VARCHAR(630) CHARACTER SET ascii, created INTEGER, deleted INTEGER,
		create_revision BIGINT UNSIGNED, prev_revision BIGINT UNSIGNED, lease INTEGER, value MEDIUMBLOB, old_value MEDIUMBLOB, PRIMARY KEY (id))`

	insertSQLite   = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`
	insertPostgres = `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	insertMySQL    = `INSERT INTO kine_migrating (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`

	// By the primary key. kine has an old value where the change before was no delete.
	oldValues      = `UPDATE kine SET old_value = p.value FROM kine AS p WHERE p.id = kine.prev_revision AND kine.prev_revision <> 0 AND p.deleted = 0`
	oldValuesMySQL = `UPDATE kine_migrating AS k JOIN kine_migrating AS p ON p.id = k.prev_revision SET k.old_value = p.value
		WHERE k.prev_revision <> 0 AND p.deleted = 0`

	nextPostgres = `SELECT setval(pg_get_serial_sequence('kine', 'id'), (SELECT GREATEST(MAX(id), 1) FROM kine))`
	dropMySQL    = `DROP TABLE IF EXISTS kine_migrating`
	renameMySQL  = `RENAME TABLE kine_migrating TO kine`

	existsPostgres = `SELECT to_regclass('kine') IS NOT NULL`
	existsMySQL    = `SELECT COUNT(*) > 0 FROM information_schema.TABLES WHERE table_schema = DATABASE() AND table_name = 'kine'`
)

// indexes are made before the rows where they come in by themselves, so that kine finds all it would make.
func indexes(d Dialect) []string {
	all := []string{
		`CREATE INDEX kine_name_index ON kine (name)`,
		`CREATE INDEX kine_name_id_index ON kine (name,id)`,
		`CREATE INDEX kine_id_deleted_index ON kine (id,deleted)`,
		`CREATE INDEX kine_prev_revision_index ON kine (prev_revision)`,
		`CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)`,
	}
	switch d {
	case SQLite:
		return append(all, `CREATE INDEX kine_id_compact_rev_key_with_prev_revision_index ON kine(id, name, prev_revision) WHERE name != 'compact_rev_key' AND prev_revision != 0`)
	case Postgres:
		return append(all, `CREATE INDEX kine_list_query_index on kine(name, id DESC, deleted)`)
	}
	return []string{
		`CREATE INDEX kine_name_index ON kine_migrating (name)`,
		`CREATE INDEX kine_name_id_index ON kine_migrating (name,id)`,
		`CREATE INDEX kine_id_deleted_index ON kine_migrating (id,deleted)`,
		`CREATE INDEX kine_prev_revision_index ON kine_migrating (prev_revision)`,
		`CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine_migrating (name, prev_revision)`,
	}
}

// Vacant returns nil if Fill may make a table there, and ErrExists if there is one.
func Vacant(ctx context.Context, dialect Dialect, source string) error {
	if dialect == SQLite {
		return vacantFile(source)
	}
	d, err := open(ctx, dialect, source)
	if err != nil {
		return err
	}
	return errors.Join(d.vacant(ctx), d.Close())
}

// vacantFile refuses also what SQLite has beside a database: it would take a log that was left for one of the new file's.
func vacantFile(path string) error {
	for _, beside := range []string{"", "-wal", "-journal", "-shm"} {
		switch _, err := os.Lstat(path + beside); {
		case err == nil:
			return fmt.Errorf("kine: %w: %s", ErrExists, path+beside)
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("kine: %w", err)
		}
	}
	return nil
}

func (d *DB) vacant(ctx context.Context) error {
	query := existsPostgres
	if d.dialect == MySQL {
		query = existsMySQL
	}
	var exists bool
	if err := d.db.QueryRowContext(ctx, query).Scan(&exists); err != nil {
		return fmt.Errorf("kine: %w", err)
	}
	if exists {
		return fmt.Errorf("kine: %w: drop it, or name another database", ErrExists)
	}
	return nil
}

// Fill makes the table out of the changes that fill adds, in the order of their ids. After an error, or a kill, there is none.
func Fill(ctx context.Context, dialect Dialect, source string, fill func(add func(*Change) error) error) error {
	if err := Vacant(ctx, dialect, source); err != nil {
		return err
	}
	if dialect == SQLite {
		return fillFile(ctx, source, fill)
	}
	d, err := open(ctx, dialect, source)
	if err != nil {
		return err
	}
	err = d.fill(ctx, fill)
	if err == nil && dialect == MySQL {
		_, err = d.db.ExecContext(ctx, renameMySQL)
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("kine: fill: %w", err)
	}
	return nil
}

// fillFile makes an SQLite file beside its place, and moves it there.
func fillFile(ctx context.Context, path string, fill func(add func(*Change) error) error) error {
	work := path + unfinished
	if err := os.Remove(work); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kine: %w", err)
	}
	// It has everything that the keys have, so it is its owner's alone.
	file, err := os.OpenFile(work, os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		return fmt.Errorf("kine: %w", err)
	}
	// Until it has its name it may be lost.
	d, err := open(ctx, SQLite, sqliteURI(work, "mode=rwc&_journal_mode=MEMORY&_synchronous=OFF"))
	if err != nil {
		return err
	}
	if err = errors.Join(d.fill(ctx, fill), d.Close()); err == nil {
		err = place(work, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("kine: fill: %w", err), os.RemoveAll(work))
	}
	return nil
}

func place(work, path string) error {
	if err := sync(work); err != nil {
		return err
	}
	if err := rename(work, path); err != nil {
		return err
	}
	return sync(filepath.Dir(path))
}

// rename gives a file its name if nothing has it.
func rename(work, path string) error {
	err := os.Link(work, path)
	if err == nil {
		return os.Remove(work)
	}
	// Not every file system has links.
	if _, there := os.Lstat(path); errors.Is(there, fs.ErrNotExist) {
		return os.Rename(work, path)
	}
	return err
}

func sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *DB) fill(ctx context.Context, fill func(add func(*Change) error) error) (err error) {
	create, insert, old := createSQLite, insertSQLite, oldValues
	switch d.dialect {
	case Postgres:
		create, insert = createPostgres, insertPostgres
	case MySQL:
		create, insert, old = createMySQL, insertMySQL, oldValuesMySQL
	}
	statements := append([]string{create}, indexes(d.dialect)...)
	if d.dialect == MySQL {
		// There a statement that creates something ends the transaction.
		if err := exec(ctx, d.db, append([]string{dropMySQL}, statements...)...); err != nil {
			return err
		}
		statements = nil
	}
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // what counts is the error
		}
	}()
	if err := exec(ctx, tx, statements...); err != nil {
		return err
	}
	if err := insertAll(ctx, tx, insert, fill); err != nil {
		return err
	}
	end := []string{old}
	if d.dialect == Postgres {
		end = append(end, nextPostgres)
	}
	if err := exec(ctx, tx, end...); err != nil {
		return err
	}
	return tx.Commit()
}

// executor is a transaction, or a database without one.
type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func exec(ctx context.Context, e executor, statements ...string) error {
	for _, s := range statements {
		if _, err := e.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func insertAll(ctx context.Context, tx *sql.Tx, insert string, fill func(add func(*Change) error) error) (err error) {
	stmt, err := tx.PrepareContext(ctx, insert)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stmt.Close()) }()
	return fill(func(c *Change) error {
		value := c.Value
		if value == nil && !c.Deleted {
			value = []byte{} // an empty value, and not NULL
		}
		_, err := stmt.ExecContext(ctx, c.ID, c.Name, number(c.Created), number(c.Deleted), c.CreateRevision, c.PrevRevision, c.Lease, value)
		if err != nil {
			return fmt.Errorf("key %q at revision %d: %w", c.Name, c.ID, err)
		}
		return nil
	})
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
