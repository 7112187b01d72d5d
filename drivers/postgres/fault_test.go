package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/test/pg"
)

// open opens a log of its own on a server.
func open(t *testing.T, o Options) *running {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r := runLog(l)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// batch makes a batch of one entry.
func batch(id byte) *drivers.Batch {
	return &drivers.Batch{ID: drivers.BatchID{id}, Time: time.Now(), Entries: []drivers.Entry{{Kind: 1, Meta: []byte{id}, Value: []byte("v")}}}
}

// put appends a batch where the log ends.
func put(t *testing.T, l drivers.Log, id byte) drivers.End {
	t.Helper()
	b, err := l.ReadIndex(t.Context())
	if err == nil {
		err = l.Append(t.Context(), b.End, batch(id))
	}
	if err != nil {
		t.Fatalf("append %d: %v", id, err)
	}
	return drivers.End{Position: b.End.Position + 1, Batch: drivers.BatchID{id}}
}

func end(t *testing.T, l drivers.Log) drivers.End {
	t.Helper()
	b, err := l.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b.End
}

// TestRestarts: what ends all connections is bridged, as long as it does not last, and nothing is written twice.
func TestRestarts(t *testing.T) {
	s := pg.Run(t, pg.Options{Durable: true})
	l := open(t, Options{URL: s.URL("postgres"), Patience: 30 * time.Second})
	epoch := l.Epoch()
	for i, fail := range []func() error{
		func() error { _, err := s.TerminateBackends(t.Context()); return err },
		func() error { return s.Restart(t.Context()) },
		func() error { return errors.Join(s.Kill(), s.Restart(t.Context())) },
	} {
		before := put(t, l, byte(10*i+1))
		if err := fail(); err != nil {
			t.Fatal(err)
		}
		if got := end(t, l); got != before {
			t.Fatalf("fault %d: the log ends at %v, want %v", i, got, before)
		}
		// The append itself meets the broken connections, too.
		if err := fail(); err != nil {
			t.Fatal(err)
		}
		err := l.Append(t.Context(), before, batch(byte(10*i+2)))
		if errors.Is(err, drivers.ErrUncertain) {
			if got := end(t, l); got == before {
				err = l.Append(t.Context(), before, batch(byte(10*i+2)))
			} else {
				err = nil
			}
		}
		if err != nil {
			t.Fatalf("fault %d: append: %v", i, err)
		}
		if got := end(t, l); got.Position != before.Position+1 || got.Batch != (drivers.BatchID{byte(10*i + 2)}) {
			t.Fatalf("fault %d: the log ends at %v", i, got)
		}
		if now := l.Epoch(); now != epoch {
			t.Errorf("fault %d: the epoch was %d and is %d: nothing can be lost", i, epoch, now)
		}
	}
}

// TestAway: a database that stays away is told in bounded time, and when it is back everything goes on.
func TestAway(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	var log lockedBuffer
	l := open(t, Options{URL: s.URL("postgres"), Patience: 300 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	before := put(t, l, 1)
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		err := l.Append(t.Context(), before, batch(2))
		// The connection's end may come when the append is on its way.
		if err == nil || errors.Is(err, drivers.ErrConflict) {
			t.Errorf("append while the database is away: %v", err)
		}
		if _, err := l.ReadIndex(t.Context()); err == nil {
			t.Error("read index while the database is away")
		}
		if err := l.Values(t.Context(), []int64{1}, make([][]byte, 1)); err == nil || errors.Is(err, drivers.ErrScrubbed) {
			t.Errorf("values while the database is away: %v", err)
		}
		if strings.Contains(fmt.Sprint(err), s.Password()) {
			t.Error("the password is in the error")
		}
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, l, 3)
	for _, text := range []string{"does not answer as it should", "answers again"} {
		if n := strings.Count(log.String(), text); n != 1 {
			t.Errorf("%q was logged %d times", text, n)
		}
	}
	if strings.Contains(log.String(), s.Password()) {
		t.Error("the password is in the log")
	}
}

// TestNothingLeaks: closed logs leave neither connections nor goroutines behind, whatever they went through.
func TestNothingLeaks(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	before := runtime.NumGoroutine()
	for i := range 5 {
		l, err := Open(t.Context(), Options{URL: s.URL("postgres"), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		r := runLog(l)
		put(t, r, byte(i+1))
		if i%2 == 0 {
			if _, err := s.TerminateBackends(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelson'", "0"); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+2 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines were there, %d are\n%s", before, n, buf[:runtime.Stack(buf, true)])
	}
}

// TestRoles: what a role or a database has by default changes nothing.
func TestRoles(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	for _, setting := range []string{
		"synchronous_commit = off", "default_transaction_isolation = 'repeatable read'", "default_transaction_isolation = 'serializable'",
		"statement_timeout = '1s'", "search_path = ''", "DateStyle = 'German'", "client_encoding = 'LATIN1'", "enable_indexscan = off", "row_security = off",
		"bytea_output = 'escape'", "TimeZone = 'Asia/Kathmandu'", "standard_conforming_strings = off",
	} {
		t.Run(setting, func(t *testing.T) {
			db := "db" + strconv.Itoa(int(shared.n.Add(1)))
			if err := s.CreateDatabase(t.Context(), db); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Query(t.Context(), fmt.Sprintf("ALTER DATABASE %s SET %s", db, setting)); err != nil {
				t.Fatal(err)
			}
			a, b := open(t, Options{URL: s.URL(db)}), open(t, Options{URL: s.URL(db)})
			for i := range 20 {
				l, other := a, b
				if i%2 == 1 {
					l, other = b, a
				}
				after := put(t, l, byte(i+1))
				if err := other.Append(t.Context(), drivers.End{}, batch(77)); !errors.Is(err, drivers.ErrConflict) {
					t.Fatalf("a stale append: %v", err)
				}
				if got := end(t, other); got != after {
					t.Fatalf("the log ends at %v, want %v", got, after)
				}
			}
			if err := a.Scrub(t.Context(), []int64{1, 2}); err != nil {
				t.Fatal(err)
			}
			if err := a.Check(t.Context(), func(f string) { t.Error(f) }); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRefused: what cannot work is refused at the start, with what to do.
func TestRefused(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	standby, err := s.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	for _, sql := range []string{
		"CREATE ROLE reader LOGIN PASSWORD 'pw'", "CREATE SCHEMA foreign_one; CREATE TABLE foreign_one.head (x int)",
	} {
		if _, err := s.Query(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	open(t, Options{URL: s.URL("postgres"), Name: "newer"})
	if _, err := s.Query(t.Context(), "UPDATE newer.head SET version = 99"); err != nil {
		t.Fatal(err)
	}
	open(t, Options{URL: s.URL("postgres"), Name: "made"})
	if _, err := s.Query(t.Context(), "GRANT USAGE ON SCHEMA made TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA made TO reader"); err != nil {
		t.Fatal(err)
	}
	reader := "postgres://reader:pw@" + s.Address() + "/postgres?sslmode=disable"
	for what, c := range map[string]struct {
		opts Options
		want error
		says string
	}{
		"a standby":          {Options{URL: standby.URL("postgres")}, drivers.ErrReadOnly, "primary"},
		"no right to make":   {Options{URL: reader}, drivers.ErrReadOnly, "CREATE"},
		"no right to write":  {Options{URL: reader, Name: "made"}, drivers.ErrReadOnly, "GRANT"},
		"a foreign schema":   {Options{URL: s.URL("postgres"), Name: "foreign_one"}, drivers.ErrForeign, "another name"},
		"a newer schema":     {Options{URL: s.URL("postgres"), Name: "newer"}, drivers.ErrNewer, "newer"},
		"no such database":   {Options{URL: s.URL("nowhere")}, nil, "createdb"},
		"a wrong password":   {Options{URL: strings.Replace(reader, ":pw@", ":xyzzy@", 1)}, nil, "refuses the user or password"},
		"a bad name":         {Options{URL: reader, Name: "pg_x"}, nil, "cannot be a log's name"},
		"no URL":             {Options{}, nil, "missing"},
		"a bad URL":          {Options{URL: "postgres://u:xyzzy@h:port/x"}, nil, "cannot parse"},
		"no password file":   {Options{URL: reader, PasswordFile: "/nonexistent"}, nil, "password"},
		"nobody listens":     {Options{URL: "postgres://u:xyzzy@127.0.0.1:1/x"}, nil, "refused"},
		"nothing to inspect": {Options{URL: s.URL("postgres"), Name: "absent", ReadOnly: true}, drivers.ErrForeign, "none"},
	} {
		c.opts.Patience = 100 * time.Millisecond
		c.opts.Logger = slog.New(slog.DiscardHandler)
		l, err := Open(t.Context(), c.opts)
		if err == nil {
			_ = l.Close()
		}
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "xyzzy") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestPromotedStandby: a standby that was promoted without the last commits of its primary has another history, and says so.
func TestPromotedStandby(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	p, err := pg.StartProxy(s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l := open(t, Options{URL: p.URL("postgres"), Patience: 20 * time.Second})
	kept := put(t, l, 1)
	epoch := l.Epoch()
	standby, err := s.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	if err := standby.Await(t.Context(), "SELECT count(*) FROM keelson.log", "1"); err != nil {
		t.Fatal(err)
	}
	// What comes now does not get there.
	if err := standby.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost := put(t, l, 2)
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(standby.Restart(t.Context()), standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	p.Redirect(standby)
	p.Cut()
	if got := end(t, l); got != kept {
		t.Fatalf("the log ends at %v, the standby has %v", got, kept)
	}
	if now := l.Epoch(); now <= epoch {
		t.Errorf("the epoch was %d and is %d", epoch, now)
	}
	if err := l.ScrubIn(t.Context(), epoch, []int64{1}); !errors.Is(err, drivers.ErrEpoch) {
		t.Errorf("scrub in the epoch before: %v", err)
	}
	if err := l.Append(t.Context(), lost, batch(3)); !errors.Is(err, drivers.ErrConflict) {
		t.Errorf("append after what is lost: %v", err)
	}
	if err := l.Follow(t.Context(), lost, func(*drivers.Batch) error { return errors.New("a batch") }); !errors.Is(err, drivers.ErrDiverged) {
		t.Errorf("follow after what is lost: %v", err)
	}
	if err := l.Moved(t.Context(), lost); err != nil {
		t.Errorf("moved: %v", err)
	}
	// The place is taken by another batch.
	put(t, l, 4)
	put(t, l, 7)
	if err := l.ScrubIn(t.Context(), epoch, []int64{1, 2}); !errors.Is(err, drivers.ErrEpoch) {
		t.Errorf("scrub of what was found before the failover: %v", err)
	}
	if err := l.Append(t.Context(), lost, batch(5)); !errors.Is(err, drivers.ErrConflict) {
		t.Errorf("append after what is lost: %v", err)
	}
	put(t, l, 6)
	if err := l.Follow(t.Context(), lost, func(*drivers.Batch) error { return errors.New("a batch") }); !errors.Is(err, drivers.ErrDiverged) {
		t.Errorf("follow after what is lost: %v", err)
	}
}

// TestUnconfirmed: a commit that a synchronous standby has not confirmed is no success, and not settled before it has.
func TestUnconfirmed(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	standby, err := s.Standby(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close()
	l := open(t, Options{URL: s.URL("postgres"), Patience: 200 * time.Millisecond, Answer: 20 * time.Second})
	before := put(t, l, 1)
	if err := errors.Join(s.Set(t.Context(), "synchronous_standby_names", standby.Name())); err != nil {
		t.Fatal(err)
	}
	before = put(t, l, 2)
	if err := standby.Pause(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Append(context.Background(), before, batch(3)) }()
	waiting := "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	if err := s.Await(t.Context(), waiting, "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Query(t.Context(), "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, drivers.ErrUncertain) {
		t.Fatalf("an unconfirmed commit: %v", err)
	}
	settled := make(chan error, 1)
	go func() { _, err := l.ReadIndex(context.Background()); settled <- err }()
	if err := s.Await(t.Context(), waiting, "1"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-settled:
		t.Fatalf("settled before the standby has confirmed: %v", err)
	default:
	}
	if err := standby.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-settled; err != nil {
		t.Fatal(err)
	}
	if got := end(t, l); got.Batch != (drivers.BatchID{3}) {
		t.Errorf("the log ends at %v", got)
	}
}

// TestNothingIsCancelled: who gives up an append that waits for a synchronous standby must not end the waiting: others would see what
// the standby has not confirmed.
func TestNothingIsCancelled(t *testing.T) {
	s := pg.Run(t, pg.Options{})
	l := open(t, Options{URL: s.URL("postgres"), Patience: 100 * time.Millisecond, Answer: time.Second})
	other := open(t, Options{URL: s.URL("postgres")})
	before := put(t, l, 1)
	if err := s.Set(t.Context(), "synchronous_standby_names", "nobody"); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), before, batch(2)); !errors.Is(err, drivers.ErrUncertain) {
		t.Fatalf("append without the standby: %v", err)
	}
	for range 20 {
		if got := end(t, other); got != before {
			t.Fatalf("the log ends at %v: the unconfirmed append shows", got)
		}
	}
	waiting, err := s.Query(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	if err != nil || waiting == "0" {
		t.Errorf("%s commits wait, %v", waiting, err)
	}
	if err := s.Set(t.Context(), "synchronous_standby_names", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "0"); err != nil {
		t.Fatal(err)
	}
	if got := end(t, l); got.Batch != (drivers.BatchID{2}) {
		t.Errorf("the log ends at %v", got)
	}
}

// TestFrozenHolder: a server that stops in the middle of its turn does not keep the others from appending.
func TestFrozenHolder(t *testing.T) {
	o := place(t)
	a, b := open(t, o), open(t, o)
	before := put(t, a, 1)
	turn, err := a.Hold(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.turn.Load().timer.Stop() // it does not come to release it
	if err := b.Append(t.Context(), before, batch(2)); err != nil {
		t.Errorf("append beside a server that holds a turn for ever: %v", err)
	}
	if err := a.Append(t.Context(), turn.Bounds().End, batch(3)); err == nil {
		t.Error("the turn is over, and was used")
	}
	put(t, a, 4)
}

// TestConnections: no more are open than were allowed.
func TestConnections(t *testing.T) {
	s := pg.Run(t, pg.Options{Settings: map[string]string{"max_connections": "20"}})
	l := open(t, Options{URL: s.URL("postgres"), Connections: 5})
	put(t, l, 1)
	stop, done := make(chan struct{}), make(chan error, 30)
	for i := range cap(done) {
		go func() {
			var err error
			for err == nil {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				switch i % 3 {
				case 0:
					_, err = l.ReadIndex(context.Background())
				case 1:
					err = l.Values(context.Background(), []int64{1}, make([][]byte, 1))
				case 2:
					err = l.Scan(context.Background(), drivers.ScanOptions{Values: true}, func([]drivers.Entry) error { return nil })
				}
			}
			done <- err
		}()
	}
	for i := range 20 {
		put(t, l, byte(i+2))
		got, err := s.Query(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelson'")
		if n, aerr := strconv.Atoi(got); err != nil || aerr != nil || n > 5 {
			t.Fatalf("%s connections are open, %v", got, err)
		}
	}
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// lockedBuffer is a buffer for several goroutines, that can be waited for.
type lockedBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{} // holds a token when something was written since it was last empty
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.signal() <- struct{}{}:
	default:
	}
	return b.b.Write(p)
}

// signal gives the channel. Called with mu held.
func (b *lockedBuffer) signal() chan struct{} {
	if b.written == nil {
		b.written = make(chan struct{}, 1)
	}
	return b.written
}

// await waits until a text was written.
func (b *lockedBuffer) await(t *testing.T, text string) {
	t.Helper()
	b.mu.Lock()
	written := b.signal()
	b.mu.Unlock()
	timeout := time.After(time.Minute)
	for !strings.Contains(b.String(), text) {
		select {
		case <-written:
		case <-timeout:
			t.Fatalf("%q was not written:\n%s", text, b.String())
		}
	}
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
