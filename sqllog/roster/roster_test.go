package roster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
)

// server is one of those that share a log.
type server struct {
	*Roster
	t           *testing.T
	log         *memory.Log
	position    atomic.Int64
	kept        atomic.Int64 // how often it became the keeper
	leave, kill func()
	announced   atomic.Int64
}

// Announce counts, and passes on.
func (s *server) Announce(ctx context.Context, self drivers.Server) ([]drivers.Server, error) {
	s.announced.Add(1)
	return s.log.Announce(ctx, self)
}

// join starts a server, in a synctest bubble.
func join(t *testing.T, mem *memory.Store, id uint64) *server {
	t.Helper()
	s := &server{t: t, log: mem.Open()}
	s.Roster = New(Options{
		Log: s, Logger: slog.New(slog.DiscardHandler),
		Position: s.position.Load, BecameKeeper: func() { s.kept.Add(1) },
	})
	if err := s.Join(t.Context(), id, fmt.Append(nil, "server ", id)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	s.leave = func() { cancel(); <-done }
	s.kill = func() { _ = s.log.Close(); s.leave() }
	t.Cleanup(s.kill)
	return s
}

// want checks who is there, the keeper first, as each of the servers sees it.
func want(t *testing.T, servers ...*server) {
	t.Helper()
	for i, s := range servers {
		got := s.Servers()
		if len(got) != len(servers) {
			t.Fatalf("server %d sees %d servers, want %d", i, len(got), len(servers))
		}
		for j, other := range got {
			if other.ID != servers[j].self.ID || string(other.Info) != fmt.Sprint("server ", other.ID) {
				t.Errorf("server %d sees %v at %d", i, other, j)
			}
		}
		if s.Keeper() != (i == 0) {
			t.Errorf("server %d is the keeper: %v", i, s.Keeper())
		}
	}
}

// TestKeeper: the one that has been there longest is the keeper, until it leaves or dies, whatever its id.
func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a := join(t, mem, 30)
		want(t, a)
		time.Sleep(time.Minute)
		b := join(t, mem, 10)
		time.Sleep(time.Second)
		c := join(t, mem, 20)
		time.Sleep(every + 1)
		want(t, a, b, c)
		a.leave()
		time.Sleep(every + 1)
		want(t, b, c)
		killed := time.Now()
		b.kill()
		for !c.Keeper() {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(killed); took < drivers.PresenceTTL-every || took > drivers.PresenceTTL+every {
			t.Errorf("the next keeper took over after %v", took)
		}
		want(t, c)
		a = join(t, mem, 30)
		time.Sleep(every + 1)
		want(t, c, a)
		if a.kept.Load() != 0 || b.kept.Load() != 1 || c.kept.Load() != 1 {
			t.Errorf("told to be the keeper: %d, %d, %d times", a.kept.Load(), b.kept.Load(), c.kept.Load())
		}
	})
}

// TestKeeperCannotAnnounce: who has not been able to announce itself is not the keeper any more when another one takes over. When it
// can again it is not either, as long as the others say so.
func TestKeeperCannotAnnounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a := join(t, mem, 1)
		time.Sleep(time.Second)
		b := join(t, mem, 2)
		time.Sleep(every)
		for range 8 {
			a.log.Inject(memory.OpAnnounce, memory.Fault{Err: errors.New("no connection")})
		}
		for range 8 * every / time.Millisecond {
			if a.Keeper() && b.Keeper() {
				t.Fatal("two keepers")
			}
			time.Sleep(time.Millisecond)
		}
		if !b.Keeper() || a.Keeper() {
			t.Errorf("after long silence a is the keeper: %v, b: %v", a.Keeper(), b.Keeper())
		}
		time.Sleep(2 * every)
		if a.Keeper() == b.Keeper() || len(a.Servers()) != 2 || len(b.Servers()) != 2 {
			t.Errorf("a is the keeper: %v, b: %v", a.Keeper(), b.Keeper())
		}
	})
}

// TestKeeperAgain: who was the keeper, was silent, and is the keeper again is told so again: what was not done meanwhile is
// still to be done.
func TestKeeperAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := join(t, memory.NewStore(), 1)
		for range 10 {
			a.log.Inject(memory.OpAnnounce, memory.Fault{Err: errors.New("no connection")})
		}
		time.Sleep(5 * every)
		if a.Keeper() {
			t.Error("still the keeper")
		}
		time.Sleep(10 * every)
		if !a.Keeper() || a.kept.Load() != 2 {
			t.Errorf("the keeper again: %v, told %d times", a.Keeper(), a.kept.Load())
		}
	})
}

// reached waits for the others, and tells whether it has come to an end.
func (s *server) reached(ctx context.Context, position int64) chan error {
	done := make(chan error, 1)
	go func() { done <- s.Reached(ctx, position) }()
	return done
}

// TestReached: it waits for the slowest of those that are alive, by asking for them soon, and for nobody who is dead or has left.
func TestReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a, b, c, d := join(t, mem, 1), join(t, mem, 2), join(t, mem, 3), join(t, mem, 4)
		e := join(t, mem, 5)
		time.Sleep(every + 1)
		done := a.reached(t.Context(), 10)
		pending := func(why string) {
			t.Helper()
			time.Sleep(2 * every)
			if len(done) > 0 {
				t.Fatalf("%s, and it ended with %v", why, <-done)
			}
		}
		pending("nobody is there")
		b.position.Store(10)
		pending("c, d and e are not there")
		c.position.Store(9)
		pending("c is one short")
		c.position.Store(1000)
		d.kill()
		time.Sleep(drivers.PresenceTTL)
		pending("e is not there")
		asked := a.announced.Load()
		e.leave()
		begun := time.Now()
		if err := <-done; err != nil || time.Since(begun) > time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		if asked := a.announced.Load() - asked; asked > 3 {
			t.Errorf("asked %d times in a second", asked)
		}
		if err := a.Reached(t.Context(), 10); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Reached(ctx, 11); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("b is not there, but %v", err)
		}
	})
}

// TestReachedBlind: who does not hear of the others does not take them for being there.
func TestReachedBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a, b := join(t, mem, 1), join(t, mem, 2)
		b.position.Store(10)
		time.Sleep(every + 1)
		for range 1000 {
			a.log.Inject(memory.OpAnnounce, memory.Fault{Err: errors.New("no connection")})
		}
		time.Sleep(4 * every)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Reached(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// TestReachedJoining: one that joins is waited for, too, as soon as it has announced itself.
func TestReachedJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a, b := join(t, mem, 1), join(t, mem, 2)
		time.Sleep(every + 1)
		done := a.reached(t.Context(), 5)
		c := join(t, mem, 3)
		time.Sleep(every)
		b.position.Store(5)
		time.Sleep(2 * every)
		if len(done) > 0 {
			t.Error("the one that joined was not waited for")
		}
		c.position.Store(5)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestTwoInstances: two processes with one id are a mistake. They are noticed as others, and the one that leaves does not take the
// other one along.
func TestTwoInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a := join(t, mem, 1)
		time.Sleep(time.Second)
		b := join(t, mem, 1)
		c := join(t, mem, 2)
		time.Sleep(time.Minute)
		if a.self.Instance == b.self.Instance {
			t.Error("two processes have one instance")
		}
		a.leave()
		time.Sleep(2 * every)
		for _, s := range []*server{b, c} {
			if len(s.Servers()) != 2 {
				t.Errorf("%d servers", len(s.Servers()))
			}
		}
		if b.Keeper() == c.Keeper() {
			t.Errorf("keepers: %v, %v", b.Keeper(), c.Keeper())
		}
	})
}

// TestRestart: a process that was killed and started again under its id is the youngest.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a := join(t, mem, 1)
		time.Sleep(time.Second)
		b := join(t, mem, 2)
		a.kill()
		time.Sleep(time.Second)
		a = join(t, mem, 1)
		time.Sleep(every + 1)
		want(t, b, a)
	})
}

// TestJoinFails: a server that cannot be announced is not there.
func TestJoinFails(t *testing.T) {
	log := memory.NewStore().Open()
	log.Inject(memory.OpAnnounce, memory.Fault{Err: errors.New("no connection")})
	r := New(Options{
		Log: log, Logger: slog.New(slog.DiscardHandler), Position: func() int64 { return 0 },
		BecameKeeper: func() { t.Error("the keeper") },
	})
	if err := r.Join(t.Context(), 1, nil); err == nil || r.Keeper() || len(r.Servers()) != 0 {
		t.Errorf("%v, keeper %v, %v", err, r.Keeper(), r.Servers())
	}
}

// TestLeavingIsBounded: a database that hangs does not keep a server from stopping.
func TestLeavingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := join(t, memory.NewStore(), 1)
		a.log.Inject(memory.OpAnnounce, memory.Fault{Hold: make(chan struct{})})
		begun := time.Now()
		a.leave()
		if took := time.Since(begun); took > leaveTime {
			t.Errorf("leaving took %v", took)
		}
	})
}

// TestQuit: who has quit is not there for the others and is not the keeper, at once, and tells nothing more; it may do so from anywhere
// and more than once.
func TestQuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		a := join(t, mem, 1)
		time.Sleep(time.Second)
		b := join(t, mem, 2)
		time.Sleep(every)
		a.Quit()
		a.Quit()
		if a.Keeper() {
			t.Error("still the keeper")
		}
		time.Sleep(every + 1)
		want(t, b)
		announced := a.announced.Load()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Reached(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who has quit hears that the others are there: %v", err)
		}
		if n := a.announced.Load() - announced; n != 0 || b.kept.Load() != 1 {
			t.Errorf("it announced itself %d times; the other one was told %d times", n, b.kept.Load())
		}
		begun := time.Now()
		if a.leave(); time.Since(begun) > 0 {
			t.Error("it leaves once more")
		}
		want(t, b)
	})
}
