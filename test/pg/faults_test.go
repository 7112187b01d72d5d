package pg

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soon is long enough for an answer that comes, and short enough to wait for one that does not.
const soon = 500 * time.Millisecond

func TestPause(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	check(t, s.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := s.Query(ctx, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused server: %v", err)
	}
	check(t, s.Resume())
	query(t, s, "SELECT 1")
	check(t, s.Pause())
	check(t, s.Stop(t.Context()))
	check(t, s.Restart(t.Context()))
	check(t, s.Pause())
	check(t, s.Kill())
	if err := s.Pause(); !errors.Is(err, errExited) {
		t.Errorf("pause of a server that is gone: %v", err)
	}
	check(t, s.Restart(t.Context()))
	query(t, s, "SELECT 1")
}

func TestTerminateBackends(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	failed := make(chan error, 1)
	go func() {
		_, err := s.Query(t.Context(), "SELECT pg_sleep(60)")
		failed <- err
	}()
	check(t, s.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)' AND wait_event = 'PgSleep'", "1"))
	if n, err := s.TerminateBackends(t.Context()); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "terminating connection") {
		t.Errorf("the sleeper: %v", err)
	}
}

func TestStandby(t *testing.T) {
	t.Parallel()
	primary := Run(t, Options{TLS: true})
	query(t, primary, "CREATE TABLE t (n int)")
	standby, err := primary.Standby(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, standby.Close()) })
	check(t, primary.Set(t.Context(), "synchronous_standby_names", "FIRST 1 ("+standby.Name()+")"))
	check(t, primary.Await(t.Context(), "SELECT sync_state FROM pg_stat_replication", "sync"))
	query(t, primary, "SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1)")
	if got := query(t, standby, "SELECT n FROM t"); got != "1" {
		t.Errorf("the standby has %q", got)
	}

	check(t, standby.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := primary.Query(ctx, "INSERT INTO t VALUES (2)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a commit without the synchronous standby: %v", err)
	}
	check(t, standby.Resume())

	if _, err := standby.Query(t.Context(), "INSERT INTO t VALUES (3)"); err == nil {
		t.Error("a standby takes writes")
	}
	check(t, primary.Kill())
	check(t, standby.Promote(t.Context()))
	query(t, standby, "INSERT INTO t VALUES (3)")
	if got := query(t, standby, "SELECT count(*) FROM t WHERE n IN (1, 3)"); got != "2" {
		t.Errorf("the new primary has %q rows", got)
	}
	if _, err := standby.queryURL(t.Context(), standby.TLSURL("postgres"), "SELECT 1"); err != nil {
		t.Errorf("TLS with the new primary: %v", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{TLS: true})
	const who = "SELECT current_user, ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
	for _, c := range []struct{ url, want string }{
		{s.URL("postgres"), "postgres|f|"},
		{s.TLSPasswordURL("postgres"), "postgres|t|"},
		{s.TLSURL("postgres"), TLSUser + "|t|/CN=" + TLSUser},
	} {
		if got, err := s.queryURL(t.Context(), c.url, who); err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.url, got, err, c.want)
		}
	}
	for _, url := range []string{
		strings.Replace(s.TLSURL("postgres"), "sslcert=", "sslcert=no", 1),
		strings.Replace(s.TLSURL("postgres"), "sslmode=verify-full", "sslmode=disable", 1),
		strings.Replace(s.TLSURL("postgres"), "//"+TLSUser, "//postgres", 1), // has a password
	} {
		if got, err := s.queryURL(t.Context(), url, who); err == nil {
			t.Errorf("%s: %q, want an error", url, got)
		}
	}
}

func TestBouncer(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	Database(t, s, "pooled")
	b, err := StartBouncer(t.Context(), s, BouncerOptions{PoolSize: 1})
	check(t, err)
	t.Cleanup(func() { check(t, b.Close()) })
	var pids []string
	for range 2 { // two clients, one connection
		got, err := s.queryURL(t.Context(), b.URL("pooled"), "SELECT pg_backend_pid(), current_database()")
		if err != nil {
			t.Fatal(err, b.LogTail())
		}
		pids = append(pids, got)
	}
	if pids[0] != pids[1] || !strings.HasSuffix(pids[0], "|pooled") {
		t.Errorf("not pooled: %q", pids)
	}
	check(t, s.Kill())
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := s.queryURL(ctx, b.URL("pooled"), "SELECT 1"); err == nil {
		t.Error("pgbouncer answers without its server")
	}
	check(t, s.Restart(t.Context()))
	for deadline := time.Now().Add(patience); ; time.Sleep(soon / 5) { // server_login_retry has to pass
		got, err := s.queryURL(t.Context(), b.URL("pooled"), "SELECT 1")
		if err == nil && got == "1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a restart of the server: %q, %v; %s", got, err, b.LogTail())
		}
	}
	_, err = StartBouncer(t.Context(), s, BouncerOptions{PoolMode: "nonsense"})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a pool mode that there is not: %v", err)
	}
}

// TestHelperLeaves is no test, but the process that TestNothingOutlivesAKilledProcess kills.
func TestHelperLeaves(t *testing.T) {
	if os.Getenv("KEELSON_PG_HELPER") == "" {
		return
	}
	running, paused := Run(t, Options{}), Run(t, Options{})
	if _, err := StartBouncer(t.Context(), running, BouncerOptions{}); err != nil {
		t.Fatal(err)
	}
	check(t, paused.Pause())
	_, _ = os.Stderr.WriteString(running.DataDir() + "\n" + paused.DataDir() + "\n")
	_, _ = running.Query(t.Context(), "SELECT pg_sleep(600)")
}

func TestNothingOutlivesAKilledProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperLeaves$")
	cmd.Env = append(os.Environ(), "KEELSON_PG_HELPER=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	lines := bufio.NewReader(out)
	var dirs []string
	for range 2 {
		line, err := lines.ReadString('\n')
		check(t, err)
		dirs = append(dirs, strings.TrimSpace(line))
	}
	for _, dir := range dirs {
		if len(workingIn(dir)) < 2 {
			t.Errorf("no server works in %s", dir)
		}
	}
	check(t, cmd.Process.Kill())
	_, _ = io.Copy(io.Discard, lines)
	_ = cmd.Wait() // killed
	base := filepath.Dir(filepath.Dir(dirs[0]))
	deadline := time.Now().Add(20 * time.Second)
	for {
		left := len(workingIn(dirs[0])) + len(workingIn(dirs[1]))
		_, err := os.Stat(base)
		if left == 0 && errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes are left, and of the directory: %v", left, err)
		}
		time.Sleep(pollInterval)
	}
}
