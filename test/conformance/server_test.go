package conformance

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
	"google.golang.org/grpc"
)

var (
	binDir  = flag.String("bin", "../../.build/bin", "directory of the servers and of etcdctl")
	server  = flag.String("server", "keelson", "the binary under test; etcd proves the tests themselves")
	rewrite = flag.Bool("rewrite", false, "write etcd's answers into the corpus")
)

// binary finds a server; without it the tests cannot say anything.
func binary(tb testing.TB, name string) string {
	tb.Helper()
	path, err := filepath.Abs(filepath.Join(*binDir, name))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("%v: make build builds keelson, make peers builds etcd and etcdctl", err)
	}
	return path
}

// process is a server process with a connection to it.
type process struct {
	*launch.Process
	conn  *grpc.ClientConn
	flags []string
}

func (p *process) Conn() *grpc.ClientConn { return p.conn }

func (p *process) Restart(ctx context.Context, kill bool) error {
	end := p.Stop
	if kill {
		end = p.Kill
	}
	if err := end(); err != nil {
		return err
	}
	return p.Process.Restart(ctx)
}

// starter starts servers of one binary, each empty and ended with its test.
func starter(name string) script.StartFunc {
	return func(tb testing.TB, flags []string) script.Server {
		tb.Helper()
		return start(tb, binary(tb, name), flags)
	}
}

func start(tb testing.TB, path string, flags []string) *process {
	tb.Helper()
	flags = append(datastoreFlags(tb, path), flags...)
	p, err := launch.Start(tb.Context(), launch.Options{Binary: path, Dir: tb.TempDir(), Flags: flags})
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := script.Dial(p.Endpoint())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
		if err := p.Stop(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("the end of %s's log:\n%s", filepath.Base(path), p.LogTail())
		}
	})
	return &process{p, conn, flags}
}
