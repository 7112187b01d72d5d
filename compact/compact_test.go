package compact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fakeStore compacts an index without a log, and scrubs by a script.
type fakeStore struct {
	mu       sync.Mutex
	ix       *mvcc.Index
	start    time.Time
	asked    []compaction
	prunes   []time.Duration // when they began
	refuse   error           // of compactions
	slices   int             // of one Prune
	work     time.Duration   // that a slice takes
	pruneErr error
	pruning  chan struct{} // one at a time: no Mutex, in which a bubble's clock stands still
}

type compaction struct {
	at  time.Duration
	rev int64
}

func newStore() *fakeStore {
	return &fakeStore{ix: mvcc.NewIndex(), start: time.Now(), pruning: make(chan struct{}, 1)}
}

func (s *fakeStore) Index() *mvcc.Index {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ix
}

func (s *fakeStore) Do(_ context.Context, request any, _ int) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := request.(*pb.CompactionRequest); ok {
		s.asked = append(s.asked, compaction{time.Since(s.start), r.Revision})
		if s.refuse != nil {
			return nil, s.refuse
		}
	}
	b, results := mvcc.Evaluate(s.ix, mvcc.Env{}, []any{request})
	end := s.ix.End
	end.Position += int64(len(b.Entries()))
	s.ix = b.Index(end)
	return results[0].Response, results[0].Err
}

func (s *fakeStore) Prune(ctx context.Context, rest func(context.Context) error) (removed int, err error) {
	s.pruning <- struct{}{}
	defer func() { <-s.pruning }()
	s.mu.Lock()
	s.prunes = append(s.prunes, time.Since(s.start))
	n, work, err := s.slices, s.work, s.pruneErr
	s.mu.Unlock()
	for ; err == nil && removed < n; removed++ {
		time.Sleep(work) // the bubble's clock
		err = rest(ctx)
	}
	return removed, err
}

func (s *fakeStore) refuseWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

func (s *fakeStore) failPrunes(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pruneErr = err
}

// seen gives the compactions asked for so far.
func (s *fakeStore) seen() []compaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *fakeStore) pruned() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.prunes)
}

// put makes one revision.
func (s *fakeStore) put(t *testing.T) {
	t.Helper()
	if _, err := s.Do(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}, 0); err != nil {
		t.Error(err)
	}
}

// running runs a compactor while fn runs, in a bubble of its own.
func running(t *testing.T, opts Options, fn func(*testing.T, *fakeStore, *Compactor)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		opts.Store, opts.Logger = store, slog.New(slog.NewTextHandler(io.Discard, nil))
		c := New(opts)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		synctest.Wait()
		fn(t, store, c)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// writeEvery makes a revision at the middle of each of n intervals.
func writeEvery(t *testing.T, s *fakeStore, d time.Duration, n int) {
	t.Helper()
	for range n {
		time.Sleep(d / 2)
		s.put(t)
		time.Sleep(d - d/2)
	}
	synctest.Wait()
}

// TestPeriodic: as in etcd, history is kept for the period: the first compaction comes when the
// compactor has run for a period, to where it began, later ones once per period, or hour if that is shorter.
func TestPeriodic(t *testing.T) {
	for _, period := range []time.Duration{5 * time.Second, 10 * time.Minute, time.Hour, 3 * time.Hour} {
		t.Run(period.String(), func(t *testing.T) {
			running(t, Options{Mode: Periodic, Period: period}, func(t *testing.T, s *fakeStore, _ *Compactor) {
				s.put(t) // so that a compaction can be told from none
				interval := min(period, time.Hour)
				writeEvery(t, s, interval/10, 10*int(period/interval)+30)
				var want []compaction
				for i := range int64(4) {
					want = append(want, compaction{period + time.Duration(i)*interval, 2 + 10*i})
				}
				got := s.seen()
				// What was current when it began is not more precise than the first sample.
				if len(got) > 0 && got[0].rev <= 2 {
					got[0].rev = 2
				}
				if !slices.Equal(got, want) {
					t.Errorf("compacted %v, want %v", got, want)
				}
			})
		})
	}
}

// TestPeriodicTriesAgain: as in etcd, a tenth of the interval later.
func TestPeriodicTriesAgain(t *testing.T) {
	running(t, Options{Mode: Periodic, Period: time.Hour}, func(t *testing.T, s *fakeStore, _ *Compactor) {
		s.refuseWith(errors.New("storage fails"))
		writeEvery(t, s, 6*time.Minute, 22)
		s.refuseWith(nil)
		writeEvery(t, s, 6*time.Minute, 10)
		var failed, want []time.Duration
		for _, c := range s.seen() {
			failed = append(failed, c.at)
		}
		for i := range 14 { // 13 fail, as the first would compact nothing
			want = append(want, time.Hour+time.Duration(i)*6*time.Minute)
		}
		if len(failed) > 0 && failed[0] != time.Hour {
			want = want[1:]
		}
		if !slices.Equal(failed, want) {
			t.Errorf("tried at %v, want %v", failed, want)
		}
		if c := s.Index().Compact; c < 13 {
			t.Errorf("compacted to %d", c)
		}
	})
}

// TestRevisionMode: every five minutes, all but the last revisions.
func TestRevisionMode(t *testing.T) {
	running(t, Options{Mode: Revision, Revisions: 100}, func(t *testing.T, s *fakeStore, _ *Compactor) {
		writeEvery(t, s, 5*time.Minute/50, 50) // at 51: too few
		writeEvery(t, s, 5*time.Minute/80, 80) // at 131
		time.Sleep(20 * time.Minute)           // nothing new
		want := []compaction{{10 * time.Minute, 31}}
		if got := s.seen(); !slices.Equal(got, want) {
			t.Errorf("compacted %v, want %v", got, want)
		}
	})
}

// TestRevisionModeTriesAgain: after a failure, at the next interval at the latest.
func TestRevisionModeTriesAgain(t *testing.T) {
	running(t, Options{Mode: Revision, Revisions: 10}, func(t *testing.T, s *fakeStore, _ *Compactor) {
		s.refuseWith(errors.New("storage fails"))
		writeEvery(t, s, 6*time.Minute/30, 30)
		if len(s.seen()) == 0 {
			t.Fatal("nothing was tried")
		}
		s.refuseWith(nil)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if c := s.Index().Compact; c != 21 {
			t.Errorf("compacted to %d", c)
		}
	})
}

// TestNoRetention: without one, clients compact; what they free is scrubbed.
func TestNoRetention(t *testing.T) {
	for _, mode := range []Mode{Periodic, Revision} {
		running(t, Options{Mode: mode}, func(t *testing.T, s *fakeStore, c *Compactor) {
			writeEvery(t, s, time.Hour, 30)
			if got := s.seen(); len(got) > 0 {
				t.Errorf("%s: compacted %v", mode, got)
			}
			before := len(s.pruned())
			c.Compacted()
			synctest.Wait()
			if n := len(s.pruned()) - before; n != 1 {
				t.Errorf("%s: scrubbed %d times after a client's compaction", mode, n)
			}
		})
	}
}

// TestScrubOfStart: what a crash left over is freed without a compaction.
func TestScrubOfStart(t *testing.T) {
	running(t, Options{}, func(t *testing.T, s *fakeStore, _ *Compactor) {
		if got := s.pruned(); !slices.Equal(got, []time.Duration{0}) {
			t.Errorf("scrubbed at %v", got)
		}
	})
}

// TestScrubIsTriedAgain after a failure, until it succeeds, and then no more.
func TestScrubIsTriedAgain(t *testing.T) {
	running(t, Options{}, func(t *testing.T, s *fakeStore, c *Compactor) {
		s.failPrunes(errors.New("storage fails"))
		c.Compacted()
		synctest.Wait()
		n := len(s.pruned())
		time.Sleep(3*retryEvery + time.Second)
		if got := len(s.pruned()) - n; got != 3 {
			t.Errorf("tried %d times again", got)
		}
		s.failPrunes(nil)
		time.Sleep(retryEvery)
		n = len(s.pruned())
		time.Sleep(time.Hour)
		if got := len(s.pruned()) - n; got != 0 {
			t.Errorf("scrubbed %d times with nothing to free", got)
		}
	})
}

// TestScrubIsPaced: it works a quarter of the time at most.
func TestScrubIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.slices, s.work = 10, time.Second
		c := New(Options{Store: s, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if !c.scrub(t.Context()) {
			t.Error("it failed")
		}
		if took := time.Since(s.start); took != 40*time.Second {
			t.Errorf("10 s of work took %v", took)
		}
	})
}

// TestFinishHurries: a paced scrub that is under way rests no more once somebody waits for it.
func TestFinishHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.slices, s.work = 100, time.Second
		c := New(Options{Store: s, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		var scrub sync.WaitGroup
		scrub.Go(func() { c.scrub(context.Background()) })
		time.Sleep(40*time.Second + 500*time.Millisecond) // at work on the 11th slice
		if err := c.Finish(t.Context()); err != nil {
			t.Error(err)
		}
		// 40 s, the 90 slices left, and 100 of Finish's own.
		if took := time.Since(s.start); took != (40+90+100)*time.Second {
			t.Errorf("Finish was done after %v", took)
		}
		scrub.Wait()
		if c.scrub(t.Context()); time.Since(s.start) != (40+90+100+400)*time.Second {
			t.Errorf("scrubs are hurried still: %v", time.Since(s.start))
		}
	})
}

func TestFinishEndsWithContext(t *testing.T) {
	s := newStore()
	s.slices = 1
	c := New(Options{Store: s})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Finish(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRunEndsWhileResting: the end of the server does not wait for a scrub's rest.
func TestRunEndsWhileResting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.slices, s.work = 1, time.Hour
		c := New(Options{Store: s, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour+time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil || time.Since(s.start) != time.Hour+time.Minute {
			t.Errorf("%v after %v", err, time.Since(s.start))
		}
	})
}

// TestHistory holds what is remembered against a search through all samples.
func TestHistory(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 7 * time.Second, time.Minute} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			start := time.Unix(1000, 0)
			h := history{period: time.Minute}
			for i := range int64(200) {
				now := start.Add(time.Duration(i) * every)
				h.add(now, 100+i)
				want := int64(0)
				for j := range i + 1 {
					if !start.Add(time.Duration(j) * every).After(now.Add(-time.Minute)) {
						want = 100 + j
					}
				}
				if i%3 == 0 { // what is not asked must not be forgotten
					continue
				}
				if got := h.before(now); got != want {
					t.Fatalf("sample %d: %d, want %d", i, got, want)
				}
				if most := int(time.Minute/every) + 3; len(h.seen) > most {
					t.Fatalf("sample %d: %d are remembered", i, len(h.seen))
				}
			}
		})
	}
}

// TestScrubOfWhatIsDue: what the log has kept for a while is removed when it is due, and is asked for often enough.
func TestScrubOfWhatIsDue(t *testing.T) {
	var asked atomic.Int32
	var due atomic.Bool
	running(t, Options{DueEvery: 10 * time.Second, Due: func(context.Context) bool { asked.Add(1); return due.Load() }}, func(t *testing.T, s *fakeStore, _ *Compactor) {
		before := len(s.pruned())
		time.Sleep(time.Minute + time.Second)
		if n := len(s.pruned()) - before; n != 0 || asked.Load() != 6 {
			t.Errorf("scrubbed %d times with nothing due, asked %d times", n, asked.Load())
		}
		due.Store(true)
		time.Sleep(10 * time.Second)
		if n := len(s.pruned()) - before; n != 1 {
			t.Errorf("scrubbed %d times", n)
		}
	})
}
