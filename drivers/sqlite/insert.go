package sqlite

import (
	"errors"
	"strings"
)

// inserter puts rows into the table, in the transaction that its connection is in. A
// statement costs more than a row, so rows wait until there are some for one.
type inserter struct {
	conn  *conn
	stmts [len(insertRows)]*stmt

	// waiting are rows that are not in the table yet, as many as the largest statement takes at most, and bytes is
	// how much of theirs would be bound. After an error there are none.
	waiting []Row
	bytes   int
}

// insertRows are how many rows each of inserter.stmts inserts.
var insertRows = [...]int{16, 4, 1}

const (
	rowColumns = 5
	// insertBytes bounds the bytes bound to one prepared statement, which keeps as much memory
	// from then on. A larger row gets a statement of its own.
	insertBytes = 256 << 10
)

// insertSQL is the statement for n rows.
func insertSQL(n int) string {
	return "INSERT INTO log (position, kind, batch, meta, value) VALUES (?, ?, ?, ?, ?)" + strings.Repeat(", (?, ?, ?, ?, ?)", n-1)
}

func (in *inserter) prepare(c *conn) error {
	in.conn = c
	for i, n := range insertRows {
		var err error
		if in.stmts[i], err = c.prepare(insertSQL(n), 0); err != nil {
			return err
		}
	}
	return nil
}

// put adds a row. Its bytes are held until the next flush.
func (in *inserter) put(r Row) error {
	size := len(r.Meta) + len(r.Value)
	if in.bytes+size > insertBytes {
		if err := in.flush(); err != nil {
			return err
		}
	}
	if size > insertBytes {
		return in.putLarge(&r)
	}
	in.waiting = append(in.waiting, r)
	in.bytes += size
	if len(in.waiting) == insertRows[0] {
		return in.flush()
	}
	return nil
}

// flush inserts the rows that wait.
func (in *inserter) flush() error {
	defer func() {
		clear(in.waiting)
		in.waiting, in.bytes = in.waiting[:0], 0
	}()
	rows := in.waiting
	for i, n := range insertRows {
		for s := in.stmts[i]; len(rows) >= n; rows = rows[n:] {
			for j := range n {
				bind(s, j, &rows[j])
			}
			if err := s.runBound(); err != nil {
				return err
			}
		}
	}
	return nil
}

// putLarge inserts one row by a statement that is not kept, nor its buffer.
func (in *inserter) putLarge(r *Row) error {
	s, err := in.conn.prepareOnce(insertSQL(1), 0)
	if err != nil {
		return err
	}
	bind(s, 0, r)
	return errors.Join(s.runBound(), s.s.Close())
}

// bind makes a row the i-th of a statement.
func bind(s *stmt, i int, r *Row) {
	a := s.args[rowColumns*i:]
	a[0].Value, a[1].Value, a[2].Value, a[3].Value, a[4].Value = r.Position, int64(r.Kind), nil, r.Meta, notNil(r.Value)
	if r.Closing != nil {
		a[2].Value = r.Closing
	}
}

// notNil makes nil the empty value that it is stored as.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
