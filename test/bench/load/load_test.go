package load

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
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
	for _, l := range All() {
		if l.Elsewhere() || l.Without[server.Null] != "" {
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
	if ran < 7 {
		t.Errorf("%d loads ran on the null server, want 7", ran)
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

func TestMeasuresAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, l := range All() {
		for _, m := range l.Measures {
			if seen[m.ID] || !strings.HasPrefix(m.ID, l.Name+".") {
				t.Errorf("measure %q of load %q is there twice or misnamed", m.ID, l.Name)
			}
			seen[m.ID] = true
		}
	}
}
