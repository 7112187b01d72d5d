package shared

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/pg"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

var binDir = flag.String("bin", "../../../.build/bin", "directory of the servers' binaries")

// database is the one that is there in every Postgres.
const database = "postgres"

// deployment is several servers of one store.
type deployment struct {
	servers []*launch.Process
	// database and proxies, one for each server, are nil where servers keep their data themselves.
	database *pg.Server
	proxies  []*pg.Proxy
}

func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(*binDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds keelson, make peers builds etcd", err)
	}
	return path
}

// closing ends the servers with the test.
func (d *deployment) closing(t *testing.T) *deployment {
	t.Cleanup(func() {
		for i, p := range d.servers {
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("the end of server %d's log:\n%s", i, p.LogTail())
			}
		}
	})
	return d
}

// alone is one server of a binary that keeps its data itself.
func alone(t *testing.T, name string) *deployment {
	t.Helper()
	p, err := launch.Start(t.Context(), launch.Options{Binary: binary(t, name), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return (&deployment{servers: []*launch.Process{p}}).closing(t)
}

// cluster is an etcd of so many members.
func cluster(t *testing.T, members int) *deployment {
	t.Helper()
	var all []launch.Options
	for i := range members {
		all = append(all, launch.Options{Binary: binary(t, "etcd"), Dir: t.TempDir(), Name: fmt.Sprintf("m%d", i)})
	}
	servers, err := launch.StartCluster(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	return (&deployment{servers: servers}).closing(t)
}

// onPostgres is so many Keelsons on one database.
func onPostgres(t *testing.T, servers int) *deployment {
	t.Helper()
	var dirs []string // made first, to be removed last
	for range servers {
		dirs = append(dirs, t.TempDir())
	}
	d := (&deployment{database: pg.Run(t, pg.Options{Durable: true})}).closing(t)
	for i, dir := range dirs {
		proxy, err := pg.StartProxy(d.database)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proxy.Close() })
		p, err := launch.Start(t.Context(), launch.Options{
			Binary: binary(t, "keelson"), Dir: dir, Name: fmt.Sprintf("s%d", i), Flags: []string{"--datastore=" + proxy.URL(database)},
		})
		if err != nil {
			t.Fatal(err)
		}
		d.proxies, d.servers = append(d.proxies, proxy), append(d.servers, p)
	}
	return d
}

// dial connects to a server, again and again when it is gone. A request fails at once while there is no connection.
func dial(t *testing.T, p *launch.Process) *grpc.ClientConn {
	t.Helper()
	connect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}
	conn, err := grpc.NewClient(p.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(connect))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
