package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

func newBatch(n int, value []byte) *drivers.Batch {
	b := &drivers.Batch{Time: time.Now(), Server: 42}
	rand.Read(b.ID[:])
	for i := range n {
		b.Entries = append(b.Entries, drivers.Entry{Kind: uint8(i), Meta: fmt.Appendf(nil, "meta %d", i), Value: value})
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	opts := Options{Path: filepath.Join(t.TempDir(), "log ?#%41.db")}
	l, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), opts); !errors.Is(err, drivers.ErrLocked) {
		t.Fatalf("a second Open: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- l.Run(ctx) }()
	end := drivers.End{}
	for i := range 300 {
		b := newBatch(i%50+1, make([]byte, i*13))
		if err := l.Append(t.Context(), end, b); err != nil {
			t.Fatal(err)
		}
		end = drivers.End{Position: end.Position + int64(len(b.Entries)), Batch: b.ID}
	}
	var pos []int64
	for p := int64(2); p < end.Position; p += 3 {
		pos = append(pos, p)
	}
	if err := l.Scrub(t.Context(), pos); err != nil {
		t.Fatal(err)
	}
	total, inUse, err := l.Size(t.Context())
	t.Log(end, total, inUse, err)
	v := make([][]byte, 3)
	if err := l.Values(t.Context(), []int64{end.Position, 1, 3}, v); err != nil {
		t.Fatal(err)
	}
	t.Log(len(v[0]), len(v[1]), len(v[2]))
	if err := l.Values(t.Context(), []int64{end.Position, 1, 2}, v); !errors.Is(err, drivers.ErrScrubbed) {
		t.Fatal(err)
	}
	cancel()
	<-ran
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, ro := range []bool{true, false} {
		opts.ReadOnly = ro
		l, err = Open(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.ReadIndex(t.Context())
		if err != nil || b.End != end {
			t.Fatal(b, err)
		}
		n := 0
		if err := l.Scan(t.Context(), drivers.ScanOptions{}, func(e []drivers.Entry) error { n += len(e); return nil }); err != nil {
			t.Fatal(err)
		}
		if n != int(end.Position)-len(pos) {
			t.Fatal(n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l, err = Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
}
