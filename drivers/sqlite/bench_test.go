package sqlite

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// The benchmarks behind the defaults; DESIGN.md has the table. Bytes are
// write_bytes of /proc/self/io: what the process made dirty and the kernel writes,
// in pages of 4 KiB, checkpoints included.
//
//	go test ./drivers/sqlite -run '^$' -bench . -benchtime 50000x

func writeBytes(b *testing.B) int64 {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		var n int64
		if _, err := fmt.Sscanf(s.Text(), "write_bytes: %d", &n); err == nil {
			return n
		}
	}
	b.Fatal("no write_bytes in /proc/self/io")
	return 0
}

func cpuTime(b *testing.B) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return float64(r.Utime.Nano() + r.Stime.Nano())
}

func benchLog(b *testing.B, opts Options) *Log {
	opts.Path = filepath.Join(b.TempDir(), "log.db")
	l, err := Open(b.Context(), opts)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-done
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// load appends batches of rows; a row's value is random, its meta has about the size of a Kubernetes key's.
type load struct {
	log   *Log
	end   drivers.End
	batch drivers.Batch
}

func newLoad(l *Log, rows, value int) *load {
	w := &load{log: l}
	for range rows {
		e := drivers.Entry{Kind: 1, Meta: make([]byte, 60), Value: make([]byte, value)}
		rand.Read(e.Meta)
		rand.Read(e.Value)
		w.batch.Entries = append(w.batch.Entries, e)
	}
	return w
}

func (w *load) append(b *testing.B) {
	rand.Read(w.batch.ID[:])
	if err := w.log.Append(b.Context(), w.end, &w.batch); err != nil {
		b.Fatal(err)
	}
	w.end = drivers.End{Position: w.end.Position + int64(len(w.batch.Entries)), Batch: w.batch.ID}
}

func BenchmarkAppend(b *testing.B) {
	for _, page := range []int{1024, 2048, 4096, 8192} {
		for _, c := range []struct{ rows, value int }{{1, 1024}, {50, 1024}, {100, 1024}, {100, 256}, {100, 4096}, {300, 1024}} {
			b.Run(fmt.Sprintf("page=%d/rows=%d/value=%d", page, c.rows, c.value), func(b *testing.B) {
				w := newLoad(benchLog(b, Options{PageSize: page}), c.rows, c.value)
				w.append(b)
				bytes, cpu, rows := writeBytes(b), cpuTime(b), 0
				b.ResetTimer()
				for rows < b.N {
					w.append(b)
					rows += c.rows
				}
				if err := w.log.checkpointer.checkpoint(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(writeBytes(b)-bytes)/float64(rows), "written-B/row")
				b.ReportMetric((cpuTime(b)-cpu)/float64(rows), "cpu-ns/row")
			})
		}
	}
}

// BenchmarkAppendAll puts batches of one row into transactions of many.
func BenchmarkAppendAll(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batches=%d", n), func(b *testing.B) {
			w := newLoad(benchLog(b, Options{}), 1, 1024)
			batches := make([]Marked, n)
			bytes, cpu, rows := writeBytes(b), cpuTime(b), 0
			b.ResetTimer()
			for rows < b.N {
				for i := range batches {
					one := w.batch
					rand.Read(one.ID[:])
					batches[i] = Marked{Batch: &one, Mark: markOf(&one)}
				}
				if err := w.log.AppendAll(b.Context(), w.end, batches); err != nil {
					b.Fatal(err)
				}
				w.end = drivers.End{Position: w.end.Position + int64(n), Batch: batches[n-1].Batch.ID}
				rows += n
			}
			if err := w.log.checkpointer.checkpoint(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(writeBytes(b)-bytes)/float64(rows), "written-B/row")
			b.ReportMetric((cpuTime(b)-cpu)/float64(rows), "cpu-ns/row")
		})
	}
}

// BenchmarkChurn is what a cluster does for months: a fixed set of keys is
// updated at random, and the superseded rows are scrubbed from time to time.
func BenchmarkChurn(b *testing.B) {
	const keys, rows, value, scrubEvery = 20000, 100, 1024, 20000
	for _, page := range []int{1024, 4096, 8192} {
		b.Run(fmt.Sprintf("page=%d", page), func(b *testing.B) {
			w := newLoad(benchLog(b, Options{PageSize: page}), rows, value)
			latest, dead := make([]int64, keys), []int64(nil)
			next := 0
			round := func() {
				w.append(b)
				for i := range int64(rows) {
					k := next
					if next < keys {
						next++
					} else {
						k = mathrand.IntN(keys)
					}
					if latest[k] > 0 {
						dead = append(dead, latest[k])
					}
					latest[k] = w.end.Position - rows + 1 + i
				}
				if len(dead) >= scrubEvery {
					scrubAll(b, w.log, dead)
					dead = dead[:0]
				}
			}
			for range 5 * keys / rows {
				round()
			}
			bytes, cpu, n := writeBytes(b), cpuTime(b), 0
			b.ResetTimer()
			for n < b.N {
				round()
				n += rows
			}
			b.ReportMetric(float64(writeBytes(b)-bytes)/float64(n), "written-B/row")
			b.ReportMetric((cpuTime(b)-cpu)/float64(n), "cpu-ns/row")
			total, inUse, err := w.log.Size(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(total)/(keys*value), "file/live")
			b.ReportMetric(float64(inUse)/(keys*value), "used/live")
		})
	}
}

func scrubAll(b *testing.B, l *Log, dead []int64) {
	slices.Sort(dead)
	for i := 0; i < len(dead); i += 2000 {
		if err := l.Scrub(b.Context(), dead[i:min(i+2000, len(dead))]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	const rows = 1_000_000
	for _, page := range []int{1024, 4096} {
		l := benchLog(b, Options{PageSize: page})
		w := newLoad(l, 1000, 128)
		for w.end.Position < rows {
			w.append(b)
		}
		b.Run(fmt.Sprintf("page=%d/rows=1000000/value=128", page), func(b *testing.B) {
			for range b.N {
				n := 0
				err := l.Scan(b.Context(), drivers.ScanOptions{}, func(e []drivers.Entry) error { n += len(e); return nil })
				if err != nil || n != rows {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func BenchmarkValues(b *testing.B) {
	const rows = 100_000
	for _, page := range []int{1024, 4096} {
		for _, value := range []int{1024, 8192} {
			l := benchLog(b, Options{PageSize: page})
			w := newLoad(l, 1000, value)
			for w.end.Position < rows {
				w.append(b)
			}
			for _, n := range []int{1, 500, 10000} {
				b.Run(fmt.Sprintf("page=%d/value=%d/positions=%d", page, value, n), func(b *testing.B) {
					positions, dst := make([]int64, n), make([][]byte, n)
					for done := 0; done < b.N; done += n {
						start := mathrand.Int64N(rows-int64(n)) + 1
						for i := range positions {
							positions[i] = start + int64(i)
						}
						if err := l.Values(b.Context(), positions, dst); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
