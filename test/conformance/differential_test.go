package conformance

import (
	"context"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/differ"
	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
	"google.golang.org/grpc"
)

var (
	seed   = flag.Uint64("seed", 1, "seed of the first random script; 0 takes the time, to look for what is new")
	ops    = flag.Int("ops", 300, "steps of a random script")
	rounds = flag.Int("rounds", 20, "random scripts")
)

// shrinkTries bounds how many scripts are played to shorten one.
const shrinkTries = 250

// TestDifferential plays random scripts on etcd and on the server under test.
func TestDifferential(t *testing.T) {
	pair := differ.Pair{Etcd: freshServers(t, "etcd"), Tested: freshServers(t, *server)}
	runDifferential(t, pair)
}

// TestDifferentialOfEtcd proves that the comparison finds nothing where there is nothing.
func TestDifferentialOfEtcd(t *testing.T) {
	pair := differ.Pair{Etcd: freshServers(t, "etcd"), Tested: freshServers(t, "etcd")}
	runDifferential(t, pair)
}

func runDifferential(t *testing.T, pair differ.Pair) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range *rounds {
		n := first + uint64(i)
		t.Logf("-seed=%d -ops=%d", n, *ops)
		steps := differ.Generate(n, *ops)
		r, err := pair.Compare(t.Context(), steps)
		if err != nil {
			t.Fatalf("seed %d: %v", n, err)
		}
		if r.At < 0 {
			continue
		}
		t.Logf("seed %d: a difference in step %d: %s; shrinking", n, r.Step, r.Commands[r.At])
		short, err := pair.Shrink(t.Context(), steps, r, shrinkTries)
		if err != nil {
			t.Logf("seed %d: shrinking ended early: %v", n, err)
		}
		t.Errorf("seed %d:\n%s", n, short.Script())
	}
}

// freshServers starts a server of its own for every script.
func freshServers(tb testing.TB, name string, opts ...grpc.DialOption) differ.Start {
	path := binary(tb, name)
	return func(ctx context.Context) (script.Server, func(), error) {
		dir, err := os.MkdirTemp(tb.TempDir(), name)
		if err != nil {
			return nil, nil, err
		}
		p, err := launch.Start(ctx, launch.Options{Binary: path, Dir: dir, Flags: append(datastoreFlags(tb, path), "--max-txn-ops=8", "--bcrypt-cost=4")})
		if err != nil {
			return nil, nil, err
		}
		conn, err := script.Dial(p.Endpoint(), opts...)
		stop := func() { stopServer(tb, p, conn, dir) }
		if err != nil {
			stop()
			return nil, nil, err
		}
		return &process{Process: p, conn: conn}, stop, nil
	}
}

func stopServer(tb testing.TB, p *launch.Process, conn *grpc.ClientConn, dir string) {
	if conn != nil {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
	}
	if err := p.Kill(); err != nil {
		tb.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		tb.Error(err)
	}
}
