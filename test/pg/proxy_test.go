package pg

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func startProxy(t *testing.T, target Target) *Proxy {
	t.Helper()
	p, err := StartProxy(target)
	check(t, err)
	t.Cleanup(func() { check(t, p.Close()) })
	return p
}

// by runs SQL by way of a proxy.
func by(ctx context.Context, s *Server, p *Proxy, sql string) (string, error) {
	return s.queryURL(ctx, p.URL("postgres"), sql)
}

func TestProxyForwards(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	p := startProxy(t, s)
	const big = "SELECT length(string_agg(x::text, '')) FROM (SELECT repeat('x', 1000) AS x FROM generate_series(1, 5000)) AS y"
	if got, err := by(t.Context(), s, p, big); err != nil || got != "5000000" {
		t.Errorf("%q, %v", got, err)
	}
	got, err := by(t.Context(), s, p, "SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
	if err != nil || len(got) != 20000*1001-1 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	other := Run(t, Options{})
	query(t, other, "CREATE TABLE here ()")
	p.Redirect(other)
	if got, err := by(t.Context(), s, p, "SELECT count(*) FROM here"); err != nil || got != "0" {
		t.Errorf("redirected: %q, %v", got, err)
	}
}

func TestProxyRefusesAndCuts(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	p := startProxy(t, s)
	failed := make(chan error, 1)
	go func() {
		_, err := by(t.Context(), s, p, "SELECT pg_sleep(60)")
		failed <- err
	}()
	sleepers := "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
	check(t, s.Await(t.Context(), sleepers, "1"))
	p.Refuse()
	if _, err := net.Dial("tcp", p.Address()); err == nil {
		t.Error("connected to who refuses")
	}
	if got := query(t, s, sleepers); got != "1" {
		t.Errorf("%s sleepers", got)
	}
	p.Cut()
	if err := <-failed; err == nil {
		t.Error("a query outlived its connection")
	}
	check(t, p.Heal())
	if _, err := by(t.Context(), s, p, "SELECT 1"); err != nil {
		t.Error(err)
	}
	check(t, p.Close())
	if _, err := by(t.Context(), s, p, "SELECT 1"); err == nil {
		t.Error("a closed proxy answers")
	}
}

func TestProxyBlackHole(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	p := startProxy(t, s)
	p.BlackHole()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := by(ctx, s, p, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("through a black hole: %v", err)
	}
	check(t, p.Heal())

	// Who is in the middle of something goes on after the fault.
	answered := make(chan error, 1)
	go func() {
		_, err := by(t.Context(), s, p, "SELECT 'answered', pg_sleep(0.3)")
		answered <- err
	}()
	check(t, s.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1"))
	p.BlackHole()
	select {
	case err := <-answered:
		t.Errorf("an answer through a black hole: %v", err)
	case <-time.After(2 * soon):
	}
	check(t, p.Heal())
	check(t, <-answered)

	// The server does not see that a client is gone.
	ctx, cancel = context.WithTimeout(t.Context(), 2*soon)
	defer cancel()
	go func() {
		_, err := by(ctx, s, p, "SELECT 'lost', pg_sleep(0.1); SELECT 'idle', pg_sleep(60)")
		answered <- err
	}()
	check(t, s.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%idle'', pg_sleep(60)%' AND wait_event = 'PgSleep'", "1"))
	p.BlackHole()
	if err := <-answered; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("through a black hole: %v", err)
	}
	time.Sleep(soon / 5)
	p.mu.Lock()
	open := len(p.conns)
	p.mu.Unlock()
	if open != 1 {
		t.Errorf("%d connections are open", open)
	}
}

func TestProxyDelay(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	p := startProxy(t, s)
	p.Delay(50 * time.Millisecond)
	began := time.Now()
	if _, err := by(t.Context(), s, p, "SELECT 1 FROM generate_series(1, 1000)"); err != nil {
		t.Fatal(err)
	}
	// The greeting, the password in two steps and the query are four round trips. A thousand rows are not.
	if took := time.Since(began); took < 400*time.Millisecond || took > 20*time.Second {
		t.Errorf("%v", took)
	}
}

func TestProxyCutAt(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	p := startProxy(t, s)
	query(t, s, "CREATE TABLE t (n int PRIMARY KEY)")
	for i, c := range []struct {
		pattern string
		when    Moment
		sql     string
		rows    string
	}{
		{"COMMIT", BeforeRequest, "BEGIN; INSERT INTO t VALUES (1); commit; INSERT INTO t VALUES (2);", ""},
		{"COMMIT", BeforeAnswer, "BEGIN; INSERT INTO t VALUES (3); commit; INSERT INTO t VALUES (4);", "3"},
		{"VALUES (6)", BeforeRequest, "INSERT INTO t VALUES (5); INSERT INTO t VALUES (6);", "3\n5"},
		{"VALUES (8)", BeforeAnswer, "INSERT INTO t VALUES (7); INSERT INTO t VALUES (8); INSERT INTO t VALUES (9);", "3\n5\n7\n8"},
	} {
		fired := p.CutAt(c.pattern, c.when)
		if got, err := by(t.Context(), s, p, c.sql); err == nil {
			t.Errorf("%d: %q, want a broken connection", i, got)
		}
		<-fired
		if got := query(t, s, "SELECT n FROM t ORDER BY n"); got != c.rows {
			t.Errorf("%d: rows %q, want %q", i, got, c.rows)
		}
	}
	if got, err := by(t.Context(), s, p, "BEGIN; SELECT 1; COMMIT"); err != nil || got != "1" {
		t.Errorf("a cut that is over: %q, %v", got, err)
	}
	fired := p.CutAt("COMMIT", BeforeRequest)
	check(t, p.Heal())
	if _, err := by(t.Context(), s, p, "BEGIN; COMMIT"); err != nil {
		t.Error(err)
	}
	select {
	case <-fired:
		t.Error("fired after Heal")
	default:
	}
}

// TestProxyCutAtPrepared has pgbench prepare a statement once and execute it many times.
func TestProxyCutAtPrepared(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	p := startProxy(t, s)
	query(t, s, "CREATE TABLE t (n serial)")
	if _, err := os.Stat(filepath.Join(s.workshop.bin, "pgbench")); err != nil {
		t.Fatalf("pgbench comes with the server programs of PostgreSQL: %v", err)
	}
	script := filepath.Join(s.dir, "script")
	check(t, s.workshop.writeFile(script, []byte("SELECT 1;\nINSERT INTO t VALUES (DEFAULT);\n")))
	bench := func(when Moment) {
		t.Helper()
		fired := p.CutAt("insert into t", when)
		cmd := s.workshop.command(s.dir, "pgbench", "-n", "-M", "prepared", "-t", "10", "-f", script, p.URL("postgres"))
		if _, err := run(t.Context(), cmd); err == nil {
			t.Error("pgbench did not see its connection break")
		}
		<-fired
	}
	bench(BeforeRequest)
	if got := query(t, s, "SELECT count(*) FROM t"); got != "0" {
		t.Errorf("%s rows", got)
	}
	bench(BeforeAnswer)
	if got := query(t, s, "SELECT count(*) FROM t"); got != "1" {
		t.Errorf("%s rows", got)
	}
}
