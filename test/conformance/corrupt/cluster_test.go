package corrupt

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // driver
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
)

var (
	binDir = flag.String("bin", "../../../.build/bin", "directory of the server")
	server = flag.String("server", "keelson", "the binary under test")
	rounds = flag.Int("rounds", 6, "how often a member is killed while nothing is to be found")
)

// soon bounds what the tests wait for.
const soon = time.Minute

// member is one server, with stubs of what it is asked.
type member struct {
	*launch.Process
	dir string
	id  uint64
	pb.MaintenanceClient
	pb.KVClient
	pb.WatchClient
}

type cluster struct {
	t       *testing.T
	members []*member
}

func newCluster(t *testing.T, flags ...string) *cluster {
	path, err := filepath.Abs(filepath.Join(*binDir, *server))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds keelson", err)
	}
	var all []launch.Options
	for i := range 3 {
		all = append(all, launch.Options{Binary: path, Dir: t.TempDir(), Name: fmt.Sprint("m", i), Flags: flags})
	}
	processes, err := launch.StartCluster(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t}
	for i, p := range processes {
		t.Cleanup(func() {
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("the end of %s's log:\n%s", all[i].Name, p.LogTail())
			}
		})
		conn, err := script.Dial(p.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c.members = append(c.members, &member{p, all[i].Dir, 0, pb.NewMaintenanceClient(conn), pb.NewKVClient(conn), pb.NewWatchClient(conn)})
	}
	for _, m := range c.members {
		m.id = c.status(m).Header.MemberId
	}
	return c
}

// until asks again and again until it is so.
func (c *cluster) until(what string, so func(ctx context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !so(ctx) {
		select {
		case <-again.C:
		case <-ctx.Done():
			c.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (c *cluster) status(m *member) (s *pb.StatusResponse) {
	c.t.Helper()
	c.until("a status", func(ctx context.Context) (ok bool) {
		var err error
		s, err = m.Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
		return err == nil
	})
	return s
}

// leader waits until one of some members leads, and all of them say so. It gives it and the rest of all members.
func (c *cluster) leader(among ...*member) (leader *member, rest []*member) {
	c.t.Helper()
	c.until("a leader", func(context.Context) bool {
		leader = nil
		id := c.status(among[0]).Leader
		for _, m := range among {
			if c.status(m).Leader != id {
				return false
			}
			if m.id == id {
				leader = m
			}
		}
		return leader != nil
	})
	return leader, c.but(leader)
}

// but gives all members but some.
func (c *cluster) but(some ...*member) (rest []*member) {
next:
	for _, m := range c.members {
		for _, s := range some {
			if m == s {
				continue next
			}
		}
		rest = append(rest, m)
	}
	return rest
}

// put puts a key by a member, and waits until all the members that are given have it.
func (c *cluster) put(by *member, key, value string, all ...*member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	if _, err := by.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		c.t.Fatalf("put %s: %v", key, err)
	}
	for _, m := range all {
		r, err := m.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != value {
			c.t.Fatalf("member %x has %v: %v", m.id, r, err)
		}
	}
}

// alarmed waits until a member says that exactly these alarms are raised, and not before.
func (c *cluster) alarmed(by *member, members ...uint64) {
	c.t.Helper()
	c.until(fmt.Sprintf("CORRUPT alarms for %x", members), func(ctx context.Context) bool {
		r, err := by.Alarm(ctx, &pb.AlarmRequest{})
		if err != nil || len(r.Alarms) != len(members) {
			return false
		}
		for i, a := range r.Alarms {
			if a.Alarm != pb.AlarmType_CORRUPT || a.MemberID != members[i] {
				c.t.Fatalf("alarms %v, want CORRUPT for %x", r.Alarms, members)
			}
		}
		return true
	})
}

// alarm changes the CORRUPT alarm of a member, and waits until some members know of it.
func (c *cluster) alarm(by *member, action pb.AlarmRequest_AlarmAction, id uint64) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	if _, err := by.Alarm(ctx, &pb.AlarmRequest{Action: action, MemberID: id, Alarm: pb.AlarmType_CORRUPT}); err != nil {
		c.t.Fatalf("%v %x: %v", action, id, err)
	}
}

// health asks for /health.
func (c *cluster) health(m *member) (code int, body string) {
	c.t.Helper()
	resp, err := http.Get("http://" + m.Endpoint() + "/health")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// alter stops a member and changes its database.
func (c *cluster) alter(m *member, fn func(*sql.DB) error) {
	c.t.Helper()
	if err := m.Stop(); err != nil {
		c.t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(m.dir, "data", "member", "keelson.db"))
	if err == nil {
		err = errors.Join(fn(db), db.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// value replaces one value in a database by another one of the same size.
func value(from, to string) func(*sql.DB) error {
	return func(db *sql.DB) error {
		r, err := db.Exec("UPDATE log SET value = ? WHERE value = ?", []byte(to), []byte(from))
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); n != 1 || err != nil {
			return fmt.Errorf("%d rows have the value %s: %w", n, from, err)
		}
		return nil
	}
}

// chain changes the hash of the log that the last row has with it.
func chain(db *sql.DB) error {
	var position int64
	var batch []byte
	if err := db.QueryRow("SELECT position, batch FROM log ORDER BY position DESC LIMIT 1").Scan(&position, &batch); err != nil {
		return err
	}
	batch[len(batch)-1]++
	_, err := db.Exec("UPDATE log SET batch = ? WHERE position = ?", batch, position)
	return err
}
