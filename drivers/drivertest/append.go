package drivertest

import (
	"bytes"
	"context"
	"math"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

func testEmpty(f *fixture) {
	f.wantError("scrub on an empty log", nilIsBad(f.l.Scrub(f.Context(), []int64{1})), errRefused)
	if err := f.l.Scrub(f.Context(), nil); err != nil {
		f.Errorf("scrub of nothing: %v", err)
	}
	f.wantError("values of an empty log", f.l.Values(f.Context(), []int64{1}, make([][]byte, 1)), drivers.ErrScrubbed)
	if err := f.l.Values(f.Context(), nil, nil); err != nil {
		f.Errorf("values of nothing: %v", err)
	}
	f.wantError("follow beyond the end", f.l.Follow(f.Context(), drivers.End{Position: 1}, noBatch), drivers.ErrDiverged)
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	f.wantError("follow an empty log", f.l.Follow(ctx, drivers.End{}, noBatch), context.Canceled)
}

func testRoundTrip(f *fixture) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	large := randomBytes(f.rand, 4<<20)
	entries := []drivers.Entry{
		{Kind: 0, Meta: []byte{0}, Value: nil},
		{Kind: 255, Meta: []byte{0xff}, Value: []byte{}},
		{Kind: 1, Meta: all, Value: all},
		{Kind: 2, Meta: []byte("'; DROP TABLE log; --\x00"), Value: []byte{0}},
		{Kind: 3, Meta: bytes.Repeat(all, 256), Value: []byte("a meta of 64 KiB")},
		{Kind: 4, Meta: []byte("m"), Value: large},
		{Kind: 5, Meta: []byte("m"), Value: make([]byte, 4<<20)},
		{Kind: 6, Meta: []byte{0xc3, 0x28}, Value: []byte{0xc3, 0x28}}, // not UTF-8
	}
	few := entries[:4] // without the large ones
	ids := []drivers.BatchID{{1}, {15: 1}, {0xff, 15: 0xff}, {0, 1}}
	for i, at := range []time.Time{time.UnixMilli(0), time.Now(), time.UnixMilli(1), time.Unix(1<<33, 999_999_999)} {
		b := &drivers.Batch{ID: ids[i], Time: at, Server: []uint64{0, 1, math.MaxInt64 + 1, math.MaxUint64}[i], Entries: few}
		f.append(b)
	}
	// Each of them alone too, so that each is a batch's last once.
	for i := range entries {
		f.append(&drivers.Batch{ID: drivers.BatchID{2, byte(i)}, Time: time.Now(), Entries: entries[i : i+1]})
	}
	f.append(&drivers.Batch{ID: drivers.BatchID{3}, Time: time.Now(), Entries: entries})
	for size := 0; size < 5000; size += 97 {
		f.append(f.batch(1, size))
	}
}

func testHugeBatch(f *fixture) {
	f.grow(2, 3)
	f.append(f.batch(200_000, 20))
	f.grow(2, 3)
	f.append(f.batch(10, 1<<20))
}

func testBadBatch(f *fixture) {
	f.grow(2, 3)
	bad := f.batch(3, 3)
	bad.Entries[1].Meta = []byte{}
	for what, b := range map[string]*drivers.Batch{
		"an empty batch":          {ID: drivers.BatchID{1}, Time: time.Now()},
		"an entry without a meta": bad,
	} {
		err := f.l.Append(f.Context(), f.want.end(), b)
		f.wantError(what, nilIsBad(err), errRefused)
	}
}

func testConflict(f *fixture) {
	f.conflicts(drivers.End{Position: 1}, drivers.End{Batch: drivers.BatchID{1}}, drivers.End{Position: -1})
	for range 5 {
		f.grow(1, 4)
		end := f.want.end()
		other := end
		other.Batch[15]++
		f.conflicts(
			drivers.End{},
			other,
			drivers.End{Position: end.Position},
			drivers.End{Position: end.Position + 1, Batch: end.Batch},
			drivers.End{Position: end.Position - 1, Batch: end.Batch},
			f.want.endOf(len(f.want.batches)-1),
			drivers.End{Position: math.MaxInt64, Batch: end.Batch},
		)
	}
	f.reopen()
	f.conflicts(f.want.endOf(len(f.want.batches) - 1))
}

// conflicts tries to append after ends that are not the log's.
func (f *fixture) conflicts(ends ...drivers.End) {
	f.Helper()
	for _, end := range ends {
		f.wantError("append after another end", f.l.Append(f.Context(), end, f.batch(2, 10)), drivers.ErrConflict)
	}
}

// testConflictOverHoles: where scrubbing has left room a primary key alone
// would let a stale append in.
func testConflictOverHoles(f *fixture) {
	f.grow(1, 4)
	stale := f.want.end()
	f.append(f.batch(4, 10))
	p := stale.Position
	f.scrub(p+1, p+2, p+3)
	f.wantError("append into holes", f.l.Append(f.Context(), stale, f.batch(2, 10)), drivers.ErrConflict)
	f.scrub(p)
	f.wantError("append into holes", f.l.Append(f.Context(), stale, f.batch(2, 10)), drivers.ErrConflict)
}

func testBytesOfTheCaller(f *fixture) {
	b := f.batch(5, 100)
	for i := range b.Entries {
		b.Entries[i].Position = 77 // ignored
	}
	kept := cloneBatch(b)
	f.append(b)
	for i := range b.Entries {
		e, k := &b.Entries[i], &kept.Entries[i]
		if e.Position != 77 || e.Kind != k.Kind || !bytes.Equal(e.Meta, k.Meta) || !bytes.Equal(e.Value, k.Value) {
			f.Errorf("append has changed entry %d", i)
		}
		clear(e.Meta)
		clear(e.Value)
	}
	// What was read is the reader's to change.
	for _, opts := range []drivers.ScanOptions{{}, {Values: true}} {
		got, err := scan(f.Context(), f.l, opts)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range got {
			clear(e.Meta)
			clear(e.Value)
		}
	}
	values := make([][]byte, 1)
	if err := f.l.Values(f.Context(), []int64{1}, values); err != nil {
		f.Fatal(err)
	}
	clear(values[0])
	err := f.l.Follow(f.Context(), drivers.End{}, func(b *drivers.Batch) error {
		for i := range b.Entries {
			clear(b.Entries[i].Meta)
			clear(b.Entries[i].Value)
		}
		return errEnough
	})
	f.wantError("follow", err, errEnough)
}

func testDoubt(f *fixture, d Doubt) {
	f.grow(3, 4)
	for range 3 {
		after, b := f.want.end(), f.batch(3, 100)
		f.h.Doubt(f.T, f.l, d)
		f.wantError("append", f.l.Append(f.Context(), after, b), drivers.ErrUncertain)
		for range 2 {
			f.wantError("append before ReadIndex", f.l.Append(f.Context(), after, f.batch(1, 1)), drivers.ErrUnresolved)
			f.wantError("scrub before ReadIndex", f.l.Scrub(f.Context(), []int64{1}), drivers.ErrUnresolved)
		}
		if err := f.l.Values(f.Context(), []int64{1}, make([][]byte, 1)); err != nil {
			f.Errorf("values before ReadIndex: %v", err)
		}
		if d.Done {
			f.want.append(b)
		}
		if got := f.bounds(); got != f.want.bounds() {
			f.Fatalf("the bounds are %v, want %v", got, f.want.bounds())
		}
		if d.Done {
			f.wantError("append where it was", f.l.Append(f.Context(), after, f.batch(1, 1)), drivers.ErrConflict)
		}
		f.examine()
		f.grow(2, 4)
	}
	f.scrub(1)
}

func testDoubtfulScrub(f *fixture, d Doubt) {
	f.grow(5, 4)
	f.h.Doubt(f.T, f.l, d)
	f.wantError("scrub", f.l.Scrub(f.Context(), []int64{1, 3}), drivers.ErrUncertain)
	f.wantError("append before ReadIndex", f.l.Append(f.Context(), f.want.end(), f.batch(1, 1)), drivers.ErrUnresolved)
	if d.Done {
		f.want.scrub([]int64{1, 3})
	}
	f.examine()
	f.scrub(1, 2, 3)
	f.grow(2, 4)
}

// belated is a context that has ended, and of which that is seen only when a later question has been answered, and so an earlier one too.
type belated struct {
	context.Context
	f *fixture
}

func (b belated) Done() <-chan struct{} {
	if _, err := b.f.l.ReadIndex(b.f.Context()); err != nil {
		b.f.Errorf("read index: %v", err)
	}
	return b.Context.Done()
}

func testEndedContext(f *fixture) {
	f.grow(3, 4)
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	for range 30 { // a driver that has both the answer and the context's end before it chooses by chance
		_, err := f.l.ReadIndex(belated{ctx, f})
		f.wantError("read index", err, context.Canceled)
	}
	f.wantError("append", f.l.Append(ctx, f.want.end(), f.batch(1, 1)), context.Canceled)
	f.wantError("scan", f.l.Scan(ctx, drivers.ScanOptions{}, noEntries), context.Canceled)
	f.wantError("follow", f.l.Follow(ctx, drivers.End{}, noBatch), context.Canceled)
	f.wantError("values", f.l.Values(ctx, []int64{1}, make([][]byte, 1)), context.Canceled)
	f.wantError("scrub", f.l.Scrub(ctx, []int64{1}), context.Canceled)
}

func testClosed(f *fixture) {
	f.grow(3, 4)
	following := make(chan error)
	begun := make(chan struct{}, len(f.want.batches))
	go func() {
		following <- f.l.Follow(f.Context(), drivers.End{}, func(*drivers.Batch) error {
			begun <- struct{}{}
			return nil
		})
	}()
	for range f.want.batches {
		<-begun
	}
	for range 2 {
		if err := f.l.Close(); err != nil {
			f.Fatalf("close: %v", err)
		}
	}
	f.wantError("follow", <-following, drivers.ErrClosed)
	_, err := f.l.ReadIndex(f.Context())
	f.wantError("read index", err, drivers.ErrClosed)
	f.wantError("append", f.l.Append(f.Context(), f.want.end(), f.batch(1, 1)), drivers.ErrClosed)
	f.wantError("scan", f.l.Scan(f.Context(), drivers.ScanOptions{}, noEntries), drivers.ErrClosed)
	f.wantError("follow", f.l.Follow(f.Context(), drivers.End{}, noBatch), drivers.ErrClosed)
	f.wantError("values", f.l.Values(f.Context(), []int64{1}, make([][]byte, 1)), drivers.ErrClosed)
	f.wantError("scrub", f.l.Scrub(f.Context(), []int64{1}), drivers.ErrClosed)
	f.l = f.open()
}

func testSecondOpen(f *fixture) {
	f.grow(3, 4)
	second, err := f.h.Open(f.place)
	if !f.h.Shared {
		f.wantError("a second open", err, drivers.ErrLocked)
		f.grow(3, 4)
		return
	}
	if err != nil {
		f.Fatalf("a second open: %v", err)
	}
	defer second.Close()
	for range 5 {
		after, b := f.want.end(), f.batch(3, 10)
		if err := second.Append(f.Context(), after, b); err != nil {
			f.Fatalf("append: %v", err)
		}
		f.want.append(b)
		if got := f.bounds(); got != f.want.bounds() {
			f.Fatalf("the bounds are %v, want %v", got, f.want.bounds())
		}
		f.wantError("append", f.l.Append(f.Context(), after, f.batch(1, 1)), drivers.ErrConflict)
		f.grow(1, 4)
		f.wantError("append", second.Append(f.Context(), after, f.batch(1, 1)), drivers.ErrConflict)
	}
}
