package sqlite

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers/drivertest"
	"github.com/keelson-io/keelson/drivers/sqlite/internal/faultfs"
)

// running is a log with its work in the background.
type running struct {
	*Log
	cancel context.CancelFunc
	ended  chan struct{}
	once   sync.Once
}

func runLog(l *Log) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Log: l, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		_ = l.Run(ctx)
	}()
	return r
}

func (r *running) Close() error {
	r.once.Do(func() {
		r.cancel()
		<-r.ended
	})
	return r.Log.Close()
}

func TestContract(t *testing.T) {
	for name, opts := range map[string]Options{
		"Default": {},
		// Everything in the background happens all the time.
		"Small": {PageSize: 512, CheckpointBytes: 16 << 10, Readers: 2, WriterCache: 16 << 10, ReaderCache: 16 << 10, FreePages: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if err := faultfs.Register(); err != nil {
				t.Fatal(err)
			}
			opts.vfs = faultfs.Name
			drivertest.Run(t, drivertest.Harness{
				Durable: true,
				New:     func(t *testing.T) string { return filepath.Join(t.TempDir(), "log.db") },
				Open: func(place string) (drivertest.Log, error) {
					opts.Path = place
					l, err := Open(context.Background(), opts)
					if err != nil {
						return nil, err
					}
					return runLog(l), nil
				},
				Doubt: func(t *testing.T, l drivertest.Log, d drivertest.Doubt) {
					h := &doubt{done: d.Done}
					setHook(t, h)
					l.(*running).checkpointer.openWAL = h.openWAL(l.(*running).Log)
				},
			})
		})
	}
}

// setHook sets the hook until the test ends.
func setHook(t *testing.T, h faultfs.Hook) {
	t.Helper()
	faultfs.Set(h)
	t.Cleanup(func() { faultfs.Set(nil) })
}

// doubt makes the next COMMIT fail, before or after it is in the write-ahead
// log, and then the first try to find out what became of it.
type doubt struct {
	mu   sync.Mutex
	done bool
	n    int
}

func (d *doubt) Before(op faultfs.Op) faultfs.Verdict {
	d.mu.Lock()
	defer d.mu.Unlock()
	wal := strings.HasSuffix(op.Path, "-wal")
	switch {
	case d.n == 0 && d.done && op.Kind == faultfs.Committed,
		d.n == 0 && !d.done && op.Kind == faultfs.Write && wal: // none but the writer writes there
		d.n++
		return faultfs.Verdict{Errno: syscall.EIO}
	}
	return faultfs.Verdict{}
}

func (d *doubt) Synced(string) {}

// openWAL fails once if it comes second.
func (d *doubt) openWAL(l *Log) func() (walFile, error) {
	return func() (walFile, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.n++; d.n == 2 {
			return nil, syscall.EIO
		}
		return l.openWAL()
	}
}
