package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// The object ids of the types that are sent.
const (
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidText        = 25
	oidInt8Array   = 1016
	oidInt2Array   = 1005
	oidByteaArray  = 1001
	oidTimestamptz = 1184
	oidUUID        = 2950
)

// param is one parameter of a statement, in Postgres' binary format.
type param struct {
	oid   uint32
	value []byte // nil is NULL
}

func int8Param(v int64) param {
	return param{oidInt8, binary.BigEndian.AppendUint64(nil, uint64(v))}
}

func byteaParam(b []byte) param {
	if b == nil {
		b = []byte{}
	}
	return param{oidBytea, b}
}

func textParam(s string) param { return param{oidText, []byte(s)} }

func uuidParam(id drivers.BatchID) param { return param{oidUUID, id[:]} }

func nullParam(oid uint32) param { return param{oid: oid} }

// epoch is the beginning of Postgres' time.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// timeParam keeps milliseconds.
func timeParam(t time.Time) param {
	ms := t.UnixMilli() - epoch.UnixMilli()
	return param{oidTimestamptz, binary.BigEndian.AppendUint64(nil, uint64(ms*1000))}
}

func int8ArrayParam(values []int64) param {
	b := arrayHeader(oidInt8, len(values), 12*len(values))
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return param{oidInt8Array, b}
}

// arrayHeader begins an array of one dimension without NULLs, with room for its elements.
func arrayHeader(element uint32, n, room int) []byte {
	b := make([]byte, 0, 20+room)
	if n == 0 {
		b = binary.BigEndian.AppendUint32(b, 0) // no dimension
		b = binary.BigEndian.AppendUint32(b, 0)
		return binary.BigEndian.AppendUint32(b, element)
	}
	for _, v := range [...]uint32{1, 0, element, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// entryParams makes arrays of the kinds, metas and values of entries.
func entryParams(entries []drivers.Entry) [3]param {
	var metas, values int
	for i := range entries {
		metas += 4 + len(entries[i].Meta)
		values += 4 + len(entries[i].Value)
	}
	n := len(entries)
	kind, meta, value := arrayHeader(oidInt2, n, 6*n), arrayHeader(oidBytea, n, metas), arrayHeader(oidBytea, n, values)
	for i := range entries {
		e := &entries[i]
		kind = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(kind, 2), uint16(e.Kind))
		meta = append(binary.BigEndian.AppendUint32(meta, uint32(len(e.Meta))), e.Meta...)
		value = append(binary.BigEndian.AppendUint32(value, uint32(len(e.Value))), e.Value...)
	}
	return [3]param{{oidInt2Array, kind}, {oidByteaArray, meta}, {oidByteaArray, value}}
}

// statement is one statement and its parameters.
type statement struct {
	sql    string
	params []param
}

func (s *statement) split() (values [][]byte, oids []uint32) {
	values, oids = make([][]byte, len(s.params)), make([]uint32, len(s.params))
	for i, p := range s.params {
		values[i], oids[i] = p.value, p.oid
	}
	return values, oids
}

var binaryFormat = []int16{1}

const commitSQL = "COMMIT"

// prepared are the statements that a connection has prepared: see Log.sessions.
type prepared struct {
	names map[string]string // by their text
	used  bool              // now; the names stay
}

// preparedKey is the key of a connection's prepared statements; without it none are.
const preparedKey = "keelson.prepared"

// prepare gives the name of a statement that the connection has prepared, or "" if it prepares none.
func prepare(ctx context.Context, c *pgconn.PgConn, s *statement, oids []uint32) (string, error) {
	p, ok := c.CustomData()[preparedKey].(*prepared)
	if !ok || !p.used || s.sql == beginSQL || s.sql == commitSQL {
		return "", nil
	}
	name, ok := p.names[s.sql]
	if !ok {
		// By its text, so that in a session that is somebody else's after all it is nobody else's statement.
		sum := sha256.Sum256([]byte(s.sql))
		name = fmt.Sprintf("keelson_%x", sum[:12])
		if _, err := c.Prepare(ctx, name, s.sql, oids); err != nil {
			return "", err
		}
		p.names[s.sql] = name
	}
	return name, nil
}

// query runs one statement as a transaction of its own, in one round trip. The row that fn gets is valid during the call.
func query(ctx context.Context, c *pgconn.PgConn, s statement, fn func(row [][]byte) error) error {
	_, err := pipeline(ctx, c, []statement{s}, func(_ int, row [][]byte) error {
		if fn == nil {
			return nil
		}
		return fn(row)
	})
	return err
}

// pipeline sends statements together, in one round trip, and gives the number of rows that each of them touched.
// Without a BEGIN among them they are one transaction. fn gets the rows of statement i.
func pipeline(ctx context.Context, c *pgconn.PgConn, statements []statement, fn func(i int, row [][]byte) error) ([]int64, error) {
	var b pgconn.Batch
	for i := range statements {
		s := &statements[i]
		values, oids := s.split()
		name, err := prepare(ctx, c, s, oids)
		if err != nil {
			return nil, err
		}
		if name == "" {
			b.ExecParams(s.sql, values, oids, binaryFormat, binaryFormat)
		} else {
			b.ExecPrepared(name, values, binaryFormat, binaryFormat)
		}
	}
	m := c.ExecBatch(ctx, &b)
	touched := make([]int64, 0, len(statements))
	var ferr error
	for m.NextResult() {
		r := m.ResultReader()
		for r.NextRow() && ferr == nil {
			if fn != nil {
				ferr = fn(len(touched), r.Values())
			}
		}
		tag, err := r.Close()
		if err != nil {
			break // Close says it again
		}
		touched = append(touched, tag.RowsAffected())
	}
	return touched, errors.Join(m.Close(), ferr)
}

// run runs statements without parameters or results of interest.
func run(ctx context.Context, c *pgconn.PgConn, sql string) error {
	return c.Exec(ctx, sql).Close()
}

// errNoRow: a statement that gives a row gave none.
var errNoRow = errors.New("the database gave no row")

// one gives the first row of a statement as texts.
func one(ctx context.Context, c *pgconn.PgConn, sql string) ([]string, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return nil, errNoRow
	}
	var row []string
	for _, v := range results[0].Rows[0] {
		row = append(row, string(v))
	}
	return row, nil
}

// columns reads the columns of a row one after the other; bad stays set once one is not as expected.
type columns struct {
	row [][]byte
	bad bool
}

func (c *columns) next() []byte {
	if len(c.row) == 0 {
		c.bad = true
		return nil
	}
	v := c.row[0]
	c.row = c.row[1:]
	return v
}

// int8 reads an integer of 8 bytes; NULL is 0.
func (c *columns) int8() int64 {
	v := c.next()
	switch len(v) {
	case 8:
		return int64(binary.BigEndian.Uint64(v))
	case 0:
		return 0
	}
	c.bad = true
	return 0
}

func (c *columns) int2() int64 {
	v := c.next()
	if len(v) != 2 {
		c.bad = true
		return 0
	}
	return int64(int16(binary.BigEndian.Uint16(v)))
}

// uuid reads a batch id; set is false if it is NULL.
func (c *columns) uuid() (id drivers.BatchID, set bool) {
	v := c.next()
	if v != nil && copy(id[:], v) != len(v) {
		c.bad = true
	}
	return id, v != nil
}

func (c *columns) time() time.Time {
	us := c.int8()
	return time.UnixMilli(epoch.UnixMilli() + us/1000)
}

// bytes reads a bytea, which is copied.
func (c *columns) bytes() []byte { return bytes.Clone(c.next()) }

// err says what is wrong with the row.
func (c *columns) err(what string) error {
	if c.bad {
		return fmt.Errorf("%w: %s: the row is none of Keelson's", drivers.ErrCorrupt, what)
	}
	return nil
}
