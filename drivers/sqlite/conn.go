package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	sqlite3 "github.com/mattn/go-sqlite3"
)

// conn is one connection to the database, without database/sql around it: a call
// of a prepared statement is one crossing into C.
//
// SQLite is told that a connection is never used by two threads at
// once (_mutex=no). Who has a conn has it alone: the writer by its token, a
// reader by having taken it from the pool. The garbage collector is a
// thread too, so every statement stays reachable until it is closed.
type conn struct {
	c     *sqlite3.SQLiteConn
	stmts []*stmt
}

type connOptions struct {
	path      string
	readOnly  bool
	immutable bool
	cache     int64
	queryOnly bool
	vfs       string
}

func (o connOptions) dsn() string {
	q := url.Values{
		"_mutex":        {"no"},
		"_busy_timeout": {"0"},
		"_synchronous":  {"FULL"},
	}
	switch {
	case o.immutable:
		q.Set("mode", "ro")
		q.Set("immutable", "1")
	case o.readOnly:
		q.Set("mode", "ro")
	default:
		// One lock on the file for the whole process, and the index of
		// the write-ahead log in its memory: no -shm file, no system calls
		// for locks, and no other process gets in.
		q.Set("mode", "rw")
		q.Set("vfs", o.vfs)
	}
	// A plain path may hold '?', '#' and '%'.
	u := url.URL{Scheme: "file", OmitHost: true, Path: o.path, RawQuery: q.Encode()}
	return u.String()
}

func connect(o connOptions) (*conn, error) {
	d := sqlite3.SQLiteDriver{}
	dc, err := d.Open(o.dsn())
	if err != nil {
		return nil, err
	}
	c := &conn{c: dc.(*sqlite3.SQLiteConn)}
	pragmas := []string{
		"PRAGMA wal_autocheckpoint=0",
		fmt.Sprintf("PRAGMA cache_size=-%d", o.cache/1024),
	}
	if o.queryOnly {
		pragmas = append(pragmas, "PRAGMA query_only=1")
	}
	for _, p := range pragmas {
		if err := c.exec(p); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// exec runs statements without parameters that need not be fast.
func (c *conn) exec(sql string) error {
	_, err := c.c.Exec(sql, nil)
	return err
}

// get reads one row that need not be fast; no row is io.EOF.
func (c *conn) get(sql string, columns int) ([]driver.Value, error) {
	rows, err := c.c.Query(sql, nil)
	if err != nil {
		return nil, err
	}
	row := make([]driver.Value, columns)
	if err := rows.Next(row); err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return row, rows.Close()
}

// getInt reads one integer.
func (c *conn) getInt(sql string) (int64, error) {
	row, err := c.get(sql, 1)
	if err != nil {
		return 0, err
	}
	n, ok := row[0].(int64)
	if !ok {
		return 0, fmt.Errorf("%s gives %T", sql, row[0])
	}
	return n, nil
}

// runAll steps a statement without columns through to its end.
func (c *conn) runAll(sql string) error {
	rows, err := c.c.Query(sql, nil)
	if err != nil {
		return err
	}
	for {
		switch err := rows.Next(nil); {
		case errors.Is(err, io.EOF):
			return rows.Close()
		case err != nil:
			return errors.Join(err, rows.Close())
		}
	}
}

// rollback leaves a transaction if the connection is in one.
func (c *conn) rollback() error {
	if c.c.AutoCommit() {
		return nil
	}
	return c.exec("ROLLBACK")
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.s.Close())
	}
	c.stmts = nil
	errs = append(errs, c.c.Close())
	return errors.Join(errs...)
}

// stmt is a prepared statement with room for its parameters and one row.
type stmt struct {
	s interface {
		driver.Stmt
		driver.StmtQueryContext
	}
	args []driver.NamedValue
	row  []driver.Value
}

// prepare makes a statement that lives as long as the connection.
func (c *conn) prepare(sql string, columns int) (*stmt, error) {
	s, err := c.prepareOnce(sql, columns)
	if err != nil {
		return nil, err
	}
	c.stmts = append(c.stmts, s)
	return s, nil
}

// prepareOnce makes a statement that the caller closes.
func (c *conn) prepareOnce(sql string, columns int) (*stmt, error) {
	ds, err := c.c.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %.40q: %w", sql, err)
	}
	s := &stmt{s: ds.(*sqlite3.SQLiteStmt), args: make([]driver.NamedValue, ds.NumInput()), row: make([]driver.Value, columns)}
	for i := range s.args {
		s.args[i].Ordinal = i + 1
	}
	return s, nil
}

// run executes a statement that gives no rows. The driver binds, steps
// and copies the bytes of the parameters in one crossing.
func (s *stmt) run(args ...driver.Value) error {
	for i, a := range args {
		s.args[i].Value = a
	}
	return s.runBound()
}

// runBound is run with the parameters put in s.args by the caller.
func (s *stmt) runBound() error {
	rows, err := s.start()
	if err != nil {
		return err
	}
	return rows.Close()
}

// query gives each row to fn, which may end the query with errStop. The row's
// slice is used again; the bytes in it are fn's.
func (s *stmt) query(fn func(row []driver.Value) error, args ...driver.Value) error {
	for i, a := range args {
		s.args[i].Value = a
	}
	rows, err := s.start()
	if err != nil {
		return err
	}
	for {
		err := rows.Next(s.row)
		if err == nil {
			err = fn(s.row)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, errStop):
			return rows.Close()
		default:
			return errors.Join(err, rows.Close())
		}
	}
}

// queryRow reads the first row into s.row; ok is false if there is none.
func (s *stmt) queryRow(args ...driver.Value) (ok bool, err error) {
	for i, a := range args {
		s.args[i].Value = a
	}
	rows, err := s.start()
	if err != nil {
		return false, err
	}
	err = rows.Next(s.row)
	if errors.Is(err, io.EOF) {
		return false, rows.Close()
	}
	return err == nil, errors.Join(err, rows.Close())
}

func (s *stmt) start() (driver.Rows, error) {
	// A context that can end would cost a goroutine for each statement, and
	// would interrupt a COMMIT. Statements are short; callers look at their
	// context in between.
	rows, err := s.s.QueryContext(context.Background(), s.args)
	// Let go of the caller's bytes.
	for i := range s.args {
		s.args[i].Value = nil
	}
	return rows, err
}

// errStop ends a query without being an error.
var errStop = errors.New("stop")
