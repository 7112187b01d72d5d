package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keelson-io/keelson/test/pg"
)

var datastore = flag.String("datastore", "sqlite", "where the server under test keeps its data: sqlite, or postgres for a real PostgreSQL that the tests start")

// database is the PostgreSQL that all servers under test share, each with a name of its own.
var database struct {
	sync.Mutex
	*pg.Server
	names atomic.Int64
}

func TestMain(m *testing.M) {
	code := m.Run()
	if database.Server != nil {
		if err := database.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// datastoreFlags are those of an empty store for one more server.
func datastoreFlags(tb testing.TB, path string) []string {
	tb.Helper()
	if *datastore == "sqlite" || filepath.Base(path) != "keelson" {
		return nil
	}
	if *datastore != "postgres" {
		tb.Fatalf("-datastore=%s is neither sqlite nor postgres", *datastore)
	}
	database.Lock()
	defer database.Unlock()
	if database.Server == nil {
		s, err := pg.Start(context.Background(), pg.Options{})
		if err != nil {
			tb.Fatal(err)
		}
		database.Server = s
	}
	return []string{"--datastore=" + database.URL("postgres"), fmt.Sprintf("--datastore-name=test_%d", database.names.Add(1))}
}
