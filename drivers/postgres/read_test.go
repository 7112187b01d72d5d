package postgres

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// TestSliceAsksForWhatIsWanted: who looks at a few positions does not have the database read thousands of rows.
func TestSliceAsksForWhatIsWanted(t *testing.T) {
	for opts, want := range map[drivers.ScanOptions][2]int64{
		{After: 100, UpTo: 356}:      {356, 256},
		{UpTo: 1}:                    {1, 1},
		{After: 5, UpTo: 5 + 20_000}: {20_005, 20_000},
		{After: 7, UpTo: 1 << 40}:    {7 + metaRows, metaRows},
	} {
		s := slice{opts: opts}
		if upTo, most := s.wanted(); upTo != want[0] || most != want[1] {
			t.Errorf("%+v asks for %d rows up to %d, want %d", opts, most, upTo, want)
		}
	}
}

// counted counts what comes from the database.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.Add(int64(n))
	return n, err
}

// TestScanOfHoles: what lies beyond the last position wanted is not fetched, however little lies before it, and many holes do not take many statements,
// while where there are none a statement looks at no more positions than rows are read at once.
func TestScanOfHoles(t *testing.T) {
	o := place(t)
	first, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	// Rows at 1 and 2, 50,000 from 10 million on, and the last one far behind them.
	const dense, rows, last = 10_000_000, 50_000, 60_000_000
	_, err = sharedServer(t).Query(t.Context(), first.q(`INSERT INTO {schema}.log (position, kind, batch, written, server, meta, value)
SELECT p, 1, gen_random_uuid(), now(), 1, convert_to(repeat('m', 50), 'UTF8'), '' FROM (
SELECT generate_series(1, 2) p UNION ALL SELECT generate_series(10000000, 10049999) UNION ALL SELECT 60000000) rows;
UPDATE {schema}.head SET scrubbed = 60000000`))
	if err != nil {
		t.Fatal(err)
	}
	var bytes atomic.Int64
	o.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return counted{c, &bytes}, nil
	}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, times := range []bool{false, true} {
		scan := func(after, upTo int64) (n int) {
			t.Helper()
			err := l.Scan(t.Context(), drivers.ScanOptions{After: after, UpTo: upTo, Times: times}, func(entries []drivers.Entry) error {
				n += len(entries)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		read := func(s *slice) {
			t.Helper()
			if err := l.read(t.Context(), func(ctx context.Context, c *pgconn.PgConn) error { return s.read(ctx, c, l) }); err != nil {
				t.Fatal(err)
			}
		}
		few := slice{opts: drivers.ScanOptions{UpTo: 1, Times: times}}
		read(&few) // the statement is prepared
		few.opts = drivers.ScanOptions{After: 1, UpTo: 15_000, Times: times}
		before := bytes.Load()
		if read(&few); len(few.entries) != 1 || few.next != 15_000 {
			t.Errorf("times %v: %d entries up to %d, want 1 up to 15000", times, len(few.entries), few.next)
		}
		if n := bytes.Load() - before; n > 20_000 {
			t.Errorf("times %v: %d bytes were read for one entry", times, n)
		}
		for _, bounds := range [][3]int64{{0, 0, rows + 3}, {0, last - 1, rows + 2}, {dense, dense + rows - 1, rows - 1}, {2, dense, 1}} {
			if n := scan(bounds[0], bounds[1]); int64(n) != bounds[2] {
				t.Errorf("times %v: %d entries in %d", times, n, bounds)
			}
		}
		statements, far := 0, 0
		for s := (slice{opts: drivers.ScanOptions{UpTo: last, Times: times}}); s.opts.After < last; s.opts.After = s.next {
			if upTo, _ := s.wanted(); s.opts.After >= dense && s.opts.After+metaRows < dense+rows && upTo > s.opts.After+metaRows {
				far++
			}
			read(&s)
			statements++
		}
		if statements > 30 || far > 1 {
			t.Errorf("times %v: %d statements, and %d that look far where every position has a row", times, statements, far)
		}
	}
}
