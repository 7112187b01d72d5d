package lessor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// led is a server that leads in a term, or, with term 0, follows.
type led struct {
	*fakeStore
	intrude atomic.Pointer[func(request any) error]
}

// intercept has fn called before each request and, with nil, each question.
func (s *led) intercept(fn func(request any) error) { s.intrude.Store(&fn) }

func beginLed(t *testing.T) *led {
	s := &led{fakeStore: &fakeStore{ix: mvcc.NewIndex()}}
	s.lessor = New(Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Lead: func() (uint64, bool) {
		term := s.term.Load()
		return term, term > 0
	}})
	s.before = func(request any) error {
		if fn := s.intrude.Load(); fn != nil {
			return (*fn)(request)
		}
		return nil
	}
	s.lessor.Attach(s)
	s.lessor.Demote()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.lessor.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *led) lead(term uint64) {
	s.term.Store(term)
	s.lessor.Promote(term)
}

// TestLostAndWonAgain: a server that lost the lead and won it again without being told in between does not go on with its old deadlines: another
// one may have renewed leases.
func TestLostAndWonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := beginLed(t)
		s.lead(5)
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		time.Sleep(4 * time.Second) // nothing is recorded yet
		s.term.Store(7)             // another one led in term 6, and renewed
		time.Sleep(7 * time.Second)
		if s.Index().Lease(1) == nil {
			t.Fatal("the lease ended by a deadline of an earlier term")
		}
		s.lessor.Promote(7)
		time.Sleep(9 * time.Second)
		if s.Index().Lease(1) == nil {
			t.Fatal("the lease ended before its TTL was over in the new term")
		}
		time.Sleep(2 * time.Second)
		if s.Index().Lease(1) != nil {
			t.Fatal("the lease does not end")
		}
	})
}

// TestRenewalOfADeposedLeader: a server that leads no more acknowledges no renewal, although nobody has told it so and its questions are answered, as a follower's are.
func TestRenewalOfADeposedLeader(t *testing.T) {
	for _, then := range []uint64{0, 7} {
		synctest.Test(t, func(t *testing.T) {
			s := beginLed(t)
			s.lead(5)
			s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
			if ttl, err := s.lessor.Renew(t.Context(), 1); ttl != 10 || err != nil {
				t.Fatalf("%d, %v", ttl, err)
			}
			s.intercept(func(request any) error {
				if request == nil {
					s.term.Store(then) // while it asks
				}
				return nil
			})
			if _, err := s.lessor.Renew(t.Context(), 1); !errors.Is(err, drivers.ErrNotLeader) {
				t.Errorf("a renewal by a server that was deposed: %v", err)
			}
			if _, err := s.lessor.Renew(t.Context(), 2); !errors.Is(err, drivers.ErrNotLeader) {
				t.Errorf("a renewal of no lease by a server that was deposed: %v", err)
			}
		})
	}
}

// TestRenewalWaitsForNoDeposedLeader: who waits for an expired lease's end is sent to the next leader, which gives the lease its TTL again. Otherwise the other leases that are
// kept alive by the same stream would end. A server that stands still does not hear of the next leader.
func TestRenewalWaitsForNoDeposedLeader(t *testing.T) {
	for what, c := range map[string]struct {
		happens func(s *led, halted chan struct{})
		want    error
	}{
		"it leads again":  {func(s *led, _ chan struct{}) { s.lead(7) }, drivers.ErrNotLeader},
		"it follows":      {func(s *led, _ chan struct{}) { s.term.Store(0); s.lessor.Demote() }, drivers.ErrNotLeader},
		"it stands still": {func(_ *led, halted chan struct{}) { close(halted) }, drivers.ErrNoLeader},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := beginLed(t)
			halted := make(chan struct{})
			s.lessor.opts.Halted = func() <-chan struct{} { return halted }
			s.lead(5)
			s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
			s.intercept(func(request any) error {
				if _, ok := request.(*mvcc.Expire); ok {
					return drivers.ErrUncertain
				}
				return nil
			})
			time.Sleep(10 * time.Second)
			renewed := make(chan error, 1)
			go func() {
				_, err := s.lessor.Renew(t.Context(), 1)
				renewed <- err
			}()
			synctest.Wait()
			c.happens(s, halted)
			synctest.Wait()
			select {
			case err := <-renewed:
				if !errors.Is(err, c.want) {
					t.Errorf("%s: %v", what, err)
				}
			default:
				t.Fatalf("%s: the renewal waits for a lease that this server does not count any more", what)
			}
		})
	}
}

// TestLateWords: what a server has decided by its deadlines, and what comes to the log only after another one has led, harms no lease: the client may have renewed it there, or here
// since, and no entry tells of that.
func TestLateWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := beginLed(t)
		s.lead(5)
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 100}, &pb.LeaseGrantRequest{ID: 2, TTL: 4})
		held, late := make(chan struct{}), atomic.Int32{}
		s.intercept(func(request any) error {
			switch request.(type) {
			case *mvcc.Checkpoint, *mvcc.Expire:
				late.Add(1)
				<-held
			}
			return nil
		})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		go s.lessor.Stop(t.Context()) // a checkpoint of the other lease
		synctest.Wait()
		if n := late.Load(); n != 2 {
			t.Fatalf("%d requests wait", n)
		}
		s.lead(7) // another one led in term 6
		s.intercept(func(any) error { return nil })
		if _, err := s.lessor.Renew(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		close(held)
		synctest.Wait()
		if l := s.Index().Lease(1); l.Remaining != 0 {
			t.Errorf("of a lease that another leader may have renewed %d s are left, as an earlier one says", l.Remaining)
		}
		if s.Index().Lease(2) == nil {
			t.Fatal("an earlier leader's expiry ended a lease that was renewed")
		}
		time.Sleep(5 * time.Second)
		if s.Index().Lease(2) != nil {
			t.Error("the lease does not end")
		}
	})
}
