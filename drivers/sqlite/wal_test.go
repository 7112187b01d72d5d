package sqlite

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// TestWALIsBounded: readers that never pause, slow ones among them, and writers that do not pause either.
func TestWALIsBounded(t *testing.T) {
	const checkpointBytes = 64 << 10
	for _, background := range []bool{true, false} {
		name := map[bool]string{true: "with Run", false: "without Run"}[background]
		t.Run(name, func(t *testing.T) {
			l := openLog(t, Options{CheckpointBytes: checkpointBytes})
			goOn(t, l, 10, 10, 1000)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			if background {
				wg.Go(func() { _ = l.Run(ctx) })
			}
			read := func(fn func() error) {
				wg.Go(func() {
					for ctx.Err() == nil {
						if err := fn(); err != nil && ctx.Err() == nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for range 2 {
				read(func() error {
					return l.Scan(ctx, drivers.ScanOptions{Values: true}, func([]drivers.Entry) error { return nil })
				})
				read(func() error {
					positions := make([]int64, 200)
					for i := range positions {
						positions[i] = 1 + rand.Int64N(100)
					}
					return l.Values(ctx, positions, make([][]byte, len(positions)))
				})
				read(func() error { return l.Follow(ctx, drivers.End{}, func(*drivers.Batch) error { return nil }) })
			}
			// One that stops in the middle for good.
			wg.Go(func() {
				_ = l.Scan(ctx, drivers.ScanOptions{}, func([]drivers.Entry) error {
					<-ctx.Done()
					return ctx.Err()
				})
			})
			for range 40 {
				goOn(t, l, 20, 10, 1000)
				if size := fileSize(t, l.opts.Path+"-wal"); size > 2*hardLimit*checkpointBytes {
					t.Errorf("the write-ahead log has %d bytes", size)
					break
				}
			}
			cancel()
			wg.Wait()
		})
	}
}

// TestMarkIsKnownBeforeItsHoles: who meets a hole learns from ReadIndex that it is one.
func TestMarkIsKnownBeforeItsHoles(t *testing.T) {
	var once sync.Once
	committed, looked := make(chan struct{}), make(chan struct{})
	armed := false
	l := faulty(t, hook(func(op faultfs.Op) faultfs.Verdict {
		if op.Kind == faultfs.Committed && armed {
			once.Do(func() {
				close(committed)
				<-looked
			})
		}
		return faultfs.Verdict{}
	}), Options{})
	end := goOn(t, l, 3, 3, 10)
	first := end
	goOn(t, l, 3, 3, 10)
	armed = true
	scrubbed := make(chan error)
	go func() { scrubbed <- l.Scrub(t.Context(), []int64{first.Position + 1}) }()
	<-committed
	err := l.Follow(t.Context(), first, func(*drivers.Batch) error { return errors.New("a batch") })
	if !errors.Is(err, drivers.ErrScrubbed) {
		t.Errorf("follow: %v", err)
	}
	if b, err := l.ReadIndex(t.Context()); err != nil || b.Scrubbed != first.Position+1 {
		t.Errorf("bounds of %v, %v", b, err)
	}
	close(looked)
	if err := <-scrubbed; err != nil {
		t.Error(err)
	}
}

// TestWALIsBoundedUnderScrubs: a scrub of rows here and there changes a page for each of them.
func TestWALIsBoundedUnderScrubs(t *testing.T) {
	const checkpointBytes = 64 << 10
	l := openLog(t, Options{CheckpointBytes: checkpointBytes})
	end := goOn(t, l, 20, 1000, 100)
	if err := l.checkpointer.checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := fileSize(t, l.opts.Path+"-wal") // as the appends have left it
	var positions []int64
	for p := int64(1); p < end.Position; p += 10 {
		positions = append(positions, p)
	}
	for part := range slices.Chunk(positions, 50) {
		if err := l.Scrub(t.Context(), part); err != nil {
			t.Fatal(err)
		}
		if size := fileSize(t, l.opts.Path+"-wal"); size > max(before, (hardLimit+2)*checkpointBytes) {
			t.Fatalf("the write-ahead log has %d bytes", size)
		}
	}
}

// TestWriterWaitsForReaders: SQLite lets a reader take the writer's lock for a moment. An append waits for that.
func TestWriterWaitsForReaders(t *testing.T) {
	l := openLog(t, Options{})
	end := goOn(t, l, 1, 1, 100)
	c, err := connect(connOptions{path: l.opts.Path, cache: 64 << 10, vfs: l.opts.vfs})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Append(t.Context(), end, newBatch(1, nil)) }()
	select {
	case err := <-done:
		t.Errorf("an append while the lock is taken: %v", err)
		done <- nil
	case <-time.After(20 * time.Millisecond):
	}
	if err := c.exec("ROLLBACK"); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("an append that has waited: %v", err)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}
