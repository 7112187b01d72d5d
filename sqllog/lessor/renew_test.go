package lessor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// expiry is a lease of which the revocation is under way, held, and a renewal that came meanwhile.
type expiry struct {
	*fakeStore
	revoking chan error // ends the revocation, with an error before it is done
	renewed  chan error
	giveUp   context.CancelFunc // of the renewal
}

// expire begins it all. It runs in a synctest bubble; the returned stop must be called.
func expire(t *testing.T) (e *expiry, stop func()) {
	e = &expiry{fakeStore: begin(mvcc.NewIndex()), revoking: make(chan error), renewed: make(chan error, 1)}
	e.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
	e.before = func(request any) error {
		if _, ok := request.(*mvcc.Expire); ok {
			return <-e.revoking
		}
		if c, ok := request.(*mvcc.Checkpoint); ok && c.Leases[0].Remaining == 0 {
			t.Error("an expired lease is renewed in the log")
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.lessor.Run(ctx) }()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	renewing, giveUp := context.WithCancel(context.Background())
	e.giveUp = giveUp
	go func() {
		_, err := e.lessor.Renew(renewing, 1)
		e.renewed <- err
	}()
	return e, func() {
		giveUp()
		cancel()
		<-done
	}
}

// waiting tells that the renewal has not been answered.
func (e *expiry) waiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-e.renewed:
		t.Errorf("the renewal was answered while the revocation was under way: %v", err)
		e.renewed <- err
	default:
	}
}

// TestRenewalDuringExpiry: a renewal that comes while its lease is being revoked is neither granted nor
// refused until it is known what became of the revocation.
func TestRenewalDuringExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, stop := expire(t)
		defer stop()
		e.waiting(t)
		e.revoking <- nil
		if err := <-e.renewed; !errors.Is(err, mvcc.ErrLeaseNotFound) {
			t.Errorf("the renewal of a revoked lease: %v", err)
		}
		if e.Index().Lease(1) != nil {
			t.Error("the lease was not revoked")
		}
		if _, err := e.lessor.Renew(t.Context(), 1); !errors.Is(err, mvcc.ErrLeaseNotFound) {
			t.Errorf("renewed again: %v", err)
		}
	})
}

// TestRenewalDuringFailedExpiry: a revocation that fails does not give the lease back: keys may have been read as gone.
func TestRenewalDuringFailedExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, stop := expire(t)
		defer stop()
		for range 3 {
			e.revoking <- errors.New("storage fails")
			e.waiting(t)
		}
		time.Sleep(retryAfter)
		e.waiting(t)
		e.revoking <- nil
		if err := <-e.renewed; !errors.Is(err, mvcc.ErrLeaseNotFound) {
			t.Errorf("the renewal of a revoked lease: %v", err)
		}
	})
}

// TestRenewalGivenUpDuringExpiry: who does not want to wait need not.
func TestRenewalGivenUpDuringExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, stop := expire(t)
		defer stop()
		e.waiting(t)
		e.giveUp()
		if err := <-e.renewed; !errors.Is(err, context.Canceled) {
			t.Errorf("the renewal that was given up: %v", err)
		}
		e.revoking <- nil
		synctest.Wait()
		if e.Index().Lease(1) != nil {
			t.Error("the lease was not revoked")
		}
	})
}

// TestGrantedAgainDuringExpiry: a lease granted with the id of the one that is being revoked is not the one
// that a waiting renewal meant, and it can be renewed.
func TestGrantedAgainDuringExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, stop := expire(t)
		defer stop()
		e.waiting(t)
		e.batch(&pb.LeaseRevokeRequest{ID: 1}, &pb.LeaseGrantRequest{ID: 1, TTL: 50})
		if err := <-e.renewed; !errors.Is(err, mvcc.ErrLeaseNotFound) {
			t.Errorf("the renewal of the old lease: %v", err)
		}
		e.revoking <- nil
		synctest.Wait()
		if ttl, err := e.lessor.Renew(t.Context(), 1); ttl != 50 || err != nil {
			t.Errorf("the renewal of the new lease: %d, %v", ttl, err)
		}
		if e.Index().Lease(1) == nil {
			t.Error("the new lease was revoked with the old one")
		}
	})
}

// checkpointed makes a lease of a hundred seconds of which the log knows that half is left, and a store that holds the
// renewal of it.
func checkpointed(t *testing.T) (s *fakeStore, hold chan error, renewed chan error) {
	t.Helper()
	s = begin(mvcc.NewIndex())
	s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 100})
	time.Sleep(50 * time.Second)
	s.lessor.Stop(t.Context())
	if left := s.Index().Lease(1).Remaining; left != 50 {
		t.Fatalf("the log says %d s", left)
	}
	hold, renewed = make(chan error), make(chan error, 1)
	s.before = func(request any) error {
		if c, ok := request.(*mvcc.Checkpoint); ok && c.Leases[0].Remaining == 0 {
			return <-hold
		}
		return nil
	}
	go func() {
		_, err := s.lessor.Renew(context.Background(), 1)
		renewed <- err
	}()
	synctest.Wait()
	return s, hold, renewed
}

// TestRenewalOutlastsDeadline: a lease does not expire while its renewal is being written, though the old deadline
// comes, and does at once if the renewal fails after that.
func TestRenewalOutlastsDeadline(t *testing.T) {
	for _, failure := range []error{nil, errors.New("storage fails")} {
		synctest.Test(t, func(t *testing.T) {
			s, hold, renewed := checkpointed(t)
			if !s.run(60 * time.Second) {
				t.Error("the lease expired during its renewal")
			}
			hold <- failure
			if err := <-renewed; !errors.Is(err, failure) {
				t.Errorf("the renewal: %v instead of %v", err, failure)
			}
			if alive := s.run(time.Second); alive != (failure == nil) {
				t.Errorf("alive after a renewal that ended with %v: %v", failure, alive)
			}
		})
	}
}

// TestRenewalOfEarlierLease: what is on its way for the renewal of a lease does not touch one that was granted with its id
// meanwhile.
func TestRenewalOfEarlierLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, hold, renewed := checkpointed(t)
		s.batch(&pb.LeaseRevokeRequest{ID: 1}, &pb.LeaseGrantRequest{ID: 1, TTL: 80},
			&mvcc.Checkpoint{Leases: []mvcc.Remaining{{ID: 1, Remaining: 30}}})
		hold <- nil
		<-renewed
		if left := s.Index().Lease(1).Remaining; left != 30 {
			t.Errorf("the log says that %d s are left of the new lease", left)
		}
	})
}

// TestRenewalAfterLateCheckpoint: a checkpoint takes too long and is given up, and comes to the log after all: before what is asked for later, so a renewal takes it back. The
// next one has nothing to take back any more.
func TestRenewalAfterLateCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 100})
		var late *mvcc.Checkpoint
		slow, asked := true, 0
		land := func() {
			if late != nil {
				s.batch(late)
				late = nil
			}
		}
		s.before = func(request any) error {
			c, ok := request.(*mvcc.Checkpoint)
			switch {
			case ok && slow:
				late = c
				return errors.New("the log took too long")
			case ok:
				asked++
				land()
			}
			return nil
		}
		s.run(61 * time.Second)
		if late == nil {
			t.Fatal("no checkpoint")
		}
		slow = false
		for range 2 {
			if _, err := s.lessor.Renew(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			land()
			// A restart, or another leader, begins with what the log says.
			if left := s.Index().Lease(1).Remaining; left != 0 {
				t.Errorf("the log says that %d s are left of 100 s that were acknowledged just now", left)
			}
		}
		if asked != 1 {
			t.Errorf("%d renewals took something back, want 1", asked)
		}
	})
}

// TestRenewals: at random moments, the deadline among them, with a slow store that fails at times: a renewal
// that is acknowledged lasts, one that is refused is of a lease which is gone and whose time was up.
func TestRenewals(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tryRenewals(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func tryRenewals(t *testing.T, r *rand.Rand) {
	const ttl = 10 * time.Second
	s := begin(mvcc.NewIndex())
	faults := rand.New(rand.NewPCG(r.Uint64(), 1))
	var mu sync.Mutex
	s.before = func(any) error {
		mu.Lock()
		delay, fails := time.Duration(faults.Int64N(int64(2*time.Second))), faults.IntN(6) == 0
		mu.Unlock()
		time.Sleep(delay) // the bubble's clock
		if fails {
			return errors.New("storage fails")
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.lessor.Run(ctx) }()
	var end time.Time // at which the lease may end, as its client knows it
	grant := func() {
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		end = time.Now().Add(ttl)
	}
	grant()
	renewals, expiries := 0, 0
	for range 300 {
		wait := time.Duration(r.Int64N(int64(12 * time.Second)))
		if until := time.Until(end); r.IntN(3) == 0 {
			wait = max(0, until-time.Duration(r.Int64N(3)-1))
		}
		time.Sleep(wait)
		began := time.Now()
		alive := s.Index().Lease(1) != nil
		if !alive && began.Before(end) {
			t.Fatalf("the lease is gone %v before its time", end.Sub(began))
		}
		_, err := s.lessor.Renew(ctx, 1)
		switch {
		case err == nil:
			if !alive {
				t.Fatal("a lease that was gone is renewed")
			}
			renewals++
			end = began.Add(ttl)
		case errors.Is(err, mvcc.ErrLeaseNotFound):
			if s.Index().Lease(1) != nil || began.Before(end) {
				t.Fatalf("refused %v before its time", end.Sub(began))
			}
			expiries++
			grant()
		}
	}
	cancel()
	<-done
	if renewals < 20 || expiries < 20 {
		t.Errorf("only %d renewals and %d expiries", renewals, expiries)
	}
}

// TestRenewalAtDeadline: a lease whose time is up is not renewed, also if nobody has begun to revoke it; one that
// has a nanosecond left is.
func TestRenewalAtDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		time.Sleep(10*time.Second - 1)
		if ttl, err := s.lessor.Renew(t.Context(), 1); ttl != 10 || err != nil {
			t.Errorf("before the deadline: %d, %v", ttl, err)
		}
		time.Sleep(10 * time.Second)
		renewed := make(chan error, 1)
		go func() {
			_, err := s.lessor.Renew(context.Background(), 1)
			renewed <- err
		}()
		synctest.Wait()
		if len(renewed) > 0 {
			t.Errorf("at the deadline: %v", <-renewed)
		}
		if s.run(time.Second) {
			t.Error("the lease was not revoked")
		}
		if err := <-renewed; !errors.Is(err, mvcc.ErrLeaseNotFound) {
			t.Errorf("after the revocation: %v", err)
		}
	})
}
