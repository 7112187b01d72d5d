package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// fake is a target in memory. Its hooks, if they are set, fail what they are named for, or make it wait.
type fake struct {
	mu    sync.Mutex
	files map[string][]byte

	put, open, list, remove func(context.Context) error
	// flip alters what is stored.
	flip bool
}

var _ Target = &fake{}

func (f *fake) String() string { return "fake/" }

func ask(ctx context.Context, hook func(context.Context) error) error {
	if hook == nil {
		return nil
	}
	return hook(ctx)
}

func (f *fake) Put(ctx context.Context, b Backup, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err == nil {
		err = ask(ctx, f.put)
	}
	if err == nil && int64(len(data)) != b.Size {
		err = ErrShort
	}
	if err != nil {
		return err
	}
	if f.flip {
		data[len(data)/2] ^= 1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[string][]byte{}
	}
	f.files[b.Name()] = data
	return nil
}

func (f *fake) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := ask(ctx, f.open); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	data, ok := f.files[name]
	if !ok {
		return nil, errors.New("it is not there")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (f *fake) List(ctx context.Context) (all []Backup, err error) {
	if err := ask(ctx, f.list); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, data := range f.files {
		if b, ok := Parse(name); ok {
			b.Size = int64(len(data))
			all = append(all, b)
		}
	}
	return all, nil
}

func (f *fake) Remove(ctx context.Context, name string) error {
	if err := ask(ctx, f.remove); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.files, name)
	return nil
}

func (f *fake) Sweep(context.Context, uint64) error { return nil }

// has gives the names, in order.
func (f *fake) has() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.files))
}

// with puts backups of a cluster of these times there.
func (f *fake) with(cluster uint64, times ...string) *fake {
	if f.files == nil {
		f.files = map[string][]byte{}
	}
	for _, text := range times {
		f.files[Backup{Cluster: cluster, Time: at(text), Revision: 1}.Name()] = []byte("old")
	}
	return f
}

// hangs waits until the context ends, and deaf for ever, or until the test ends.
func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func snapshotOf(text string, revision int64) *Snapshot {
	return &Snapshot{ReadCloser: io.NopCloser(bytes.NewReader([]byte(text))), Size: int64(len(text)), Revision: revision}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func schedule(t *testing.T, text string) Schedule {
	t.Helper()
	s, err := ParseSchedule(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fixed(text string) func() time.Time { return func() time.Time { return at(text) } }
