package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/test/pg"
)

// kube is a client of kine that does what the Kubernetes API server does.
type kube struct {
	*server
	rand *rand.Rand
	mod  map[string]int64 // of the keys that live
	skip func()           // if not nil, takes a revision
}

func (k *kube) txn(key string, mod int64, success, failure *pb.RequestOp) bool {
	k.t.Helper()
	r := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: mod}}},
		Success: []*pb.RequestOp{success},
	}
	if failure != nil {
		r.Failure = []*pb.RequestOp{failure}
	}
	resp := must[*pb.TxnResponse](k.t)(k.Txn(k.t.Context(), r))
	if !resp.Succeeded {
		k.t.Fatalf("the transaction on %s at revision %d failed", key, mod)
	}
	k.mod[key] = resp.Header.Revision
	return true
}

// step creates, changes or deletes an object.
func (k *kube) step() {
	k.t.Helper()
	key := fmt.Sprintf("/registry/pods/default/p%02d", k.rand.IntN(25))
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
	put := &pb.PutRequest{Key: []byte(key), Value: []byte(strings.Repeat(fmt.Sprint("v\x00", k.rand.IntN(1e6)), k.rand.IntN(20)))}
	if k.rand.IntN(4) == 0 {
		put.Lease = []int64{3600, 7200}[k.rand.IntN(2)] // kine gives what was asked for as the id
	}
	mod, lives := k.mod[key]
	switch {
	case !lives:
		k.txn(key, 0, op(put), nil)
	case k.rand.IntN(4) == 0:
		k.txn(key, mod, op(&pb.DeleteRangeRequest{Key: []byte(key)}), get)
		delete(k.mod, key)
	default:
		k.txn(key, mod, op(put), get)
	}
}

// compacts is what API servers do every five minutes to agree on who compacts.
func (k *kube) compacts(version int64) {
	k.t.Helper()
	key := []byte("compact_rev_key")
	resp := must[*pb.TxnResponse](k.t)(k.Txn(k.t.Context(), &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: version}}},
		Success: []*pb.RequestOp{op(&pb.PutRequest{Key: key, Value: fmt.Append(nil, k.revision())})},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	}))
	if !resp.Succeeded {
		k.t.Fatalf("compact_rev_key is not at version %d", version)
	}
}

// gap makes a revision at which no key changes, if the database has such.
func (k *kube) gap() {
	k.t.Helper()
	before := k.revision()
	if k.skip == nil {
		k.step()
		return
	}
	k.skip()
	k.step()
	if got := k.revision(); got != before+2 {
		k.t.Fatalf("a change after revision %d and a gap has revision %d", before, got)
	}
}

func (k *kube) fill() (compact, current int64) {
	k.t.Helper()
	for range 150 {
		k.step()
	}
	k.gap()
	k.compacts(0)
	k.compacts(1)
	compact = k.revision()
	for range 100 {
		k.step()
	}
	k.compacts(2)
	k.gap()
	must[*pb.CompactionResponse](k.t)(k.Compact(k.t.Context(), &pb.CompactionRequest{Revision: compact}))
	k.step()
	return compact, k.revision()
}

// TestKine fills kine through its API, takes it to Keelson, and from there to another kine, on each of its databases. All show the same
// at every revision that is kept, but for versions, which kine does not have.
func TestKine(t *testing.T) {
	for name, database := range map[string]func(*testing.T) (source, target string, skip func()){
		// As k3s has it.
		"sqlite": func(t *testing.T) (string, string, func()) {
			dir := t.TempDir()
			return "sqlite://" + filepath.Join(dir, "state.db") + "?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate", "sqlite://" + filepath.Join(dir, "back.db"), nil
		},
		"postgres": postgres,
		"mariadb":  mariadb,
	} {
		t.Run(name, func(t *testing.T) {
			source, back, skip := database(t)
			drillKine(t, source, back, skip)
		})
	}
}

// drillKine is TestKine on a database. skip has the database give away an id that no change gets, as a transaction that is rolled back does: kine fills it with a gap.
func drillKine(t *testing.T, source, back string, skip func()) {
	first := startKine(t, source)
	k := &kube{server: first, rand: rand.New(rand.NewPCG(4, 0)), mod: map[string]int64{}, skip: skip}
	compact, current := k.fill()

	// From one that runs, and from its database when it was killed.
	running, dir := filepath.Join(t.TempDir(), "data"), t.TempDir()
	refused(t, "name its database", first.url, "dir:"+running)
	migrate(t, "kine+"+source, "dir:"+running)
	want := first.history("/registry/", "/registry0", compact, current, false)
	seen := func(s *server, before bool) string {
		return s.events("/registry/", "/registry0", compact+1, current, before)
	}
	events, before := seen(first, false), seen(first, true)
	if err := first.kill(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	migrate(t, "kine+"+source, "dir:"+data)
	for _, d := range []string{running, data} {
		if out := run(t, "keelson", "check", "--data-dir", d); !strings.Contains(out, "sound: ") {
			t.Error(out)
		}
	}
	keelson := start(t, "keelson", dir)
	same(t, "Range of Keelson", want, keelson.history("/registry/", "/registry0", compact, current, false))
	if got := seen(keelson, false); got != events {
		t.Errorf("a watch on Keelson sees\n%s\nand not\n%s", got, events)
	}
	// The API server's own key has its version in kine, and has it in Keelson.
	resp := must[*pb.RangeResponse](t)(keelson.Range(t.Context(), &pb.RangeRequest{Key: []byte("compact_rev_key")}))
	if len(resp.Kvs) != 1 || resp.Kvs[0].Version != 3 {
		t.Errorf("compact_rev_key is %v", resp.Kvs)
	}
	lease := must[*pb.LeaseTimeToLiveResponse](t)(keelson.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 3600, Keys: true}))
	if lease.GrantedTTL != 3600 || len(lease.Keys) == 0 {
		t.Errorf("the lease is %v", lease)
	}
	if err := keelson.stop(); err != nil {
		t.Fatal(err)
	}

	refused(t, "versions: kine has none", data, "kine+"+back)
	migrate(t, data, "kine+"+back, "--yes")
	refused(t, "already", data, "kine+"+back, "--yes")
	second := startKine(t, back)
	refused(t, "name its database", data, second.url, "--yes", "--merge")
	same(t, "Range of the other kine", want, second.history("/registry/", "/registry0", compact, current, false))
	if got := seen(second, true); got != before {
		t.Errorf("a watch on the other kine sees\n%s\nand not\n%s", got, before)
	}
	// It goes on where the first one ended, and what it compacts is what the first one would.
	k = &kube{server: second, rand: k.rand, mod: k.mod}
	k.compacts(3)
	k.step()
	if got := second.revision(); got != current+2 {
		t.Errorf("after two changes the revision is %d, and was %d", got, current)
	}
}

// postgres gives two databases in a server.
func postgres(t *testing.T) (source, target string, skip func()) {
	s := pg.Run(t, pg.Options{})
	for _, name := range []string{"one", "two"} {
		if _, err := s.Query(t.Context(), "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
	}
	return s.URL("one"), s.URL("two"), func() {
		if _, err := s.QueryIn(t.Context(), "one", "SELECT nextval(pg_get_serial_sequence('kine', 'id'))"); err != nil {
			t.Fatal(err)
		}
	}
}

// mariadb starts a MariaDB server that nobody can reach but by its socket, and gives two databases in it.
func mariadb(t *testing.T) (source, target string, skip func()) {
	t.Helper()
	// The path of a socket must be short.
	dir, err := os.MkdirTemp("", "mariadb")
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	common := []string{"--no-defaults", "--datadir=" + data, "--user=" + me.Username}
	install := exec.Command("mariadb-install-db", append(common, "--auth-root-authentication-method=normal", "--skip-test-db")...)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db (make mariadb installs it): %v\n%s", err, out)
	}
	path, err := exec.LookPath("mariadbd")
	if err != nil {
		path = "/usr/sbin/mariadbd"
	}
	socket, log := filepath.Join(dir, "socket"), filepath.Join(dir, "log")
	cmd := exec.Command(path, append(common, "--socket="+socket, "--skip-networking", "--log-error="+log, "--pid-file="+filepath.Join(dir, "pid"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	dsn := func(name string) string { return "root@unix(" + socket + ")/" + name }
	db, err := sql.Open("mysql", dsn(""))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for db.PingContext(ctx) != nil {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			text, _ := os.ReadFile(log)
			t.Fatalf("MariaDB does not answer:\n%s", text)
		}
	}
	for _, name := range []string{"one", "two"} {
		if _, err := db.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
	}
	return "mysql://" + dsn("one"), "mysql://" + dsn("two"), func() {
		if err := rolledBack(t.Context(), dsn("one")); err != nil {
			t.Fatal(err)
		}
	}
}

// rolledBack inserts a row and does not.
func rolledBack(ctx context.Context, dsn string) error {
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO kine (name) VALUES ('x')")
	return errors.Join(err, tx.Rollback())
}

// TestKineSharedRevisions: what changes several keys at once gets revisions of its own, if that is asked for.
func TestKineSharedRevisions(t *testing.T) {
	etcd := start(t, "etcd", t.TempDir())
	_, current := etcd.fill(5)
	path := filepath.Join(t.TempDir(), "state.db")
	refused(t, "--renumber", etcd.url, "kine+sqlite:"+path, "--yes")
	refused(t, "revisions: ", etcd.url, "kine+sqlite:"+path, "--renumber")
	migrate(t, etcd.url, "kine+sqlite:"+path, "--renumber", "--yes")
	s := startKine(t, "sqlite://"+path)
	if got := s.revision(); got <= current {
		t.Errorf("the revision is %d, and was %d", got, current)
	}
	want, got := etcd.pairs("/", "0"), s.pairs("/", "/registry/")+s.pairs("/registry0", "0")
	if want != got {
		t.Errorf("kine has\n%s\nand not\n%s", got, want)
	}
}

// pairs gives keys and values.
func (s *server) pairs(key, end string) string {
	s.t.Helper()
	var b strings.Builder
	resp := must[*pb.RangeResponse](s.t)(s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}))
	for _, kv := range resp.Kvs {
		fmt.Fprintf(&b, "%q=%q\n", kv.Key, kv.Value)
	}
	return b.String()
}
