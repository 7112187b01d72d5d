package drivertest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// fixture is a log under test and what must be in it.
type fixture struct {
	*testing.T
	h     Harness
	place string
	l     Log
	rand  *rand.Rand
	want  model
}

func newFixture(t *testing.T, h Harness) *fixture {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	f := &fixture{T: t, h: h, place: h.New(t), rand: rand.New(rand.NewPCG(seed, 0))}
	f.l = f.open()
	t.Cleanup(func() {
		if err := f.l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

func (f *fixture) open() Log {
	f.Helper()
	l, err := f.h.Open(f.place)
	if err != nil {
		f.Fatalf("open: %v", err)
	}
	return l
}

func (f *fixture) reopen() {
	f.Helper()
	if err := f.l.Close(); err != nil {
		f.Fatalf("close: %v", err)
	}
	f.l = f.open()
}

// finish examines the log, also after it was closed and opened again.
func (f *fixture) finish() {
	f.Helper()
	if f.Failed() {
		return
	}
	f.examine()
	f.reopen()
	f.compare()
}

// examine compares everything that can be read with what must be there, and lets the log check itself.
func (f *fixture) examine() {
	f.Helper()
	f.compare()
	f.want.compareScan(f, drivers.ScanOptions{})
	f.want.compareValues(f)
	if after := f.want.firstEnd(); after.Position < f.want.end().Position {
		f.want.compareFollow(f, after)
	}
	if c, ok := f.l.(drivers.Checker); ok {
		if err := c.Check(f.Context(), func(finding string) { f.Errorf("check: %s", finding) }); err != nil {
			f.Errorf("check: %v", err)
		}
	}
}

// compare compares the log's extent and content with what must be there.
func (f *fixture) compare() {
	f.Helper()
	if got := f.bounds(); got != f.want.bounds() {
		f.Fatalf("the bounds are %v, want %v", got, f.want.bounds())
	}
	f.want.compareScan(f, drivers.ScanOptions{Values: true})
}

func (f *fixture) bounds() drivers.Bounds {
	f.Helper()
	b, err := f.l.ReadIndex(f.Context())
	if err != nil {
		f.Fatalf("read index: %v", err)
	}
	return b
}

// append appends the batch where the log must end.
func (f *fixture) append(b *drivers.Batch) drivers.End {
	f.Helper()
	if err := f.l.Append(f.Context(), f.want.end(), b); err != nil {
		f.Fatalf("append: %v", err)
	}
	f.want.append(b)
	return f.want.end()
}

// grow appends n batches of up to rows entries.
func (f *fixture) grow(n, rows int) {
	f.Helper()
	for range n {
		f.append(f.batch(1+f.rand.IntN(rows), 40))
	}
}

func (f *fixture) batch(rows, size int) *drivers.Batch { return newBatch(f.rand, rows, size) }

func (f *fixture) scrub(positions ...int64) {
	f.Helper()
	if err := f.l.Scrub(f.Context(), positions); err != nil {
		f.Fatalf("scrub: %v", err)
	}
	f.want.scrub(positions)
}

// wantError fails unless err is the one wanted.
func (f *fixture) wantError(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// newBatch makes a batch whose content follows from its id and size alone.
func newBatch(r *rand.Rand, rows, size int) *drivers.Batch {
	var id drivers.BatchID
	binary.BigEndian.PutUint64(id[:], r.Uint64())
	binary.BigEndian.PutUint32(id[8:], uint32(rows))
	binary.BigEndian.PutUint32(id[12:], uint32(size))
	return batchOf(id)
}

// batchOf makes the batch of an id.
func batchOf(id drivers.BatchID) *drivers.Batch {
	r := rand.New(rand.NewPCG(binary.BigEndian.Uint64(id[:]), 1))
	rows, size := int(binary.BigEndian.Uint32(id[8:])), int(binary.BigEndian.Uint32(id[12:]))
	b := &drivers.Batch{ID: id, Time: time.UnixMilli(r.Int64N(1 << 42)), Server: r.Uint64()}
	b.Entries = make([]drivers.Entry, rows)
	for i := range b.Entries {
		b.Entries[i] = drivers.Entry{Kind: uint8(r.Uint32()), Meta: randomBytes(r, 1+r.IntN(30)), Value: randomBytes(r, r.IntN(size+1))}
	}
	return b
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return b[:n]
}

func cloneBatch(b *drivers.Batch) *drivers.Batch {
	c := *b
	c.Entries = slices.Clone(b.Entries)
	for i := range c.Entries {
		c.Entries[i].Meta, c.Entries[i].Value = bytes.Clone(c.Entries[i].Meta), bytes.Clone(c.Entries[i].Value)
	}
	return &c
}

// model is what a log must hold: batch by batch, with scrubbed entries marked by a nil Meta.
type model struct {
	batches  []*drivers.Batch
	firsts   []int64 // position of each batch's first entry
	scrubbed int64
}

func (m *model) append(b *drivers.Batch) {
	m.firsts = append(m.firsts, m.end().Position+1)
	m.batches = append(m.batches, cloneBatch(b))
}

func (m *model) end() drivers.End { return m.endOf(len(m.batches)) }

// endOf is the end of the log after its first n batches.
func (m *model) endOf(n int) drivers.End {
	if n == 0 {
		return drivers.End{}
	}
	b := m.batches[n-1]
	return drivers.End{Position: m.firsts[n-1] + int64(len(b.Entries)) - 1, Batch: b.ID}
}

func (m *model) bounds() drivers.Bounds { return drivers.Bounds{End: m.end(), Scrubbed: m.scrubbed} }

// firstEnd is the first end that can be followed from.
func (m *model) firstEnd() drivers.End {
	for n := range m.batches {
		if e := m.endOf(n); e.Position > m.scrubbed || m.scrubbed == 0 {
			return e
		}
	}
	return m.end()
}

func (m *model) at(position int64) *drivers.Entry {
	n, ok := slices.BinarySearch(m.firsts, position)
	if !ok {
		n--
	}
	return &m.batches[n].Entries[position-m.firsts[n]]
}

// closedBy gives the batch that the position closes, if it closes one.
func (m *model) closedBy(position int64) (b *drivers.Batch, closes bool) {
	n, ok := slices.BinarySearch(m.firsts, position)
	if !ok {
		n--
	}
	b = m.batches[n]
	return b, position == m.endOf(n+1).Position
}

func (m *model) scrub(positions []int64) {
	for _, p := range positions {
		m.at(p).Meta = nil
		m.scrubbed = max(m.scrubbed, p)
	}
}

// entries gives what a scan must give.
func (m *model) entries(opts drivers.ScanOptions) []drivers.Entry {
	var out []drivers.Entry
	upTo := m.end().Position
	if opts.UpTo > 0 {
		upTo = min(upTo, opts.UpTo)
	}
	for p := min(max(opts.After, 0), upTo) + 1; p <= upTo; p++ {
		e := *m.at(p)
		if e.Meta == nil {
			continue
		}
		e.Position = p
		if !opts.Values {
			e.Value = nil
		}
		if b, closes := m.closedBy(p); closes && opts.Times {
			e.Written = b.Time.UnixMilli()
		}
		out = append(out, e)
	}
	return out
}

func (m *model) compareScan(f *fixture, opts drivers.ScanOptions) {
	f.Helper()
	got, err := scan(f.Context(), f.l, opts)
	if err != nil {
		f.Fatalf("scan %+v: %v", opts, err)
	}
	if err := equalEntries(got, m.entries(opts)); err != nil {
		f.Errorf("scan %+v: %v", opts, err)
	}
}

func (m *model) compareValues(f *fixture) {
	f.Helper()
	want := m.entries(drivers.ScanOptions{Values: true})
	positions := make([]int64, len(want))
	for i, j := range f.rand.Perm(len(want)) {
		positions[i] = want[j].Position
	}
	values := make([][]byte, len(positions))
	if err := f.l.Values(f.Context(), positions, values); err != nil {
		f.Fatalf("values: %v", err)
	}
	for i, p := range positions {
		if !bytes.Equal(values[i], m.at(p).Value) {
			f.Errorf("the value at %d is another one", p)
		}
	}
}

func (m *model) compareFollow(f *fixture, after drivers.End) {
	f.Helper()
	if err := m.followTo(f.Context(), f.l, after, len(m.batches)); err != nil {
		f.Errorf("follow after %d: %v", after.Position, err)
	}
}

// followTo follows the log after an end up to the end of the first n batches.
func (m *model) followTo(ctx context.Context, l drivers.Log, after drivers.End, n int) error {
	next := slices.IndexFunc(m.firsts, func(p int64) bool { return p == after.Position+1 })
	err := l.Follow(ctx, after, func(b *drivers.Batch) error {
		if err := equalBatch(b, m.batches[next], m.firsts[next]); err != nil {
			return err
		}
		if next++; next == n {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a callback's loop.
var errEnough = errors.New("enough")

func scan(ctx context.Context, l drivers.Log, opts drivers.ScanOptions) ([]drivers.Entry, error) {
	var got []drivers.Entry
	err := l.Scan(ctx, opts, func(e []drivers.Entry) error {
		got = append(got, e...) // Meta and Value are to be kept
		return nil
	})
	return got, err
}

func equalBatch(got, want *drivers.Batch, first int64) error {
	if got.ID != want.ID || !got.Time.Equal(want.Time.Truncate(time.Millisecond)) || got.Server != want.Server {
		return fmt.Errorf("batch %x of %v by %x at %d, want %x of %v by %x", got.ID, got.Time, got.Server, first, want.ID, want.Time, want.Server)
	}
	entries := slices.Clone(want.Entries)
	for i := range entries {
		entries[i].Position = first + int64(i)
	}
	return equalEntries(got.Entries, entries)
}

func equalEntries(got, want []drivers.Entry) error {
	for i := range min(len(got), len(want)) {
		if g, w := &got[i], &want[i]; g.Position != w.Position || g.Kind != w.Kind || g.Written != w.Written || !bytes.Equal(g.Meta, w.Meta) || !bytes.Equal(g.Value, w.Value) {
			return fmt.Errorf("entry %d is (%d, kind %d, meta of %d, value of %d bytes, written %d), want (%d, kind %d, meta of %d, value of %d bytes, written %d)",
				i, g.Position, g.Kind, len(g.Meta), len(g.Value), g.Written, w.Position, w.Kind, len(w.Meta), len(w.Value), w.Written)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d entries, want %d", len(got), len(want))
	}
	return nil
}
