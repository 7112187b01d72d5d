package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keelson-io/keelson/drivers/drivertest"
	"github.com/keelson-io/keelson/test/pg"
)

// running is a log with its work in the background.
type running struct {
	*Log
	faults *faults
	cancel context.CancelFunc
	ended  chan struct{}
	once   sync.Once
}

func runLog(l *Log) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Log: l, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		_ = l.Run(ctx)
	}()
	return r
}

func (r *running) Close() error {
	r.once.Do(func() {
		r.cancel()
		<-r.ended
	})
	return r.Log.Close()
}

// TestMain ends the servers that tests have shared.
func TestMain(m *testing.M) {
	code := m.Run()
	for _, close := range slices.Backward(atEnd) {
		if err := close(); err != nil {
			code = 1
		}
	}
	os.Exit(code)
}

var (
	atEnd  []func() error
	shared struct {
		sync.Mutex
		server *pg.Server
		n      atomic.Int64
	}
)

// sharedServer gives the one server that all tests use which do nothing to it.
func sharedServer(t *testing.T) *pg.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := pg.Start(context.Background(), pg.Options{})
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
		atEnd = append(atEnd, s.Close)
	}
	return shared.server
}

// place gives options for a log that nobody else uses.
func place(t *testing.T) Options {
	t.Helper()
	return Options{URL: sharedServer(t).URL("postgres"), Name: fmt.Sprintf("log_%d_%d", os.Getpid(), shared.n.Add(1)), Logger: slog.New(slog.DiscardHandler)}
}

func TestContract(t *testing.T) { runContract(t, place, childrenThere) }

// TestContractBouncer: the same through pgbouncer in transaction mode, where a session is whoever's.
func TestContractBouncer(t *testing.T) {
	var mu sync.Mutex
	var bouncer *pg.Bouncer
	runContract(t, func(t *testing.T) Options {
		mu.Lock()
		defer mu.Unlock()
		o := place(t)
		if bouncer == nil {
			b, err := pg.StartBouncer(context.Background(), sharedServer(t), pg.BouncerOptions{PoolMode: "transaction"})
			if err != nil {
				t.Fatal(err)
			}
			bouncer = b
			atEnd = append(atEnd, b.Close)
		}
		o.URL = bouncer.URL("postgres")
		return o
	}, childrenThere+" AND state <> 'idle'") // it keeps the connections
}

// runContract runs the suite. left asks how much of killed processes the database still has.
func runContract(t *testing.T, place func(*testing.T) Options, left string) {
	drivertest.Run(t, drivertest.Harness{
		Durable: true,
		Shared:  true,
		New: func(t *testing.T) string {
			o := place(t)
			return o.URL + " " + o.Name
		},
		Open: func(place string) (drivertest.Log, error) {
			f := new(faults)
			url, name, _ := strings.Cut(place, " ")
			if shared.server == nil {
				url += "&application_name=" + child
			} else if err := shared.server.Await(context.Background(), left, "0"); err != nil {
				return nil, err
			}
			l, err := Open(context.Background(), Options{URL: url, Name: name, Logger: slog.New(slog.DiscardHandler), dial: f.dial})
			if err != nil {
				return nil, err
			}
			r := runLog(l)
			r.faults = f
			return r, nil
		},
		Doubt: func(t *testing.T, l drivertest.Log, d drivertest.Doubt) {
			l.(*running).faults.arm(fault{at: []byte("COMMIT"), forward: d.Done})
		},
	})
}

const (
	// child is what processes that are killed call themselves.
	child = "child"
	// childrenThere counts what the database still has of them: what was sent is done, also when the sender is dead.
	childrenThere = "SELECT count(*) FROM pg_stat_activity WHERE application_name = '" + child + "'"
)

// fault cuts a connection when something is sent that has some bytes in it.
type fault struct {
	at      []byte
	forward bool // after it was sent; what comes back is lost
}

// faults make connections fail on request.
type faults struct{ next atomic.Pointer[fault] }

func (f *faults) arm(next fault) { f.next.Store(&next) }

func (f *faults) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &faultyConn{Conn: c, faults: f}, nil
}

type faultyConn struct {
	net.Conn
	faults *faults
}

func (c *faultyConn) Write(b []byte) (int, error) {
	next := c.faults.next.Load()
	if next == nil || !bytes.Contains(b, next.at) || !c.faults.next.CompareAndSwap(next, nil) {
		return c.Conn.Write(b)
	}
	n, err := len(b), error(nil)
	if next.forward {
		if n, err = c.Conn.Write(b); err == nil {
			// The answer is awaited, so that it is certain what has been done, and lost.
			_, err = c.Conn.Read(make([]byte, 1))
		}
	}
	return n, errors.Join(err, c.Conn.Close())
}
