package load

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/test/bench/nullserver"
	"github.com/keelson-io/keelson/test/bench/server"
)

// TestMain makes the test's binary the null server, too, as the benchmark's own is.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "null" {
		os.Exit(serveNull(strings.TrimPrefix(os.Args[2], "-listen=")))
	}
	os.Exit(m.Run())
}

func serveNull(address string) int {
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = nullserver.Run(context.Background(), l)
	}
	if err != nil {
		return 1
	}
	return 0
}

func nullRun(t *testing.T) *Run {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	specs := server.Specs(t.TempDir(), self)
	dir := t.TempDir()
	return &Run{
		Spec: specs[len(specs)-1], Scale: 0.02, Ops: 3, Connections: 2, Dir: dir, Keep: t.TempDir(),
		LogFile: filepath.Join(dir, "log"), Values: NewValues(), Log: slog.New(slog.DiscardHandler),
	}
}

// Every load that the null server takes part in gives all its figures, so its checks hold where everything is right.
func TestLoadsOnTheNullServer(t *testing.T) {
	ran := 0
	elsewhere := []string{"failover", "memory", "disk-100", "disk-1"} // see TestLoadsOnACluster
	for _, l := range append(All(), Raft()...) {
		if l.Elsewhere() || l.Without[server.Null] != "" || slices.Contains(elsewhere, l.Name) {
			continue
		}
		ran++
		t.Run(l.Name, func(t *testing.T) {
			figures, err := l.Do(t.Context(), nullRun(t))
			if err != nil {
				t.Fatal(err)
			}
			for id, v := range figures {
				if v <= 0 {
					t.Errorf("%s = %v, want more than nothing", id, v)
				}
			}
		})
	}
	if want := 7 + 7; ran != want {
		t.Errorf("%d loads ran on the null server, want %d", ran, want)
	}
}

// A server that forgets between two starts fails the restart's check.
func TestRestartOnAServerThatForgets(t *testing.T) {
	r := nullRun(t)
	if err := os.WriteFile(filepath.Join(r.Keep, "filled"), []byte("20000"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restart(t.Context(), r); !errors.Is(err, ErrWrong) {
		t.Errorf("restart on a server that forgot its keys: %v, want ErrWrong", err)
	}
}

func TestAServerThatEndsIsAnError(t *testing.T) {
	r := nullRun(t)
	r.Spec.Binary = "/bin/false"
	if _, err := All()[0].Do(t.Context(), r); !errors.Is(err, server.ErrExited) {
		t.Errorf("a load on a server that ends at once: %v, want ErrExited", err)
	}
}

// Two processes of the null server share nothing: what was written at one is missing at the other.
func TestServersThatDoNotShareTheirDataAreFoundOut(t *testing.T) {
	r := nullRun(t)
	r.Spec.Processes = 2
	if _, err := create("create-10", 10, everywhere)(t.Context(), r); !errors.Is(err, ErrWrong) {
		t.Errorf("creates on two servers with data of their own: %v, want ErrWrong", err)
	}
}

func TestServersGetConnectionsInTurn(t *testing.T) {
	r := nullRun(t)
	r.Spec.Processes = 2
	n, err := r.fresh(t.Context(), everywhere)
	if err != nil {
		t.Fatal(err)
	}
	defer n.stop(t.Context())
	for _, c := range []struct {
		total int
		at    where
		want  []int
	}{
		{4, everywhere, []int{0, 1, 0, 1}},
		{3, everywhere, []int{0, 1, 0, 1}},
		{1, everywhere, []int{0, 1}},
		{2, atFollower, []int{1, 1}},
		{3, atLeader, []int{0, 0, 0}},
	} {
		if err := n.connectAll(t.Context(), c.total, n.at(c.at)); err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, s := range n.shared {
			got = append(got, s.at)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d connections to servers %v lead to %v, want %v", c.total, n.at(c.at), got, c.want)
		}
	}
	r.Ops = 0
	const done = 5
	out, err := r.drive(t.Context(), n, plan{clients: 6, ops: done}, func(context.Context, *worker) error { return nil })
	if err != nil || !slices.Equal(out.servers, []int{6 * done, 0}) || out.leastShare() != 0 {
		t.Errorf("clients of the first server alone: %+v, %v", out, err)
	}
}

// A server that does not use its database is no server on Postgres.
func TestConnectionsToPostgresAreCounted(t *testing.T) {
	r := nullRun(t)
	r.Spec.Postgres = true
	if _, err := create("create-10", 10, everywhere)(t.Context(), r); !errors.Is(err, ErrWrong) || !strings.Contains(err.Error(), "no connection") {
		t.Errorf("a server on Postgres that has no connection to it: %v, want ErrWrong", err)
	}
}

func TestMeasuresAreNamedOnce(t *testing.T) {
	for _, loads := range [][]Load{All(), Postgres(), Raft()} {
		seen := map[string]bool{}
		for _, l := range loads {
			for _, m := range l.Measures {
				if seen[m.ID] || !strings.HasPrefix(m.ID, l.Name+".") {
					t.Errorf("measure %q of load %q is there twice or misnamed", m.ID, l.Name)
				}
				seen[m.ID] = true
			}
			for _, id := range l.Shares {
				if !seen[id] {
					t.Errorf("load %q shares %q, which is no measure", l.Name, id)
				}
			}
		}
	}
}
