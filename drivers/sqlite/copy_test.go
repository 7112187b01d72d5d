package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// marked appends n batches with marks.
func marked(t *testing.T, l *Log, n, rows, size int) drivers.End {
	t.Helper()
	end, _ := l.LastMark()
	for range n {
		b := newBatch(rows, make([]byte, size))
		if err := l.AppendAll(t.Context(), end, []Marked{{Batch: b, Mark: markOf(b)}}); err != nil {
			t.Fatal(err)
		}
		end = drivers.End{Position: end.Position + int64(rows), Batch: b.ID}
	}
	return end
}

// copyRows copies the rows of a log up to an end into a new file.
func copyRows(ctx context.Context, l *Log, path string, opts Options, end drivers.End) error {
	c, err := NewCopy(path, opts)
	if err != nil {
		return err
	}
	err = l.Rows(ctx, 0, end.Position, c.Write)
	if err == nil {
		err = c.Finish(l.state.Load().scrubbed, end)
	}
	return errors.Join(err, c.Abort())
}

// sameLog compares a log with the rows and bounds that it must have.
func sameLog(t *testing.T, l *Log, rows []Row, bounds drivers.Bounds) {
	t.Helper()
	if got, err := l.ReadIndex(t.Context()); err != nil || got != bounds {
		t.Errorf("the bounds are %v, %v, want %v", got, err, bounds)
	}
	got := rowsOf(t, l, 0, bounds.End.Position)
	if len(got) != len(rows) {
		t.Fatalf("%d rows, want %d", len(got), len(rows))
	}
	for i := range rows {
		if !reflect.DeepEqual(got[i], rows[i]) {
			t.Fatalf("the row at position %d differs from that at %d", got[i].Position, rows[i].Position)
		}
	}
	last, err := decodeClosing(rows[len(rows)-1].Closing)
	if err != nil {
		t.Fatal(err)
	}
	if end, mark := l.LastMark(); end != bounds.End || mark != last.mark {
		t.Errorf("the last mark is %x at %v, want %x at %v", mark, end, last.mark, bounds.End)
	}
	if err := l.Check(t.Context(), func(f string) { t.Errorf("check: %s", f) }); err != nil {
		t.Error(err)
	}
}

func TestCopy(t *testing.T) {
	l := openLog(t, Options{})
	if err := l.AppendAll(t.Context(), drivers.End{}, sizedBatches()); err != nil {
		t.Fatal(err)
	}
	marked(t, l, 100, 30, 700) // more than a slice, and than a transaction of the copy
	end := marked(t, l, 10, 3, 10)
	scrubExcept(t, l, drivers.End{Position: end.Position - 20}, 7)
	bounds, err := l.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows := rowsOf(t, l, 0, end.Position)

	// Appends go on above, in the middle of it too.
	path := filepath.Join(t.TempDir(), "copy.db")
	c, err := NewCopy(path, Options{PageSize: 2048})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Rows(t.Context(), 0, end.Position, func(rs []Row) error {
		marked(t, l, 1, 2, 10)
		if _, err := Open(t.Context(), Options{Path: path}); !errors.Is(err, drivers.ErrLocked) {
			t.Errorf("open what is being made: %v", err)
		}
		return c.Write(rs)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(bounds.Scrubbed, end); err != nil {
		t.Fatal(err)
	}
	if err := c.Abort(); err != nil {
		t.Error(err)
	}
	if got := files(t, path); got != fmt.Sprintf("copy.db %d ", fileSize(t, path)) {
		t.Errorf("there are %s", got)
	}
	made := openLog(t, Options{Path: path})
	sameLog(t, made, rows, bounds)
	for pragma, want := range map[string]int64{"page_size": 2048, "auto_vacuum": 2, "user_version": schemaVersion} {
		if n, err := made.writer.conn.getInt("PRAGMA " + pragma); err != nil || n != want {
			t.Errorf("%s is %d, %v, want %d", pragma, n, err, want)
		}
	}
	// It is a log like another one.
	marked(t, made, 3, 3, 100)
	scrubExcept(t, made, bounds.End, 11)
	if err := made.Defragment(t.Context()); err != nil {
		t.Error(err)
	}
	_, mark := made.LastMark()
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	again := openLog(t, Options{Path: path})
	if _, got := again.LastMark(); got != mark || mark == (Mark{}) {
		t.Errorf("the last mark is %x, want %x", got, mark)
	}
}

// TestCopyWhileScrubbing: with the mark as it is after the rows were read the copy is a sound log.
func TestCopyWhileScrubbing(t *testing.T) {
	l := openLog(t, Options{})
	end := marked(t, l, 300, 20, 100)
	marked(t, l, 1, 1, 1)
	path, next := filepath.Join(t.TempDir(), "copy.db"), int64(1)
	c, err := NewCopy(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var rows []Row
	err = l.Rows(t.Context(), 0, end.Position, func(rs []Row) error {
		rows = append(rows, rs...)
		for i := 0; i < 10 && next < end.Position; i++ { // below and above what was read
			if err := l.Scrub(t.Context(), []int64{next}); err != nil {
				t.Fatal(err)
			}
			next += 250
		}
		return c.Write(rs)
	})
	if err != nil {
		t.Fatal(err)
	}
	bounds, err := l.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Finish(bounds.Scrubbed, end); err != nil {
		t.Fatal(err)
	}
	if int64(len(rows)) == end.Position {
		t.Error("no hole was seen")
	}
	sameLog(t, openLog(t, Options{Path: path}), rows, drivers.Bounds{End: end, Scrubbed: bounds.Scrubbed})
}

func TestCopyOfNothing(t *testing.T) {
	l, path := openLog(t, Options{}), filepath.Join(t.TempDir(), "copy.db")
	if err := copyRows(t.Context(), l, path, Options{}, drivers.End{}); err != nil {
		t.Fatal(err)
	}
	made := openLog(t, Options{Path: path})
	if bounds, err := made.ReadIndex(t.Context()); err != nil || bounds != (drivers.Bounds{}) {
		t.Errorf("the bounds are %v, %v", bounds, err)
	}
	goOn(t, made, 1, 1, 1)
}

func TestRowsReportsDamage(t *testing.T) {
	for name, sql := range map[string]string{
		"a hole above the mark": "DELETE FROM log WHERE position = 8",
		"a bad closing":         "UPDATE log SET batch = x'01' WHERE position = 20",
		"a kind too large":      "UPDATE log SET kind = 256 WHERE position = 7",
	} {
		l, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "log.db")})
		if err != nil {
			t.Fatal(err)
		}
		goOn(t, l, 3, 10, 10)
		if err := l.writer.conn.exec(sql); err != nil {
			t.Fatal(err)
		}
		if err := l.Rows(t.Context(), 0, 30, func([]Row) error { return nil }); !errors.Is(err, drivers.ErrCorrupt) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestCopyRefuses: what would be no sound log is not finished, and what was not finished is no log.
func TestCopyRefuses(t *testing.T) {
	l := openLog(t, Options{})
	first := marked(t, l, 1, 4, 10)
	end := marked(t, l, 1, 4, 10)
	rows := rowsOf(t, l, 0, end.Position)
	without := func(i int) []Row { return append(append([]Row(nil), rows[:i]...), rows[i+1:]...) }
	noMeta, badClosing := append([]Row(nil), rows...), append([]Row(nil), rows...)
	noMeta[2].Meta, badClosing[3].Closing = nil, []byte{1}
	for name, c := range map[string]struct {
		rows     []Row
		scrubbed int64
		end      drivers.End
	}{
		"another end":            {rows, 0, first},
		"another batch":          {rows, 0, drivers.End{Position: end.Position, Batch: first.Batch}},
		"an open end":            {rows[:6], 0, drivers.End{Position: 6}},
		"an open end with a row": {rows[:6], 0, drivers.End{Position: 6, Batch: first.Batch}},
		"nothing":                {nil, 0, end},
		"a mark at the end":      {rows, end.Position, end},
		"a negative mark":        {rows, -1, end},
		"a hole above the mark":  {without(4), 4, end},
		"a hole at first":        {rows[1:], 0, end},
		"descending":             {append(append([]Row(nil), rows...), rows[7]), 0, end},
		"no meta":                {noMeta, 0, end},
		"a bad closing":          {badClosing, 0, end},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "copy.db")
			made, err := NewCopy(path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			werr := made.Write(c.rows)
			if err := made.Finish(c.scrubbed, c.end); err == nil {
				t.Error("it is finished")
			} else if werr != nil && made.Write(rows[7:]) == nil {
				t.Error("it takes rows after an error")
			}
			brokenOff := filepath.Join(t.TempDir(), "copy.db")
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(brokenOff, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{true, false} {
				if _, err := Open(t.Context(), Options{Path: brokenOff, ReadOnly: readOnly}); !errors.Is(err, drivers.ErrForeign) {
					t.Errorf("open what was not finished: %v", err)
				}
			}
			if err := made.Abort(); err != nil {
				t.Error(err)
			}
			if got := files(t, path); got != "" {
				t.Errorf("there are %s", got)
			}
			if err := made.Write(rows); !errors.Is(err, drivers.ErrClosed) {
				t.Errorf("write after Abort: %v", err)
			}
		})
	}
	// With the mark at the hole it is one.
	made, err := NewCopy(filepath.Join(t.TempDir(), "copy.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(made.Write(without(4)), made.Finish(5, end)); err != nil {
		t.Error(err)
	}
}

func TestCopyTakesThePlaceOfABrokenOne(t *testing.T) {
	l := openLog(t, Options{})
	end := marked(t, l, 3, 4, 10)
	path := filepath.Join(t.TempDir(), "copy.db")
	for _, suffix := range []string{"", "-wal", "-journal", "-shm"} {
		if err := os.WriteFile(path+suffix, bytes.Repeat([]byte("broken off "), 500), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open, err := NewCopy(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, path); got != fmt.Sprintf("copy.db %d ", fileSize(t, path)) {
		t.Errorf("there are %s", got)
	}
	if _, err := NewCopy(path, Options{}); !errors.Is(err, drivers.ErrLocked) {
		t.Errorf("a copy where one is being made: %v", err)
	}
	if err := open.Abort(); err != nil {
		t.Error(err)
	}
	// What lies there alone, and a copy that was finished and never used.
	if err := os.WriteFile(path+"-wal", []byte("broken off"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := copyRows(t.Context(), l, path, Options{}, end); err != nil {
			t.Fatal(err)
		}
	}
	made := openLog(t, Options{Path: path})
	sameLog(t, made, rowsOf(t, l, 0, end.Position), drivers.Bounds{End: end})
	if _, err := NewCopy(path, Options{}); !errors.Is(err, drivers.ErrLocked) {
		t.Errorf("a copy where a log is open: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := NewCopy(dir, Options{}); !errors.Is(err, drivers.ErrForeign) {
		t.Errorf("a copy where a directory is: %v", err)
	}
}

// faultyCopy copies a log through a disk.
func faultyCopy(t *testing.T, l *Log, h faultfs.Hook, path string, end drivers.End) error {
	t.Helper()
	faultfs.Set(h)
	defer faultfs.Set(nil)
	c, err := NewCopy(path, Options{vfs: faultfs.Name, WriterCache: 8 << 10})
	if err != nil {
		return err
	}
	c.direct = direct{file: c.file, hook: h, path: path}
	err = l.Rows(t.Context(), 0, end.Position, func(rows []Row) error {
		for i := range rows {
			if err := c.Write(rows[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = c.Finish(l.state.Load().scrubbed, end)
	}
	if err == nil {
		return nil
	}
	faultfs.Set(nil) // the fault is over
	if aerr := c.Abort(); aerr != nil {
		t.Errorf("abort: %v", aerr)
	}
	if got := files(t, path); got != "" {
		t.Errorf("there are %s", got)
	}
	return err
}

// TestCopyWithOneFault lets each operation on a copy fail once: then there is no copy, or it is whole. So it is after a loss of power
// at any operation, and one that was finished is there.
func TestCopyWithOneFault(t *testing.T) {
	if err := faultfs.Register(); err != nil {
		t.Fatal(err)
	}
	l := openLog(t, Options{})
	end := marked(t, l, 40, 5, 600)
	scrubExcept(t, l, drivers.End{Position: 150}, 3)
	rows := rowsOf(t, l, 0, end.Position)
	bounds := drivers.Bounds{End: end, Scrubbed: 149}
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	failed, logs, images := 0, 0, 0
	for at, more := 0, true; more; at++ {
		n := 0
		path, image := filepath.Join(t.TempDir(), "copy.db"), t.TempDir()
		disk := &faultfs.Disk{}
		disk.Fail = func(op faultfs.Op) faultfs.Verdict {
			if n++; n == at+1 {
				return faultfs.Verdict{Errno: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[at%2], Part: op.Size / 2}
			}
			return faultfs.Verdict{}
		}
		seen := 0
		h := &interloper{Disk: disk, look: func(faultfs.Op) {
			if seen++; seen == at+1 || seen == at+2 {
				image = t.TempDir()
				if err := disk.LosePower(image, r); err != nil {
					t.Error(err)
				}
			}
		}}
		err := faultyCopy(t, l, h, path, end)
		more = n > at
		if err != nil {
			failed++
		} else {
			if err := disk.LosePower(image, r); err != nil {
				t.Fatal(err)
			}
			sameLog(t, openLog(t, Options{Path: path}), rows, bounds)
		}
		// As a loss of power leaves it.
		images++
		after, oerr := Open(t.Context(), Options{Path: filepath.Join(image, "copy.db"), ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
		switch {
		case oerr == nil:
			logs++
			sameLog(t, after, rows, bounds)
			if err := after.Close(); err != nil {
				t.Error(err)
			}
		case err == nil || !errors.Is(oerr, drivers.ErrForeign) && !errors.Is(oerr, os.ErrNotExist):
			t.Errorf("after a loss of power: %v", oerr)
		}
		if t.Failed() {
			t.Fatalf("with operation %d failing", at)
		}
	}
	if failed < 50 {
		t.Errorf("only %d copies failed", failed)
	}
	t.Logf("%d copies failed, %d of %d images are logs", failed, logs, images)
}

// TestRemoveCopy: a finished copy that is not used is removed, one that is being made is not.
func TestRemoveCopy(t *testing.T) {
	l := openLog(t, Options{})
	end, path := marked(t, l, 3, 4, 10), filepath.Join(t.TempDir(), "copy.db")
	if err := RemoveCopy(path); err != nil {
		t.Errorf("nothing is there: %v", err)
	}
	open, err := NewCopy(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := RemoveCopy(path); !errors.Is(err, drivers.ErrLocked) {
		t.Errorf("it is being made: %v", err)
	}
	if err := errors.Join(open.Abort(), copyRows(t.Context(), l, path, Options{}, end), RemoveCopy(path)); err != nil {
		t.Error(err)
	}
	if got := files(t, path); got != "" {
		t.Errorf("there are %s", got)
	}
}
