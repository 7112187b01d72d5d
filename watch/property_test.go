package watch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestWatchersBesideWriters: with streams and a ring too small for anything, every watcher gets every
// event it asked for, once and in order, whole revisions, and no progress ahead of its events.
func TestWatchersBesideWriters(t *testing.T) {
	h := NewHub(Options{RecentBytes: 2000, StreamBytes: 1500, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	var mu sync.Mutex
	var all []*mvcc.Event
	store, err := sqllog.Open(t.Context(), sqllog.Options{Log: memory.NewStore().Open(), Publish: func(ix *mvcc.Index, events []*mvcc.Event) {
		mu.Lock()
		all = append(all, events...)
		mu.Unlock()
		h.Publish(ix, events)
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.Attach(store)
	ctx, cancel := context.WithCancel(context.Background())
	var background, readers, writers sync.WaitGroup
	background.Go(func() { _ = store.Run(ctx) })
	background.Go(func() { _ = h.Run(ctx) })
	write := func(r *rand.Rand, n int) {
		for range n {
			txn := &pb.TxnRequest{}
			for _, k := range r.Perm(20)[:1+r.IntN(4)] {
				p := &pb.PutRequest{Key: fmt.Appendf(nil, "%02d", k), Value: []byte("value")}
				txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
			}
			if _, err := store.Do(ctx, txn, 0); err != nil {
				t.Error(err)
			}
		}
	}
	write(rand.New(rand.NewPCG(1, 1)), 100)
	const last = 1 + 100 + 3*200
	for i := range 30 {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 2))
			s := h.NewStream()
			defer s.Close()
			from := 1 + int64(r.IntN(300)) // past, now or future
			rng := mvcc.Range{Start: fmt.Sprintf("%02d", r.IntN(20))}
			s.Watch(Request{Range: rng, Start: from})
			var got []*mvcc.Event
			for done := false; !done; {
				s.RequestProgress()
				responses, err := s.Next(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				for _, resp := range responses {
					for _, e := range resp.Events {
						got = append(got, e.Event)
					}
					if resp.ID == NoID {
						if n := len(got); n > 0 && got[n-1].Main > resp.Revision {
							t.Errorf("progress at %d after an event of %d", resp.Revision, got[n-1].Main)
						}
						checkComplete(t, &mu, &all, got, rng, from, resp.Revision)
						done = resp.Revision == last
					}
				}
			}
		})
	}
	for i := range 3 {
		writers.Go(func() { write(rand.New(rand.NewPCG(uint64(i), 3)), 200) })
	}
	writers.Wait()
	readers.Wait()
	cancel()
	background.Wait()
}

// checkComplete: what a watcher has is what was published from its start up to rev.
func checkComplete(t *testing.T, mu *sync.Mutex, all *[]*mvcc.Event, got []*mvcc.Event, rng mvcc.Range, from, rev int64) {
	mu.Lock()
	defer mu.Unlock()
	n := 0
	for _, e := range *all {
		if e.Main < from || e.Main > rev || !rng.Contains(e.Key) {
			continue
		}
		if n >= len(got) || got[n].Key != e.Key || got[n].Version != e.Version {
			t.Errorf("progress at %d: event %d is not %q %d.%d", rev, n, e.Key, e.Main, e.Sub)
			return
		}
		n++
	}
	if n != len(got) {
		t.Errorf("progress at %d: %d events, %d are due", rev, len(got), n)
	}
}

// TestSimulation: whatever is interrupted by whatever, each watcher is told exactly what it asked for, in order, once, with
// the right prev_kv, whole revisions, no progress ahead of its events; or that it was compacted, if it was.
func TestSimulation(t *testing.T) {
	happening := make(map[string]int)
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSimulation(t, seed)
			s.run()
			s.settle()
			for _, c := range s.clients {
				c.finish()
			}
			for len(s.clients) > 0 {
				s.clients[0].close()
			}
			if left := s.hub.Stats(); left.Streams+left.Watchers+left.Lagging > 0 || s.hub.synced.root != nil {
				t.Errorf("%+v are left when all streams are closed", left)
			}
			for k, n := range s.happening {
				happening[k] += n
			}
		})
	}
	for _, k := range []string{"events", "prev_kv", "no prev_kv", "prev_kv gone", "compacted", "progress",
		"progress of a watcher", "refused", "cancelled", "log unreadable", "reloaded"} {
		if happening[k] < 10 && !t.Failed() {
			t.Errorf("%q came about %d times: %v", k, happening[k], happening)
		}
	}
}
