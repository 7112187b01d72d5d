package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// markOf makes a mark of a batch's id.
func markOf(b *drivers.Batch) (m Mark) {
	copy(m[:], "mark of ")
	copy(m[8:], b.ID[:])
	return m
}

// rowsOf gives the rows of a log in (after, upTo].
func rowsOf(t *testing.T, l *Log, after, upTo int64) (rows []Row) {
	t.Helper()
	if err := l.Rows(t.Context(), after, upTo, func(rs []Row) error { rows = append(rows, rs...); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

// sizedBatches are batches of many shapes: their rows cross the borders of statements in all ways.
func sizedBatches() (batches []Marked) {
	for i, n := range []int{1, 1, 2, 15, 16, 17, 1, 1, 1, 33, 4, 5, 1} {
		b := newBatch(n, make([]byte, 10*i))
		switch i {
		case 3: // too much for one statement of 16 rows
			for j := range b.Entries {
				b.Entries[j].Value = make([]byte, 60<<10)
			}
		case 4, 6: // rows that are too large, the last ones among them
			b.Entries[0].Value, b.Entries[n-1].Value = make([]byte, 300<<10), make([]byte, 400<<10)
		case 5:
			b.Entries[2].Value = nil
		}
		m := Marked{Batch: b}
		if i%3 > 0 {
			m.Mark = markOf(b)
		}
		batches = append(batches, m)
	}
	return batches
}

func TestAppendAllIsAppendOfEach(t *testing.T) {
	batches := sizedBatches()
	one, all := openLog(t, Options{}), openLog(t, Options{})
	want := ledger{}
	for i := range batches {
		if err := one.AppendAll(t.Context(), want.end, batches[i:i+1]); err != nil {
			t.Fatal(err)
		}
		want.appendAll(batches[i : i+1])
		if end, mark := one.LastMark(); end != want.end || mark != batches[i].Mark {
			t.Fatalf("the last mark is %x at %v", mark, end)
		}
	}
	if err := all.AppendAll(t.Context(), drivers.End{}, batches); err != nil {
		t.Fatal(err)
	}
	if n := len(rowsOf(t, all, 0, math.MaxInt64)); n != len(want.entries) {
		t.Errorf("%d rows, want %d", n, len(want.entries))
	}
	if !reflect.DeepEqual(rowsOf(t, one, 0, math.MaxInt64), rowsOf(t, all, 0, math.MaxInt64)) {
		t.Error("the rows differ")
	}
	for _, l := range []*Log{one, all} {
		if err := want.compare(l); err != nil {
			t.Error(err)
		}
	}
	// A follower gets them one by one.
	enough := errors.New("enough")
	next := 0
	err := all.Follow(t.Context(), drivers.End{}, func(b *drivers.Batch) error {
		if w := batches[next].Batch; b.ID != w.ID || len(b.Entries) != len(w.Entries) || b.Server != w.Server || b.Time.UnixMilli() != w.Time.UnixMilli() {
			t.Errorf("batch %d is %x with %d entries", next, b.ID, len(b.Entries))
		}
		if next++; next == len(batches) {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

func TestAppendAllRefuses(t *testing.T) {
	l := openLog(t, Options{})
	end := goOn(t, l, 2, 2, 10)
	good := Marked{Batch: newBatch(2, nil)}
	noMeta := newBatch(3, nil)
	noMeta.Entries[1].Meta = nil
	for name, batches := range map[string][]Marked{
		"none":           nil,
		"an empty batch": {good, {Batch: newBatch(0, nil)}},
		"no meta":        {good, {Batch: noMeta}},
	} {
		if err := l.AppendAll(t.Context(), end, batches); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := l.AppendAll(t.Context(), drivers.End{Position: end.Position}, []Marked{good, good}); !errors.Is(err, drivers.ErrConflict) {
		t.Errorf("after another end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.AppendAll(ctx, end, []Marked{good}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if bounds, err := l.ReadIndex(t.Context()); err != nil || bounds.End != end {
		t.Errorf("the log ends at %v, %v", bounds.End, err)
	}
}

// TestAppendAllInDoubt: what became of many batches is found out as for one: all of them or none.
func TestAppendAllInDoubt(t *testing.T) {
	for _, done := range []bool{false, true} {
		d := &doubt{n: 2} // not yet
		l := faulty(t, d, Options{})
		l.checkpointer.openWAL = d.openWAL(l)
		want := ledger{}
		first, second := sizedBatches(), sizedBatches()
		if err := l.AppendAll(t.Context(), want.end, first); err != nil {
			t.Fatal(err)
		}
		want.appendAll(first)
		d.n, d.done = 0, done
		if err := l.AppendAll(t.Context(), want.end, second); !errors.Is(err, drivers.ErrUncertain) {
			t.Fatalf("done %v: got %v", done, err)
		}
		if end, mark := l.LastMark(); end != want.end || mark != want.mark {
			t.Errorf("done %v: the last mark is %x at %v while nobody knows", done, mark, end)
		}
		if err := l.AppendAll(t.Context(), want.end, second); !errors.Is(err, drivers.ErrUnresolved) {
			t.Errorf("done %v: got %v", done, err)
		}
		if done {
			want.appendAll(second)
		}
		if err := want.compare(l); err != nil {
			t.Errorf("done %v: %v", done, err)
		}
	}
}

func TestMarksStay(t *testing.T) {
	l := openLog(t, Options{})
	want := ledger{}
	for i := range 500 {
		m := Marked{Batch: newBatch(10, make([]byte, 100))}
		if i%2 > 0 {
			m.Mark = markOf(m.Batch)
		}
		if err := l.AppendAll(t.Context(), want.end, []Marked{m}); err != nil {
			t.Fatal(err)
		}
		want.appendAll([]Marked{m})
	}
	var positions []int64
	for p := int64(1); p < want.end.Position; p += 2 {
		positions = append(positions, p)
	}
	if err := l.Scrub(t.Context(), positions); err != nil {
		t.Fatal(err)
	}
	want.scrub(positions)
	_, before, err := l.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, after, err := l.Size(t.Context()); err != nil || after >= before*9/10 {
		t.Errorf("%d bytes in use became %d, %v: were rows rewritten?", before, after, err)
	}
	if err := want.compare(l); err != nil {
		t.Errorf("after a defragmentation: %v", err)
	}
	last := []Marked{{Batch: newBatch(3, nil)}, {Batch: newBatch(3, nil), Mark: Mark{23: 1}}}
	if err := l.AppendAll(t.Context(), want.end, last); err != nil {
		t.Fatal(err)
	}
	want.appendAll(last)
	crash := filepath.Join(t.TempDir(), "log.db")
	copyLog(t, l.opts.Path, crash)
	if err := want.compareFiles(t, crash); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := want.compareFiles(t, l.Path()); err != nil {
		t.Errorf("opened again: %v", err)
	}
}

// schema1 makes a log as an older Keelson left it, closed.
func schema1(t *testing.T) (path string, want *ledger) {
	t.Helper()
	path, want = filepath.Join(t.TempDir(), "log.db"), &ledger{}
	l, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b := newBatch(3, []byte("value"))
		if err := l.Append(t.Context(), want.end, b); err != nil {
			t.Fatal(err)
		}
		want.append(b)
	}
	// Closings have no marks, so nothing but the number differs.
	if err := errors.Join(l.writer.conn.exec("PRAGMA user_version=1"), l.Close()); err != nil {
		t.Fatal(err)
	}
	return path, want
}

func version(t *testing.T, path string) (n int64) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro&immutable=1")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("PRAGMA user_version").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSchema1(t *testing.T) {
	path, want := schema1(t)
	r, err := Open(t.Context(), Options{Path: path, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(want.compare(r), r.Close()); err != nil {
		t.Errorf("for inspection: %v", err)
	}
	if n := version(t, path); n != 1 {
		t.Errorf("an inspection has made schema %d of it", n)
	}
	l, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := want.compare(l); err != nil {
		t.Error(err)
	}
	m := []Marked{{Batch: newBatch(1, nil), Mark: Mark{1}}}
	if err := l.AppendAll(t.Context(), want.end, m); err != nil {
		t.Fatal(err)
	}
	want.appendAll(m)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := version(t, path); n != schemaVersion {
		t.Errorf("the log has schema %d", n)
	}
	if err := want.compareFiles(t, path); err != nil {
		t.Error(err)
	}
}

// TestDamageIsNotMigrated: a log of an older schema that cannot be opened is left as it is.
func TestDamageIsNotMigrated(t *testing.T) {
	path, _ := schema1(t)
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("UPDATE log SET batch = x'01' WHERE position = 15"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Options{Path: path, Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, drivers.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if n := version(t, path); n != 1 {
		t.Errorf("the log has schema %d", n)
	}
	if got := files(t, path); got != fmt.Sprintf("log.db %d ", fileSize(t, path)) {
		t.Errorf("there are %s", got)
	}
}
