package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// indexed is a store of which only the index matters.
type indexed struct{ atomic.Pointer[mvcc.Index] }

func (s *indexed) Index() *mvcc.Index { return s.Load() }

func (s *indexed) History(context.Context, *mvcc.Index, int64, func([]*mvcc.Event) bool) error {
	return nil
}

func (s *indexed) Values(context.Context, []int64) ([][]byte, error) { return nil, nil }

// grow gives the index after n more puts.
func grow(t *testing.T, ix *mvcc.Index, n int) *mvcc.Index {
	for i := range n {
		b, results := mvcc.Evaluate(ix, mvcc.Env{}, []any{&pb.PutRequest{Key: fmt.Append(nil, "k", i)}})
		if results[0].Err != nil {
			t.Fatal(results[0].Err)
		}
		ix = b.Index(drivers.End{Position: ix.End.Position + 1})
	}
	return ix
}

// TestReloadedTellsProgress: who asked for progress between the moment readers saw the new index and the one watchers
// were told is answered, and does not have to wait for another commit.
func TestReloadedTellsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(indexed)
		store.Store(grow(t, mvcc.NewIndex(), 5))
		h := NewHub(Options{Logger: slog.New(slog.DiscardHandler)})
		h.Attach(store)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()
		s := h.NewStream()
		told := make(chan int64, 10)
		go func() {
			for {
				responses, err := s.Next(ctx)
				if err != nil {
					close(told)
					return
				}
				for _, r := range responses {
					if r.ID == NoID {
						told <- r.Revision
					}
				}
			}
		}()
		ix := grow(t, store.Index(), 5)
		store.Store(ix)
		s.Watch(Request{Range: mvcc.NewRange([]byte("k"), []byte("l"))})
		s.RequestProgress()
		if synctest.Wait(); len(told) != 0 {
			t.Errorf("progress at %d, ahead of what watchers were told", <-told)
		}
		h.Reloaded(ix)
		synctest.Wait()
		select {
		case rev := <-told:
			if rev != ix.Rev {
				t.Errorf("progress at %d, want %d", rev, ix.Rev)
			}
		default:
			t.Error("progress is not told")
		}
		cancel()
		<-done
		s.Close()
		for range told {
			continue
		}
	})
}

// TestBreak: streams end with the error, those that wait, those with something to tell and those to come, and what happens
// afterwards disturbs nobody.
func TestBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(indexed)
		store.Store(grow(t, mvcc.NewIndex(), 5))
		h := NewHub(Options{Logger: slog.New(slog.DiscardHandler)})
		h.Attach(store)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- h.Run(ctx) }()
		errDifferent := errors.New("another history")
		everything := Request{Range: mvcc.NewRange([]byte{0}, []byte{0})}
		waiting, full, progress, closed := h.NewStream(), h.NewStream(), h.NewStream(), h.NewStream()
		for _, s := range []*Stream{waiting, full, progress, closed} {
			s.Watch(everything)
		}
		if _, err := waiting.Next(ctx); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { _, err := waiting.Next(ctx); ended <- err }()
		progress.RequestProgress()
		closed.Close()
		synctest.Wait()
		h.Break(errDifferent)
		if err := <-ended; !errors.Is(err, errDifferent) {
			t.Errorf("a stream that waits ends with %v", err)
		}
		late := h.NewStream()
		late.Watch(everything)
		h.Publish(store.Index(), []*mvcc.Event{{Key: "k", Version: mvcc.Version{Main: 7, Count: 1, Create: 7}}})
		h.Reloaded(grow(t, store.Index(), 9))
		for i, s := range []*Stream{full, progress, late} {
			s.RequestProgress()
			s.Notify()
			for range 2 {
				if responses, err := s.Next(ctx); !errors.Is(err, errDifferent) {
					t.Errorf("stream %d tells %v, %v", i, responses, err)
				}
				s.Notify() // wakes Next
			}
			s.Close()
		}
		waiting.Close()
		cancel()
		<-done
		if left := h.Stats(); left.Streams != 0 || len(h.streams) != 0 {
			t.Errorf("%+v are left", left)
		}
	})
}

// TestWatchersBesideOvertaking: on a server that is overtaken by what another one scrubs, again and again, every watcher gets all
// events it asked for, in order and once, or is told that they were compacted; and no progress is ahead.
func TestWatchersBesideOvertaking(t *testing.T) {
	mem := memory.NewStore()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	h := NewHub(Options{RecentBytes: 2000, StreamBytes: 1500, Logger: logger})
	var reloads atomic.Int64
	open := func(o sqllog.Options) *sqllog.Store {
		o.Log, o.Logger = mem.Open(), logger
		s, err := sqllog.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	store := open(sqllog.Options{Publish: h.Publish, Reloaded: func(ix *mvcc.Index) { reloads.Add(1); h.Reloaded(ix) }})
	other := open(sqllog.Options{})
	h.Attach(store)
	ctx, cancel := context.WithCancel(context.Background())
	var background, readers sync.WaitGroup
	for _, run := range []func(context.Context) error{store.Run, other.Run, h.Run} {
		background.Go(func() { _ = run(ctx) })
	}
	do := func(request any) {
		if _, err := other.Do(ctx, request, 0); err != nil {
			t.Error(err)
		}
	}
	do(&pb.PutRequest{Key: []byte(written(2))})
	const last = 2 + 60*10
	for i := range 12 {
		readers.Go(func() {
			for from := int64(2); from <= last; {
				from = watchSome(t, ctx, h, written(int64(i)), from, last)
			}
		})
	}
	for n := range 60 {
		for range 10 {
			do(&pb.PutRequest{Key: []byte(written(other.Index().Rev + 1)), Value: []byte("value")})
		}
		if n%3 == 0 {
			do(&pb.CompactionRequest{Revision: other.Index().Rev - int64(n%20)})
			do(&mvcc.Barrier{})
			if _, err := other.Prune(ctx, func(context.Context) error { return nil }); err != nil {
				t.Error(err)
			}
		}
		if _, err := store.Linearizable(ctx); err != nil {
			t.Error(err)
		}
	}
	readers.Wait()
	cancel()
	background.Wait()
	if reloads.Load() == 0 {
		t.Error("the server was never overtaken")
	}
}

// written is the key that is written at a revision.
func written(rev int64) string { return fmt.Sprintf("%02d", rev*rev/7%6) }

// watchSome watches a key from a revision on until everything up to last is known, or compacted, and gives where to go on.
func watchSome(t *testing.T, ctx context.Context, h *Hub, key string, from, last int64) int64 {
	s := h.NewStream()
	defer s.Close()
	s.Watch(Request{Range: mvcc.NewRange([]byte(key), nil), Start: from})
	upTo := from - 1 // all events up to it were told
	come := func(rev int64) bool {
		for upTo++; upTo < rev; upTo++ {
			if written(upTo) == key {
				t.Errorf("revision %d of %q is left out before %d", upTo, key, rev)
				return false
			}
		}
		return true
	}
	for {
		s.RequestProgress()
		responses, err := s.Next(ctx)
		if err != nil {
			t.Error(err)
			return last + 1
		}
		for _, r := range responses {
			for _, e := range r.Events {
				if e.Key != key || e.Main <= upTo || written(e.Main) != key || !come(e.Main) {
					t.Errorf("the event of %q at %d comes after everything up to %d", e.Key, e.Main, upTo)
					return last + 1
				}
			}
			switch {
			case r.Compact > 0 && r.Compact <= upTo+1:
				t.Errorf("compacted at %d, everything up to %d was told", r.Compact, upTo)
				return last + 1
			case r.Compact > 0:
				return r.Compact
			case r.ID == NoID && !r.Created && r.Revision > upTo:
				if !come(r.Revision+1) || r.Revision == last {
					return last + 1
				}
				upTo = r.Revision
			case r.ID == NoID && r.Revision == last:
				return last + 1
			}
		}
	}
}
