package drivertest

import (
	"context"
	"slices"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// runShared tests what servers that share a log need of each other.
func runShared(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(*fixture)
	}{
		{"Load", testLoad},
		{"LoadBesideScrub", testLoadBesideScrub},
		{"Epoch", testEpoch},
		{"Hold", testHold},
		{"HoldReleased", testHoldReleased},
		{"HoldInTurns", testHoldInTurns},
		{"Moved", testMoved},
		{"Announce", testAnnounce},
		{"DoubtBesideOthers", testDoubtBesideOthers},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, h)
			c.run(f)
			f.finish()
		})
	}
}

func (f *fixture) shared(l Log) drivers.Shared {
	f.Helper()
	s, ok := l.(drivers.Shared)
	if !ok {
		f.Fatal("the log is no drivers.Shared")
	}
	return s
}

// second opens the log as another server.
func (f *fixture) second() drivers.Shared {
	f.Helper()
	l := f.open()
	f.Cleanup(func() {
		if err := l.Close(); err != nil {
			f.Errorf("close: %v", err)
		}
	})
	return f.shared(l)
}

func load(ctx context.Context, l drivers.Shared, values bool) (got []drivers.Entry, b drivers.Bounds, err error) {
	b, err = l.Load(ctx, values, func(e []drivers.Entry) error {
		got = append(got, e...)
		return nil
	})
	return got, b, err
}

func testLoad(f *fixture) {
	l := f.shared(f.l)
	for range 3 {
		for _, values := range []bool{false, true} {
			got, bounds, err := load(f.Context(), l, values)
			if err == nil {
				err = equalEntries(got, f.want.entries(drivers.ScanOptions{Values: values}))
			}
			if err != nil || bounds != f.want.bounds() {
				f.Fatalf("load with values %v: %v, bounds %v, want %v", values, err, bounds, f.want.bounds())
			}
		}
		f.grow(10, 300)
		f.scrubSome(f.want.end().Position-1, 3)
	}
	calls := 0
	_, err := l.Load(f.Context(), false, func([]drivers.Entry) error { calls++; return errEnough })
	f.wantError("load", err, errEnough)
	if calls != 1 {
		f.Errorf("called %d times after an error", calls-1)
	}
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	_, err = l.Load(ctx, false, noEntries)
	f.wantError("load", err, context.Canceled)
}

// testLoadBesideScrub: whatever another server scrubs and appends meanwhile, what is loaded was there at one moment.
func testLoadBesideScrub(f *fixture) {
	f.grow(40, 400)
	l, other := f.shared(f.l), f.second()
	end := f.want.end()
	done := make(chan error)
	go func() {
		// Ascending, one position in three stays: what is gone of them is a beginning.
		var err error
		for p := int64(1); p < end.Position && err == nil; p += 300 {
			var some []int64
			for q := p; q < min(p+300, end.Position); q++ {
				if q%3 != 0 {
					some = append(some, q)
				}
			}
			if len(some) > 0 {
				err = other.Scrub(f.Context(), some)
			}
		}
		done <- err
	}()
	for range 8 {
		got, bounds, err := load(f.Context(), l, false)
		if err != nil {
			f.Fatal(err)
		}
		if bounds.End != end {
			f.Fatalf("the bounds are %v, the end is %v", bounds, end)
		}
		for i, e := range got {
			hole := i > 0 && e.Position != got[i-1].Position+1 || i == 0 && e.Position != 1
			if hole && e.Position > bounds.Scrubbed+2 || e.Position <= bounds.Scrubbed && e.Position%3 != 0 {
				f.Fatalf("position %d comes after %d entries, the mark is at %d", e.Position, i, bounds.Scrubbed)
			}
		}
	}
	if err := <-done; err != nil {
		f.Fatal(err)
	}
	var gone []int64
	for p := int64(1); p < end.Position; p++ {
		if p%3 != 0 {
			gone = append(gone, p)
		}
	}
	f.want.scrub(gone)
}

// testEpoch: in ordinary life there is one epoch, and who names another one scrubs nothing.
func testEpoch(f *fixture) {
	f.grow(5, 4)
	l, other := f.shared(f.l), f.second()
	epoch := l.Epoch()
	for n := range int64(5) {
		f.grow(3, 4)
		gone := []int64{2*n + 1, 2*n + 2}
		f.wantError("scrub in another epoch", l.ScrubIn(f.Context(), epoch+1, gone), drivers.ErrEpoch)
		f.compare()
		l := []drivers.Shared{l, other}[n%2]
		f.wantError("scrub", l.ScrubIn(f.Context(), l.Epoch(), gone), nil)
		f.want.scrub(gone)
		if _, _, err := load(f.Context(), l, false); err != nil {
			f.Fatal(err)
		}
		f.compare()
	}
	if now := l.Epoch(); now != epoch {
		f.Errorf("the epoch was %d and is %d", epoch, now)
	}
}

// testHold: who holds the log appends, and others wait and then meet a conflict.
func testHold(f *fixture) {
	f.grow(3, 4)
	l, other := f.shared(f.l), f.second()
	for _, rows := range []int{1, 20, 20_000} {
		// The holder has not seen the last batch.
		foreign := f.batch(2, 10)
		if err := other.Append(f.Context(), f.want.end(), foreign); err != nil {
			f.Fatal(err)
		}
		before := f.want.end()
		f.want.append(foreign)
		t, err := l.Hold(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		if t.Bounds() != f.want.bounds() {
			f.Errorf("the bounds are %v, want %v", t.Bounds(), f.want.bounds())
		}
		if err := f.want.followTo(f.Context(), l, before, len(f.want.batches)); err != nil {
			f.Errorf("follow in a turn: %v", err)
		}
		refused := make(chan error)
		after := f.want.end()
		go func() { refused <- other.Append(f.Context(), after, f.batchOf(7)) }()
		b := f.batch(rows, 50)
		if err := l.Append(f.Context(), after, b); err != nil {
			f.Fatalf("append in a turn: %v", err)
		}
		f.want.append(b)
		f.wantError("append beside a turn", <-refused, drivers.ErrConflict)
		t.Release()
		f.compare()
	}
}

// batchOf makes a batch without the fixture's random numbers, for another goroutine.
func (f *fixture) batchOf(id byte) *drivers.Batch {
	return &drivers.Batch{ID: drivers.BatchID{id}, Entries: []drivers.Entry{{Kind: 1, Meta: []byte("m")}}}
}

// testHoldReleased: a turn that comes to nothing leaves no trace, however it ends.
func testHoldReleased(f *fixture) {
	f.grow(3, 4)
	l, other := f.shared(f.l), f.second()
	for range 3 {
		t, err := l.Hold(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		t.Release()
		t.Release()
		t, err = l.Hold(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		f.wantError("append after another end", l.Append(f.Context(), drivers.End{}, f.batch(1, 1)), drivers.ErrConflict)
		t.Release()
		b := f.batch(3, 10)
		if err := other.Append(f.Context(), f.want.end(), b); err != nil {
			f.Fatal(err)
		}
		f.want.append(b)
		f.scrub(1)
	}
}

// testHoldInTurns: several servers that take turns all come through.
func testHoldInTurns(f *fixture) {
	const servers, each = 3, 20
	logs := []drivers.Shared{f.shared(f.l)}
	for len(logs) < servers {
		logs = append(logs, f.second())
	}
	type appended struct {
		after drivers.End
		batch *drivers.Batch
	}
	done := make(chan []appended, servers)
	errs := make(chan error, servers)
	for i, l := range logs {
		go func() {
			var mine []appended
			for n := range each {
				t, err := l.Hold(f.Context())
				if err != nil {
					errs <- err
					break
				}
				b := f.batchOf(byte(i*each + n + 1))
				a := appended{t.Bounds().End, b}
				if err := l.Append(f.Context(), a.after, b); err != nil {
					errs <- err
					break
				}
				mine = append(mine, a)
			}
			done <- mine
		}()
	}
	var all []appended
	for range servers {
		all = append(all, <-done...)
	}
	close(errs)
	for err := range errs {
		f.Error(err)
	}
	slices.SortFunc(all, func(a, b appended) int { return int(a.after.Position - b.after.Position) })
	for _, a := range all {
		if a.after != f.want.end() {
			f.Fatalf("a turn began at %v, the log ended at %v", a.after, f.want.end())
		}
		f.want.append(a.batch)
	}
}

// testMoved: a server hears of others' appends, and not of its own.
func testMoved(f *fixture) {
	f.grow(1, 3)
	l, other := f.shared(f.l), f.second()
	for range 5 {
		seen := f.want.end()
		f.grow(2, 3)
		// Own appends do not count; the foreign one ends the wait.
		moved := make(chan error)
		go func() { moved <- l.Moved(f.Context(), seen) }()
		b := f.batch(3, 10)
		if err := other.Append(f.Context(), f.want.end(), b); err != nil {
			f.Fatal(err)
		}
		f.want.append(b)
		f.wantError("moved", <-moved, nil)
		f.wantError("moved already", l.Moved(f.Context(), seen), nil)
	}
	ctx, cancel := context.WithCancel(f.Context())
	moved := make(chan error)
	go func() { moved <- l.Moved(ctx, f.want.end()) }()
	cancel()
	f.wantError("moved", <-moved, context.Canceled)
	f.grow(1, 3)
	ctx, cancel = context.WithCancel(f.Context())
	cancel()
	f.wantError("moved by oneself", l.Moved(ctx, drivers.End{}), context.Canceled)
}

func testAnnounce(f *fixture) {
	a, b := f.shared(f.l), f.second()
	first := drivers.Server{ID: 1<<63 + 5, Instance: drivers.BatchID{1}, Info: []byte("a\x00"), Position: 7}
	second := drivers.Server{ID: 2, Instance: drivers.BatchID{2}, Info: []byte("b")}
	for _, step := range []struct {
		l    drivers.Shared
		self drivers.Server
		want []drivers.Server
	}{
		{a, first, []drivers.Server{first}},
		{b, second, []drivers.Server{first, second}},
		{a, drivers.Server{ID: first.ID, Instance: first.Instance, Info: []byte("c"), Position: 9}, []drivers.Server{{ID: first.ID, Instance: first.Instance, Info: []byte("c"), Position: 9}, second}},
		// One that was started anew is the youngest.
		{a, drivers.Server{ID: first.ID, Instance: drivers.BatchID{3}, Info: []byte("d")}, []drivers.Server{second, {ID: first.ID, Instance: drivers.BatchID{3}, Info: []byte("d")}}},
		// The process that had its id before leaves late, which says nothing of it.
		{a, drivers.Server{ID: first.ID, Instance: first.Instance, Leaving: true}, []drivers.Server{second, {ID: first.ID, Instance: drivers.BatchID{3}, Info: []byte("d")}}},
		{b, drivers.Server{ID: 2, Instance: second.Instance, Leaving: true}, []drivers.Server{{ID: first.ID, Instance: drivers.BatchID{3}, Info: []byte("d")}}},
		{a, drivers.Server{ID: first.ID, Instance: drivers.BatchID{3}, Leaving: true}, nil},
	} {
		got, err := step.l.Announce(f.Context(), step.self)
		if err != nil {
			f.Fatal(err)
		}
		same := func(x, y drivers.Server) bool {
			return x.ID == y.ID && x.Instance == y.Instance && string(x.Info) == string(y.Info) && x.Position == y.Position && x.Leaving == y.Leaving
		}
		if !slices.EqualFunc(got, step.want, same) {
			f.Fatalf("after %v: %v, want %v", step.self, got, step.want)
		}
	}
}

// testDoubtBesideOthers: what became of a doubtful append is told rightly when others have appended since, too, and who settles a
// doubt does not disturb the others.
func testDoubtBesideOthers(f *fixture) {
	f.grow(2, 3)
	l, other := f.shared(f.l), f.second()
	for _, done := range []bool{true, false, true} {
		after, b := f.want.end(), f.batch(2, 20)
		f.h.Doubt(f.T, f.l, Doubt{Done: done})
		f.wantError("append", l.Append(f.Context(), after, b), drivers.ErrUncertain)
		_, err := l.Hold(f.Context())
		f.wantError("hold before ReadIndex", err, drivers.ErrUnresolved)
		if done {
			f.want.append(b)
		}
		foreign := f.batch(2, 20)
		if err := other.Append(f.Context(), f.want.end(), foreign); err != nil {
			f.Fatal(err)
		}
		f.want.append(foreign)
		if got := f.bounds(); got != f.want.bounds() {
			f.Fatalf("the bounds are %v, want %v", got, f.want.bounds())
		}
		var first drivers.BatchID
		err = l.Follow(f.Context(), after, func(got *drivers.Batch) error {
			first = got.ID
			return errEnough
		})
		f.wantError("follow", err, errEnough)
		if (first == b.ID) != done {
			f.Errorf("the batch after the end is %x", first)
		}
		// The other one knows nothing of the settlement.
		foreign = f.batch(1, 20)
		if err := other.Append(f.Context(), f.want.end(), foreign); err != nil {
			f.Fatal(err)
		}
		f.want.append(foreign)
		f.scrub(1)
		if err := other.Scrub(f.Context(), []int64{2}); err != nil {
			f.Fatal(err)
		}
		f.want.scrub([]int64{2})
		f.grow(1, 2)
	}
}
