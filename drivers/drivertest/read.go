package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/keelson-io/keelson/drivers"
)

// errRefused is any error but those which say more than that a call was refused.
var errRefused = errors.New("refused")

// nilIsBad makes errRefused of an error that says no more than that.
func nilIsBad(err error) error {
	if err == nil {
		return errors.New("accepted")
	}
	for _, e := range []error{drivers.ErrUncertain, drivers.ErrUnresolved, drivers.ErrConflict, drivers.ErrCorrupt} {
		if errors.Is(err, e) {
			return err
		}
	}
	return errRefused
}

func noBatch(b *drivers.Batch) error {
	return fmt.Errorf("a batch of %d entries", len(b.Entries))
}

func noEntries(e []drivers.Entry) error { return fmt.Errorf("%d entries", len(e)) }

func testScanBounds(f *fixture) {
	f.grow(30, 200)
	end := f.want.end().Position
	for _, opts := range []drivers.ScanOptions{
		{After: -1}, {After: math.MinInt64}, {After: 1}, {After: end - 1}, {After: end}, {After: end + 1}, {After: math.MaxInt64},
		{UpTo: 1}, {UpTo: end - 1}, {UpTo: end}, {UpTo: end + 1}, {UpTo: math.MaxInt64},
		{After: 5, UpTo: 5}, {After: 5, UpTo: 4}, {After: 4, UpTo: 5}, {After: end, UpTo: end + 5},
	} {
		for i := range 4 {
			opts.Values, opts.Times = i&1 != 0, i&2 != 0
			f.want.compareScan(f, opts)
		}
	}
	f.scrubSome(end-1, 3)
	for range 20 {
		f.want.compareScan(f, drivers.ScanOptions{After: f.rand.Int64N(end), UpTo: f.rand.Int64N(end + 10), Values: f.rand.IntN(2) == 0, Times: f.rand.IntN(2) == 0})
	}
}

// scrubSome scrubs about one position of n up to the one given, in several calls.
func (f *fixture) scrubSome(upTo int64, n int) {
	f.Helper()
	var positions []int64
	for p := int64(1); p <= upTo; p++ {
		if f.rand.IntN(n) == 0 {
			positions = append(positions, p)
		}
	}
	for part := range slices.Chunk(positions, 1000) {
		f.scrub(part...)
	}
}

// testScanCallback: a callback may take as long as it likes and use the log
// itself; nobody waits for it.
func testScanCallback(f *fixture) {
	f.grow(20, 500)
	want := f.want.entries(drivers.ScanOptions{})
	var got []drivers.Entry
	err := f.l.Scan(f.Context(), drivers.ScanOptions{}, func(e []drivers.Entry) error {
		got = append(got, e...)
		f.grow(3, 10)
		f.scrub(e[0].Position)
		f.want.compareScan(f, drivers.ScanOptions{After: f.want.end().Position - 3, Values: true})
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	// The end is the one of the beginning.
	if err := equalEntries(got, want); err != nil {
		f.Error(err)
	}
	calls := 0
	err = f.l.Scan(f.Context(), drivers.ScanOptions{Values: true}, func([]drivers.Entry) error {
		calls++
		return errEnough
	})
	f.wantError("scan", err, errEnough)
	if calls != 1 {
		f.Errorf("called %d times after an error", calls-1)
	}
	ctx, cancel := context.WithCancel(f.Context())
	f.grow(3, 3000)
	err = f.l.Scan(ctx, drivers.ScanOptions{}, func([]drivers.Entry) error {
		cancel()
		return nil
	})
	f.wantError("scan", err, context.Canceled)
}

// testScanBesideScrub: what is scrubbed meanwhile may be seen or not, all
// else must be.
func testScanBesideScrub(f *fixture) {
	f.grow(40, 400)
	end := f.want.end().Position
	var positions []int64
	for p := int64(2); p < end; p += 2 {
		positions = append(positions, p)
	}
	done := make(chan error)
	go func() {
		for part := range slices.Chunk(positions, 50) {
			if err := f.l.Scrub(f.Context(), part); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 5 {
		got, err := scan(f.Context(), f.l, drivers.ScanOptions{UpTo: end, Values: true})
		if err != nil {
			f.Fatal(err)
		}
		next := int64(1)
		for _, e := range got {
			if e.Position%2 == 0 && e.Position < end {
				continue
			}
			if e.Position != next {
				f.Fatalf("position %d after %d", e.Position, next-2)
			}
			if next += 2; next == end+1 {
				next = end
			}
		}
		if next <= end {
			f.Fatalf("the scan ended before %d of %d", next, end)
		}
	}
	if err := <-done; err != nil {
		f.Fatal(err)
	}
	f.want.scrub(positions)
}

func testValues(f *fixture) {
	f.grow(30, 300)
	f.append(f.batch(20, 1<<20))
	end := f.want.end().Position
	for _, n := range []int{1, 2, 17, 5000} {
		positions, values := make([]int64, n), make([][]byte, n)
		for i := range positions {
			positions[i] = 1 + f.rand.Int64N(end) // some come twice
		}
		if err := f.l.Values(f.Context(), positions, values); err != nil {
			f.Fatal(err)
		}
		for i, p := range positions {
			if err := equalEntries([]drivers.Entry{{Value: values[i]}}, []drivers.Entry{{Value: f.want.at(p).Value}}); err != nil {
				f.Errorf("position %d: %v", p, err)
			}
		}
	}
	f.scrub(7)
	for _, p := range []int64{7, 0, -1, math.MinInt64, end + 1, math.MaxInt64} {
		f.wantError(fmt.Sprintf("values at %d", p), f.l.Values(f.Context(), []int64{p}, make([][]byte, 1)), drivers.ErrScrubbed)
		f.wantError(fmt.Sprintf("values at 1, %d, 8", p), f.l.Values(f.Context(), []int64{1, p, 8}, make([][]byte, 3)), drivers.ErrScrubbed)
	}
	f.wantError("room for less", nilIsBad(f.l.Values(f.Context(), []int64{1, 2}, make([][]byte, 1))), errRefused)
}

func testScrub(f *fixture) {
	f.grow(30, 300)
	end := f.want.end().Position
	f.scrub(end - 1)
	f.examine()
	f.scrub(1)
	f.scrub(1, 2, 3, 10, 11, end-1)
	f.examine()
	f.scrubSome(end-1, 2)
	f.examine()
	f.scrubSome(end-1, 1)
	f.examine()
	f.grow(1, 1)
	f.scrub(end)
	f.grow(3, 3)
}

func testScrubRefused(f *fixture) {
	f.grow(5, 5)
	f.append(f.batch(2, 10))
	end := f.want.end().Position
	for what, positions := range map[string][]int64{
		"the last position":      {end},
		"the last beside others": {1, 2, end},
		"a position to come":     {1, end + 1},
		"position 0":             {0},
		"position 0 and others":  {0, 1},
		"a negative position":    {-5, 1},
		"descending positions":   {2, 1},
	} {
		f.wantError(what, nilIsBad(f.l.Scrub(f.Context(), positions)), errRefused)
		if got := f.bounds(); got != f.want.bounds() {
			f.Fatalf("%s: the bounds are %v, want %v", what, got, f.want.bounds())
		}
	}
	f.examine()
	// The entry before it in the same batch can go.
	f.scrub(end - 1)
}

// testDefragment: it changes nothing that can be read.
func testDefragment(f *fixture) {
	f.grow(30, 300)
	f.scrubSome(f.want.end().Position-1, 2)
	if d, ok := f.l.(drivers.Defragmenter); ok {
		if err := d.Defragment(f.Context()); err != nil {
			f.Fatal(err)
		}
	}
	f.examine()
	f.grow(3, 30)
	if s, ok := f.l.(drivers.Sizer); ok {
		total, inUse, err := s.Size(f.Context())
		if err != nil || inUse <= 0 || total < inUse {
			f.Errorf("a size of %d, %d in use, %v", total, inUse, err)
		}
	}
}
