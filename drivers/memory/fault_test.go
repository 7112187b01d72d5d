package memory

import (
	"context"
	"errors"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

func batch(id byte, n int) *drivers.Batch {
	b := &drivers.Batch{ID: drivers.BatchID{id}, Server: 7}
	for range n {
		b.Entries = append(b.Entries, drivers.Entry{Kind: 1, Meta: []byte{id}, Value: []byte("v")})
	}
	return b
}

func mustAppend(t *testing.T, l *Log, after drivers.End, b *drivers.Batch) drivers.End {
	t.Helper()
	if err := l.Append(t.Context(), after, b); err != nil {
		t.Fatal(err)
	}
	return drivers.End{Position: after.Position + int64(len(b.Entries)), Batch: b.ID}
}

func end(t *testing.T, l *Log) drivers.End {
	t.Helper()
	bounds, err := l.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return bounds.End
}

func TestInjectedErrorLeavesTheLogAlone(t *testing.T) {
	l := NewStore().Open()
	l.Inject(OpAppend, Fault{Err: drivers.ErrNoSpace})
	if err := l.Append(t.Context(), drivers.End{}, batch(1, 2)); !errors.Is(err, drivers.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if got := end(t, l); got != (drivers.End{}) {
		t.Fatalf("the log ends at %v", got)
	}
	mustAppend(t, l, drivers.End{}, batch(2, 1))
}

func TestUncertainAppends(t *testing.T) {
	for name, c := range map[string]struct {
		fault   Fault
		applied bool
	}{
		"applied":     {Fault{Err: drivers.ErrUncertain, Apply: true}, true},
		"not applied": {Fault{Err: drivers.ErrUncertain}, false},
		"late":        {Fault{Err: drivers.ErrUncertain, Late: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewStore().Open()
			l.Inject(OpAppend, c.fault)
			if err := l.Append(t.Context(), drivers.End{}, batch(1, 2)); !errors.Is(err, drivers.ErrUncertain) {
				t.Fatalf("got %v", err)
			}
			if err := l.Append(t.Context(), drivers.End{}, batch(2, 1)); !errors.Is(err, drivers.ErrUnresolved) {
				t.Fatalf("an append before ReadIndex: %v", err)
			}
			want := drivers.End{}
			if c.applied {
				want = drivers.End{Position: 2, Batch: drivers.BatchID{1}}
			}
			if got := end(t, l); got != want {
				t.Fatalf("the log ends at %v, want %v", got, want)
			}
			mustAppend(t, l, want, batch(3, 1))
		})
	}
}

func TestForeignWriterMakesAConflict(t *testing.T) {
	s := NewStore()
	l := s.Open()
	l.Inject(OpAppend, Fault{Before: func() {
		if _, err := s.AppendForeign(batch(9, 1)); err != nil {
			t.Error(err)
		}
	}})
	if err := l.Append(t.Context(), drivers.End{}, batch(1, 1)); !errors.Is(err, drivers.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	if got := end(t, l); got.Batch != (drivers.BatchID{9}) {
		t.Fatalf("the log ends at %v", got)
	}
}

func TestHeldAppend(t *testing.T) {
	l := NewStore().Open()
	entered, hold := make(chan struct{}), make(chan struct{})
	l.Inject(OpAppend, Fault{Entered: entered, Hold: hold})
	done := make(chan error)
	go func() { done <- l.Append(context.Background(), drivers.End{}, batch(1, 1)) }()
	<-entered
	if got := end(t, l); got != (drivers.End{}) {
		t.Fatalf("the log ends at %v while the append is held", got)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := end(t, l); got.Position != 1 {
		t.Fatalf("the log ends at %v", got)
	}
}

func TestRewindMakesFollowersDiverge(t *testing.T) {
	s := NewStore()
	l := s.Open()
	first := mustAppend(t, l, drivers.End{}, batch(1, 1))
	second := mustAppend(t, l, first, batch(2, 1))
	if err := s.Rewind(first.Position); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, first, batch(3, 1))
	err := l.Follow(t.Context(), second, func(*drivers.Batch) error { return errors.New("a batch") })
	if !errors.Is(err, drivers.ErrDiverged) {
		t.Fatalf("got %v", err)
	}
	if err := l.Append(t.Context(), second, batch(4, 1)); !errors.Is(err, drivers.ErrConflict) {
		t.Fatalf("got %v", err)
	}
}
