package lessor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// sharedLog is a log that several servers append to. A server learns of what others appended when it asks, and at once if
// it listens.
type sharedLog struct {
	mu      sync.Mutex
	entries []drivers.Entry
	servers []*sharing
	revokes int
}

// sharing is a server on a sharedLog.
type sharing struct {
	*Lessor
	t      *testing.T
	log    *sharedLog
	ix     *mvcc.Index
	keeper atomic.Bool
	deaf   atomic.Bool // it learns of nothing until it asks
	before atomic.Pointer[func(request any) error]
	kill   func()
}

func (l *sharedLog) join(t *testing.T, keeper bool) *sharing {
	s := &sharing{t: t, log: l, ix: mvcc.NewIndex()}
	s.keeper.Store(keeper)
	s.Lessor = New(Options{Logger: slog.New(slog.DiscardHandler), Keeper: s.keeper.Load})
	l.mu.Lock()
	b := mvcc.NewIndex().Edit(false)
	if err := b.Load(l.entries); err != nil {
		t.Fatal(err)
	}
	s.ix = b.Index(drivers.End{Position: int64(len(l.entries))})
	l.servers = append(l.servers, s)
	l.mu.Unlock()
	s.Attach(s)
	return s
}

// start runs the lessor.
func (s *sharing) start() *sharing {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = s.Run(ctx); close(done) }()
	s.kill = func() { cancel(); <-done }
	s.t.Cleanup(s.kill)
	return s
}

// catchUp takes in the log, in one go. Called with the log's mu held.
func (s *sharing) catchUp() {
	if s.ix.End.Position == int64(len(s.log.entries)) {
		return
	}
	b := s.ix.Edit(true)
	if err := b.Load(s.log.entries[s.ix.End.Position:]); err != nil {
		s.t.Error(err)
	}
	s.ix = b.Index(drivers.End{Position: int64(len(s.log.entries))})
	s.Changed(s.ix, b.Leases())
}

func (s *sharing) Index() *mvcc.Index {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.ix
}

func (s *sharing) allowed(request any) error {
	if fn := s.before.Load(); fn != nil {
		return (*fn)(request)
	}
	return nil
}

// intercept has fn called before each request and, with nil, each question; nil: nothing any more.
func (s *sharing) intercept(fn func(request any) error) {
	if fn == nil {
		s.before.Store(nil)
		return
	}
	s.before.Store(&fn)
}

func (s *sharing) Linearizable(context.Context) (*mvcc.Index, error) {
	if err := s.allowed(nil); err != nil {
		return nil, err
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.catchUp()
	return s.ix, nil
}

func (s *sharing) Do(_ context.Context, request any, _ int) (any, error) {
	if err := s.allowed(request); err != nil {
		return nil, err
	}
	l := s.log
	l.mu.Lock()
	defer l.mu.Unlock()
	s.catchUp()
	b, results := mvcc.Evaluate(s.ix, mvcc.Env{}, []any{request})
	l.entries = append(l.entries, b.Entries()...)
	if _, ok := request.(*mvcc.Expire); ok && results[0].Err == nil {
		l.revokes++
	}
	for _, other := range l.servers {
		if other == s || !other.deaf.Load() {
			other.catchUp()
		}
	}
	return results[0].Response, results[0].Err
}

func (s *sharing) must(request any) {
	s.t.Helper()
	if _, err := s.Do(context.Background(), request, 0); err != nil {
		s.t.Fatalf("%v: %v", request, err)
	}
}

func (s *sharing) alive() bool { return s.Index().Lease(1) != nil }

// lasts checks that lease 1 is there for so long, by the log, and not much longer.
func (s *sharing) lasts(least, most time.Duration) {
	s.t.Helper()
	begun := time.Now()
	for s.alive() && time.Since(begun) <= most {
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(begun); took < least || took > most {
		s.t.Errorf("the lease lasts %v, want %v to %v", took, least, most)
	}
}

// TestRenewalCountsOnAll: a renewal by one server is one for all, and the lease expires once, by the keeper, at its time.
func TestRenewalCountsOnAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		keeper, b, c := l.join(t, true).start(), l.join(t, false).start(), l.join(t, false).start()
		keeper.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		for range 10 {
			time.Sleep(9 * time.Second)
			if ttl, err := b.Renew(t.Context(), 1); ttl != 10 || err != nil {
				t.Fatalf("%d, %v", ttl, err)
			}
			for _, s := range []*sharing{keeper, b, c} {
				if left, ok := s.Remaining(1); left != 10*time.Second || !ok {
					t.Errorf("%v left, %v", left, ok)
				}
			}
		}
		c.lasts(10*time.Second, 10*time.Second+keeperLead/2)
		time.Sleep(time.Minute)
		if l.revokes != 1 {
			t.Errorf("revoked %d times", l.revokes)
		}
		if _, err := c.Renew(t.Context(), 1); !errors.Is(err, mvcc.ErrLeaseNotFound) {
			t.Errorf("a renewal afterwards: %v", err)
		}
	})
}

// TestGrantedElsewhere: a lease granted on one server is counted down on the others, by a new one too.
func TestGrantedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a, b := l.join(t, true).start(), l.join(t, false).start()
		a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 20})
		time.Sleep(5 * time.Second)
		if left, ok := b.Remaining(1); left != 15*time.Second || !ok {
			t.Errorf("%v left, %v", left, ok)
		}
		c := l.join(t, false).start()
		a.kill()
		b.lasts(15*time.Second, 15*time.Second+keeperLead+time.Second/2)
		if c.alive() {
			t.Error("it is there on another server")
		}
	})
}

// TestKeeperDead: the others expire leases a moment later, and all of them together once.
func TestKeeperDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a, b := l.join(t, true).start(), l.join(t, false).start()
		l.join(t, false).start()
		for id := range int64(50) {
			a.must(&pb.LeaseGrantRequest{ID: id + 1, TTL: 30})
		}
		time.Sleep(20 * time.Second)
		a.kill()
		b.lasts(10*time.Second+keeperLead, 10*time.Second+keeperLead+time.Second/2)
		time.Sleep(time.Minute)
		if l.revokes != 50 {
			t.Errorf("revoked %d times", l.revokes)
		}
	})
}

// TestRenewalAndExpiry: the log decides which of them comes first. A renewed lease is not expired by who has not seen the renewal, and
// an expired one is not renewed.
func TestRenewalAndExpiry(t *testing.T) {
	for _, first := range []string{"renewal", "expiry"} {
		synctest.Test(t, func(t *testing.T) {
			l := new(sharedLog)
			a, b := l.join(t, true), l.join(t, false)
			a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
			a.deaf.Store(true)
			hold, held := make(chan struct{}), make(chan struct{})
			a.intercept(func(request any) error {
				if _, ok := request.(*mvcc.Expire); ok {
					close(held)
					a.intercept(nil)
					<-hold
				}
				return nil
			})
			a.start()
			time.Sleep(10 * time.Second)
			<-held
			if first == "expiry" {
				close(hold)
				synctest.Wait()
			}
			_, err := b.Renew(t.Context(), 1)
			if first == "expiry" {
				if !errors.Is(err, mvcc.ErrLeaseNotFound) || b.alive() {
					t.Errorf("an expired lease is renewed: %v", err)
				}
				return
			}
			if close(hold); err != nil {
				t.Error(err)
			}
			b.lasts(10*time.Second, 10*time.Second+keeperLead)
			if l.revokes != 1 {
				t.Errorf("revoked %d times", l.revokes)
			}
		})
	}
}

// TestRegrantElsewhere: what is on its way for a lease does not touch another one of its id.
func TestRegrantElsewhere(t *testing.T) {
	for _, way := range []string{"expiry", "checkpoint"} {
		synctest.Test(t, func(t *testing.T) {
			l := new(sharedLog)
			a, b := l.join(t, true), l.join(t, false)
			a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
			a.deaf.Store(true)
			var regranted atomic.Pointer[time.Time]
			a.intercept(func(request any) error {
				_, expiry := request.(*mvcc.Expire)
				_, checkpoint := request.(*mvcc.Checkpoint)
				if expiry && way == "expiry" || checkpoint && way == "checkpoint" {
					a.intercept(nil)
					b.must(&pb.LeaseRevokeRequest{ID: 1})
					b.must(&pb.LeaseGrantRequest{ID: 1, TTL: 60})
					now := time.Now()
					regranted.Store(&now)
				}
				return nil
			})
			a.start()
			for regranted.Load() == nil {
				time.Sleep(time.Second)
			}
			if synctest.Wait(); !b.alive() || l.revokes != 0 || b.Index().Lease(1).Remaining != 0 {
				t.Fatalf("the new lease was touched by %s", way)
			}
			b.lasts(60*time.Second-time.Since(*regranted.Load()), 61*time.Second)
		})
	}
}

// TestRenewalAndCheckpoint: what the keeper knows to be left of a lease does not undo a renewal that it has not seen.
func TestRenewalAndCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a, b := l.join(t, true), l.join(t, false)
		a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 100})
		time.Sleep(60 * time.Second)
		a.deaf.Store(true)
		if _, err := b.Renew(t.Context(), 1); err != nil {
			t.Error(err)
		}
		a.Lessor.Stop(t.Context())
		if left := b.Index().Lease(1).Remaining; left != 0 {
			t.Errorf("the log says that %d seconds are left", left)
		}
		c := l.join(t, false)
		if left, _ := c.Remaining(1); left != 100*time.Second {
			t.Errorf("%v left on a new server", left)
		}
	})
}

// TestRenewalBeforeCheckpoint: who takes in a renewal and, at once, what was left some time after it, does not go by
// what was before both.
func TestRenewalBeforeCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a, b := l.join(t, true), l.join(t, false).start()
		a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 20})
		time.Sleep(17 * time.Second)
		// b is a little slow, and the keeper stops.
		b.deaf.Store(true)
		hold := make(chan struct{})
		b.intercept(func(any) error { <-hold; return nil })
		if _, err := a.Renew(t.Context(), 1); err != nil {
			t.Error(err)
		}
		time.Sleep(1500 * time.Millisecond)
		a.Lessor.Stop(t.Context())
		if a.Index().Lease(1).Remaining == 0 {
			t.Error("the keeper recorded nothing")
		}
		close(hold)
		b.lasts(18*time.Second, 23*time.Second)
	})
}

// TestOnlyKeeperRecords: what is left is recorded by the keeper alone, and a restart of everybody goes on from there.
func TestOnlyKeeperRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a, b := l.join(t, true).start(), l.join(t, false).start()
		b.intercept(func(request any) error {
			if _, ok := request.(*mvcc.Checkpoint); ok {
				t.Error("who is not the keeper records")
			}
			return nil
		})
		a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 100})
		time.Sleep(60 * time.Second)
		b.kill()
		b.Lessor.Stop(t.Context())
		a.kill()
		a.Lessor.Stop(t.Context())
		time.Sleep(time.Hour)
		l.servers = nil
		c := l.join(t, false).start()
		c.lasts(40*time.Second, 42*time.Second)
	})
}

// silent has the log not answer for a while, from the point of view of one server.
func (s *sharing) silent(d time.Duration) {
	until := time.Now().Add(d)
	s.intercept(func(any) error {
		if time.Now().Before(until) {
			return errors.New("no answer")
		}
		return nil
	})
}

// TestSilenceIsGivenBack: while the log does not answer clients cannot renew, and that time does not count; nor does less of it.
func TestSilenceIsGivenBack(t *testing.T) {
	for _, silence := range []time.Duration{5 * time.Second, 30 * time.Second, time.Hour} {
		for _, begins := range []time.Duration{2 * time.Second, 9*time.Second + 990*time.Millisecond} {
			synctest.Test(t, func(t *testing.T) {
				l := new(sharedLog)
				a, b := l.join(t, true).start(), l.join(t, false).start()
				a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
				time.Sleep(begins)
				a.silent(silence)
				b.silent(silence)
				a.lasts(10*time.Second-begins+silence, 10*time.Second-begins+silence+2*hearEvery+keeperLead)
			})
		}
	}
}

// TestHangingIsSilence: a question that hangs is no answer either.
func TestHangingIsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a := l.join(t, true).start()
		a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		time.Sleep(5*time.Second + hearEvery/2)
		until := time.Now().Add(30 * time.Second)
		a.intercept(func(any) error { time.Sleep(time.Until(until)); return nil })
		a.lasts(34*time.Second, 37*time.Second)
	})
}

// TestOthersGoOn: for a server that cannot reach the log, time is given back on that server only. The others, which clients can use
// meanwhile, expire leases in time, and what was renewed there is renewed.
func TestOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(sharedLog)
		a, b := l.join(t, true).start(), l.join(t, false).start()
		a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		a.must(&pb.LeaseGrantRequest{ID: 2, TTL: 10})
		time.Sleep(5 * time.Second)
		a.deaf.Store(true)
		a.silent(time.Minute)
		if _, err := b.Renew(t.Context(), 2); err != nil {
			t.Error(err)
		}
		b.lasts(5*time.Second, 5*time.Second+2*keeperLead)
		for range 7 {
			if _, err := b.Renew(t.Context(), 2); err != nil {
				t.Errorf("the lease that is kept alive: %v", err)
			}
			time.Sleep(8 * time.Second)
		}
	})
}

// TestStoppedProcess: a process that stood still (SIGSTOP, a suspended machine) does not expire what was renewed on others meanwhile,
// nor what nobody could renew.
func TestStoppedProcess(t *testing.T) {
	for _, renewed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := new(sharedLog)
			a, b := l.join(t, true), l.join(t, false)
			a.must(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
			a.heard = time.Now()
			a.deaf.Store(true) // and it does not run
			for range 10 {
				time.Sleep(9 * time.Second)
				if renewed {
					if _, err := b.Renew(t.Context(), 1); err != nil {
						t.Error(err)
					}
				}
			}
			if err := a.expire(t.Context()); err != nil {
				t.Error(err)
			}
			if !b.alive() {
				t.Errorf("renewed on another server %v: the lease was expired", renewed)
			}
			if left, _ := a.Remaining(1); renewed && left < 10*time.Second || left <= 0 {
				t.Errorf("renewed on another server %v: %v left", renewed, left)
			}
		})
	}
}

// TestSharedAtRandom: servers grant, renew, revoke, stand still, lose the log, are deaf and become keepers at random. No lease
// ends before its time since the last renewal that was acknowledged, and each ends.
func TestSharedAtRandom(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { trySharing(t, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

func trySharing(t *testing.T, r *rand.Rand) {
	const ttl = 10 * time.Second
	l := new(sharedLog)
	servers := []*sharing{l.join(t, true).start(), l.join(t, false).start(), l.join(t, false).start()}
	var end time.Time // at which the lease may end, as its client knows it
	grants, renewals := 0, 0
	for range 400 {
		s := servers[r.IntN(3)]
		switch n := r.IntN(20); {
		case n == 0:
			s.silent(time.Duration(r.Int64N(int64(5 * time.Second))))
		case n == 1:
			keeper := r.IntN(4)
			for i, s := range servers {
				s.keeper.Store(i == keeper)
			}
		case n == 2:
			s.deaf.Store(!s.deaf.Load())
		case n == 3:
			s.Lessor.Stop(t.Context())
		default:
			time.Sleep(time.Duration(r.Int64N(int64(6 * time.Second))))
		}
		began := time.Now()
		_, err := s.Renew(t.Context(), 1)
		switch {
		case err == nil:
			renewals++
			end = began.Add(ttl)
		case errors.Is(err, mvcc.ErrLeaseNotFound):
			if began.Before(end) {
				t.Fatalf("the lease is gone %v before its time", end.Sub(began))
			}
			if _, err := s.Do(t.Context(), &pb.LeaseGrantRequest{ID: 1, TTL: 10}, 0); err == nil {
				grants++
				end = began.Add(ttl)
			}
		}
		if r.IntN(12) == 0 {
			time.Sleep(time.Minute)
			if ix, err := s.Linearizable(t.Context()); err == nil && ix.Lease(1) != nil {
				t.Error("the lease is still there")
			}
		}
	}
	if grants < 10 || renewals < 100 {
		t.Errorf("only %d grants and %d renewals", grants, renewals)
	}
}
