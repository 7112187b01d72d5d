package pg

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

func query(t *testing.T, s *Server, sql string) string {
	t.Helper()
	out, err := s.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTwoServers(t *testing.T) {
	t.Parallel()
	a, b := Run(t, Options{}), Run(t, Options{Settings: map[string]string{"max_connections": "17"}})
	if a.Address() == b.Address() || a.DataDir() == b.DataDir() {
		t.Fatal("two servers share an address or a directory")
	}
	if got := query(t, a, "SHOW max_connections; SHOW fsync; SHOW synchronous_commit"); got != "100\noff\non" {
		t.Errorf("settings: %q", got)
	}
	if got := query(t, b, "SHOW max_connections"); got != "17" {
		t.Errorf("max_connections: %q", got)
	}
	Database(t, a, `odd "name"`)
	if got, err := a.QueryIn(t.Context(), `odd "name"`, "SELECT current_database()"); err != nil || got != `odd "name"` {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := b.QueryIn(t.Context(), `odd "name"`, "SELECT 1"); err == nil {
		t.Error("the database is in both servers")
	}
}

func TestPasswordIsChecked(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	u, err := url.Parse(s.URL("postgres"))
	check(t, err)
	u.User = url.UserPassword(Superuser, "wrong")
	if _, err := s.queryURL(t.Context(), u.String(), "SELECT 1"); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("a wrong password: %v", err)
	}
	if got, err := s.queryURL(t.Context(), s.SocketURL("postgres"), "SELECT inet_client_addr() IS NULL"); err != nil || got != "t" {
		t.Errorf("by the socket: %q, %v", got, err)
	}
}

func TestStopAndKillKeepWhatIsCommitted(t *testing.T) {
	t.Parallel()
	s, other := Run(t, Options{Durable: true}), Run(t, Options{})
	if got := query(t, s, "SHOW fsync; CREATE TABLE t (n int); INSERT INTO t VALUES (1)"); got != "on" {
		t.Errorf("fsync: %q", got)
	}
	url := s.URL("postgres")
	check(t, s.Stop(t.Context()))
	if s.Running() || len(workingIn(s.DataDir())) != 0 {
		t.Error("processes are left after Stop")
	}
	if _, err := s.Query(t.Context(), "SELECT 1"); err == nil {
		t.Error("a stopped server answers")
	}
	check(t, s.Restart(t.Context()))
	query(t, s, "INSERT INTO t VALUES (2)")
	check(t, s.Kill())
	if left := workingIn(s.DataDir()); len(left) != 0 {
		t.Errorf("processes are left after Kill: %v", left)
	}
	check(t, s.Restart(t.Context()))
	check(t, s.Restart(t.Context()))
	if got := query(t, s, "SELECT n FROM t ORDER BY n"); got != "1\n2" || s.URL("postgres") != url {
		t.Errorf("after stop and kill: %q at %s, was %s", got, s.URL("postgres"), url)
	}
	if got := query(t, other, "SELECT now() - pg_postmaster_start_time() > '1 ms'"); got != "t" {
		t.Error("another server was touched")
	}
}

func TestStartTakesAnotherPortWhenOneIsTaken(t *testing.T) {
	t.Parallel()
	s := Run(t, Options{})
	check(t, s.Stop(t.Context()))
	l, err := net.Listen("tcp", s.Address())
	check(t, err)
	defer l.Close()
	if err := s.Restart(t.Context()); !errors.Is(err, errExited) || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("restart on a port that is taken: %v", err)
	}
	check(t, s.startAnywhere(t.Context()))
	query(t, s, "SELECT 1")
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("an unknown setting: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled context: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Options{})
	check(t, err)
	pid := s.proc.cmd.Process.Pid
	check(t, s.Close())
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the postmaster: %v", err)
	}
	check(t, s.Close())
}
