package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// openLog opens a log that is checked when the test ends, and closed.
func openLog(t *testing.T, opts Options) *Log {
	t.Helper()
	if opts.Path == "" {
		opts.Path = filepath.Join(t.TempDir(), "log.db")
	}
	l, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Check(context.Background(), func(f string) { t.Errorf("check: %s", f) }); err != nil && !errors.Is(err, drivers.ErrClosed) {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// goOn appends n batches of rows with values of a size.
func goOn(t *testing.T, l *Log, n, rows, size int) drivers.End {
	t.Helper()
	bounds, err := l.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end := bounds.End
	for range n {
		b := newBatch(rows, make([]byte, size))
		if err := l.Append(t.Context(), end, b); err != nil {
			t.Fatal(err)
		}
		end = drivers.End{Position: end.Position + int64(rows), Batch: b.ID}
	}
	return end
}

// scrubExcept scrubs all positions below the end but each keep-th.
func scrubExcept(t *testing.T, l *Log, end drivers.End, keep int64) {
	t.Helper()
	var positions []int64
	for p := int64(1); p < end.Position; p++ {
		if p%keep != 0 {
			positions = append(positions, p)
		}
	}
	for i := 0; i < len(positions); i += 2000 {
		if err := l.Scrub(t.Context(), positions[i:min(i+2000, len(positions))]); err != nil {
			t.Fatal(err)
		}
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestDefragmentPacksSparsePages(t *testing.T) {
	l := openLog(t, Options{})
	end := goOn(t, l, 100, 200, 100)
	scrubExcept(t, l, end, 2)
	before, inUse, err := l.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Appends, reads and scrubs go on meanwhile.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int64)
	go func() {
		n := int64(0)
		for ctx.Err() == nil {
			end = goOn(t, l, 1, 1, 1)
			var v [1][]byte
			if err := l.Values(t.Context(), []int64{2}, v[:]); err != nil {
				t.Error(err)
			}
			if end.Position%16 == 0 {
				if err := l.Scrub(t.Context(), []int64{4 * end.Position / 16}); err != nil {
					t.Error(err)
				}
			}
			n++
		}
		done <- n
	}()
	err = l.Defragment(t.Context())
	cancel()
	if n := <-done; n == 0 {
		t.Error("nothing was appended meanwhile")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, inUseAfter, err := l.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Half of the rows are gone, and each page was full at first.
	if after != inUseAfter || after > before*6/10 || inUseAfter > inUse*8/10 {
		t.Errorf("%d bytes, %d in use, became %d and %d", before, inUse, after, inUseAfter)
	}
	if size := fileSize(t, l.opts.Path); size != after {
		t.Errorf("the file has %d bytes and should have %d", size, after)
	}
}

func TestDefragmentLeavesFullPagesAlone(t *testing.T) {
	l := openLog(t, Options{})
	end := goOn(t, l, 100, 200, 100)
	scrubExcept(t, l, end, 2)
	if err := l.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := l.nextRun(t.Context(), 0)
	if err != nil || !l.mayBeSparse(r) {
		t.Fatalf("the first run is %v, %v", r, err)
	}
	gained, written, err := l.writer.rewrite(r)
	if err != nil || written < packBytes {
		t.Fatalf("%d bytes rewritten, %v", written, err)
	}
	if gained*packGain >= written/l.checkpointer.pageSize {
		t.Errorf("rewriting %d bytes again gains %d pages", written, gained)
	}
	if err := l.abandon(); err != nil {
		t.Fatal(err)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	for name, sql := range map[string]string{
		"a hole above the mark":   "DELETE FROM log WHERE position = 8",
		"a row at zero":           "INSERT INTO log VALUES (0, 1, NULL, x'00', x'')",
		"an open end":             "UPDATE log SET batch = NULL WHERE position = 30",
		"a bad closing":           "UPDATE log SET batch = x'01' WHERE position = 20",
		"an id twice":             "UPDATE log SET batch = (SELECT batch FROM log WHERE position = 10) WHERE position = 20",
		"a mark at the end":       "UPDATE head SET scrubbed = 30",
		"no mark":                 "DELETE FROM head",
		"an entry without a meta": "UPDATE log SET meta = x'' WHERE position = 7",
		"a kind too large":        "UPDATE log SET kind = 256 WHERE position = 7",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "log.db")})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			goOn(t, l, 3, 10, 10)
			if err := l.Check(t.Context(), func(f string) { t.Errorf("found in a sound log: %s", f) }); err != nil {
				t.Fatal(err)
			}
			if err := l.writer.conn.exec(sql); err != nil {
				t.Fatal(err)
			}
			var found []string
			if err := l.Check(t.Context(), func(f string) { found = append(found, f) }); err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 {
				t.Errorf("found: %q", found)
			}
		})
	}
}

func TestCheckFindsADamagedPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	l, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	goOn(t, l, 10, 10, 3000)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[len(data)/2 : len(data)/2+8192])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(t.Context(), Options{Path: path, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var found []string
	if err := l.Check(t.Context(), func(f string) { found = append(found, f) }); err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Error("nothing found")
	}
}

func TestCheckGivesWayToCommits(t *testing.T) {
	l := openLog(t, Options{CheckpointBytes: 1024})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	l.checkpointer.patience.Store(&patience{bytes: checkPatience * 1024, end: func() { cancel(errPatience) }})
	goOn(t, l, 1, 1, 100<<10)
	if !errors.Is(context.Cause(ctx), errPatience) {
		t.Error("no patience was lost")
	}
}

// TestNoVacuumBesideCheck: the log's own vacuum does not use up the patience that commits have with a check of the
// pages, and goes on after it.
func TestNoVacuumBesideCheck(t *testing.T) {
	l := openLog(t, Options{CheckpointBytes: 16 << 10, FreePages: 1})
	end := goOn(t, l, 40, 50, 1000)
	scrubExcept(t, l, end, 1000)
	l.checking <- struct{}{} // as who checks does
	l.checkpointer.patience.Store(&patience{bytes: 1, end: func() { t.Error("the check was ended") }})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.giveBack(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside a check free pages are given back: %v", err)
	}
	l.checkpointer.patience.Store(nil)
	<-l.checking
	if err := l.giveBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	total, inUse, err := l.Size(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if total-inUse >= vacuumBytes+total/100 {
		t.Errorf("after the check %d bytes of %d are in use", inUse, total)
	}
}
