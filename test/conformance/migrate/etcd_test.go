package migrate

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
	mover "github.com/keelson-io/keelson/migrate"
)

func op(m proto.Message) *pb.RequestOp {
	if put, ok := m.(*pb.PutRequest); ok {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: m.(*pb.DeleteRangeRequest)}}
}

// load makes random changes: puts, with and without a lease, deletes of one and of many, and transactions of several.
func (s *server) load(seed uint64, n int) {
	s.t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	key := func() []byte { return fmt.Appendf(nil, "/k%02d", r.IntN(20)) }
	value := func() []byte { return []byte(strings.Repeat(fmt.Sprint(r.IntN(1000)), r.IntN(40))) }
	lease := func() int64 {
		if r.IntN(3) == 0 {
			return 77
		}
		return 0
	}
	for range n {
		var err error
		switch r.IntN(8) {
		case 0:
			_, err = s.DeleteRange(s.t.Context(), &pb.DeleteRangeRequest{Key: key()})
		case 1:
			_, err = s.DeleteRange(s.t.Context(), &pb.DeleteRangeRequest{Key: []byte("/k1"), RangeEnd: []byte("/k13")})
		case 2:
			ops := []*pb.RequestOp{op(&pb.DeleteRangeRequest{Key: []byte("/k0"), RangeEnd: []byte("/k04")})}
			for i := range 3 {
				ops = append(ops, op(&pb.PutRequest{Key: fmt.Append(nil, "/t", i), Value: value(), Lease: lease()}))
			}
			_, err = s.Txn(s.t.Context(), &pb.TxnRequest{Success: ops})
		default:
			_, err = s.Put(s.t.Context(), &pb.PutRequest{Key: key(), Value: value(), Lease: lease()})
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// fill gives a server a history, compacted in the middle, and the compact and the current revision.
func (s *server) fill(seed uint64) (compact, current int64) {
	s.t.Helper()
	ctx := s.t.Context()
	must[*pb.LeaseGrantResponse](s.t)(s.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 77, TTL: 3600}))
	s.load(seed, 150)
	compact = s.revision()
	s.load(seed+1, 100)
	must[*pb.CompactionResponse](s.t)(s.Compact(ctx, &pb.CompactionRequest{Revision: compact, Physical: true}))
	must[*pb.AuthRoleAddResponse](s.t)(s.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "reader"}))
	must[*pb.AuthUserAddResponse](s.t)(s.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "ann", Password: "secret"}))
	must[*pb.AuthUserGrantRoleResponse](s.t)(s.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "ann", Role: "reader"}))
	return compact, s.revision()
}

// extent is a stretch of history.
type extent struct{ from, to int64 }

// compare compares all that two servers show of a history.
func (s *server) compare(want *server, e extent) {
	s.t.Helper()
	// Not at the compact revision itself: there etcd answers as of before its compaction until it is started again.
	same(s.t, "HashKV", want.hashes(e.from+1, e.to), s.hashes(e.from+1, e.to))
	same(s.t, "Range", want.history("\x00", "\x00", e.from, e.to, true), s.history("\x00", "\x00", e.from, e.to, true))
	if w, g := want.events("/", "0", e.from+1, e.to, true), s.events("/", "0", e.from+1, e.to, true); w != g {
		s.t.Errorf("a watch sees\n%s\nand not\n%s", g, w)
	}
	ttl := func(s *server) string {
		r := must[*pb.LeaseTimeToLiveResponse](s.t)(s.LeaseTimeToLive(s.t.Context(), &pb.LeaseTimeToLiveRequest{ID: 77, Keys: true}))
		slices.SortFunc(r.Keys, bytes.Compare)
		return fmt.Sprintf("%d %q", r.GrantedTTL, r.Keys)
	}
	if w, g := ttl(want), ttl(s); w != g {
		s.t.Errorf("the lease has %s, and not %s", g, w)
	}
	user := must[*pb.AuthUserGetResponse](s.t)(s.UserGet(s.t.Context(), &pb.AuthUserGetRequest{Name: "ann"}))
	if fmt.Sprint(user.Roles) != "[reader]" {
		s.t.Errorf("the user has the roles %q", user.Roles)
	}
}

// TestEtcd takes a running etcd to Keelson, and from there to a snapshot of which etcdutl makes an etcd again. All three show the same at every revision that is kept.
func TestEtcd(t *testing.T) {
	etcd := start(t, "etcd", t.TempDir())
	compact, current := etcd.fill(1)
	kept := extent{compact, current}
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	migrate(t, etcd.url, "dir:"+data)
	refused(t, "not empty", etcd.url, "dir:"+data)

	keelson := start(t, "keelson", dir)
	keelson.compare(etcd, kept)
	// A snapshot of a running one.
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	migrate(t, keelson.url, "snapshot:"+snapshot)
	refused(t, "in use", data, "snapshot:"+snapshot+"2")
	if err := keelson.stop(); err != nil {
		t.Fatal(err)
	}
	// And of one that is stopped.
	migrate(t, data, "snapshot:"+snapshot+"2")
	refused(t, "not empty", data, "snapshot:"+snapshot)

	for _, file := range []string{snapshot, snapshot + "2"} {
		back := t.TempDir()
		run(t, "etcdutl", "snapshot", "restore", file, "--data-dir", filepath.Join(back, "data"))
		again := start(t, "etcd", back)
		again.compare(etcd, kept)
		if err := again.stop(); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "keelson", "check", "--data-dir", data)
}

// TestEtcdDir: an etcd's data directory is taken after a stop, and not while it runs, or after a kill that left in its log what its database does not have.
func TestEtcdDir(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	// The database is committed when it is closed, and not before.
	late := []string{"--backend-batch-interval=1h"}
	etcd := start(t, "etcd", dir, late...)
	compact, current := etcd.fill(2)
	// Some changes commit it at once, and puts do not.
	for range 3 {
		must[*pb.PutResponse](t)(etcd.Put(t.Context(), &pb.PutRequest{Key: []byte("/late"), Value: []byte("x"), Lease: 77}))
	}
	current += 3
	target := filepath.Join(t.TempDir(), "data")
	refused(t, "in use", data, "dir:"+target)
	if err := etcd.kill(); err != nil {
		t.Fatal(err)
	}
	refused(t, "was killed", data, "dir:"+target)
	migrate(t, data, "dir:"+target+"lossy", "--ignore-wal")

	etcd = start(t, "etcd", dir, late...)
	// It has taken in its log by then.
	must[*pb.RangeResponse](t)(etcd.Range(t.Context(), &pb.RangeRequest{Key: []byte("none")}))
	if err := etcd.stop(); err != nil {
		t.Fatal(err)
	}
	wal, elsewhere := filepath.Join(data, "member", "wal"), filepath.Join(dir, "wal")
	if err := os.Rename(wal, elsewhere); err != nil {
		t.Fatal(err)
	}
	refused(t, "--wal-dir", data, "dir:"+target)
	migrate(t, data, "dir:"+target, "--wal-dir", elsewhere)
	if err := os.Rename(elsewhere, wal); err != nil {
		t.Fatal(err)
	}
	etcd = start(t, "etcd", dir)
	start(t, "keelson", filepath.Dir(target)).compare(etcd, extent{compact, current})
}

// TestEndpoint: a running server gets what lives, or all changes, and nothing unasked.
func TestEndpoint(t *testing.T) {
	for _, name := range []string{"etcd", "keelson"} {
		t.Run(name, func(t *testing.T) {
			source := start(t, "etcd", t.TempDir())
			source.fill(3)
			live, whole := start(t, name, t.TempDir()), start(t, name, t.TempDir())
			refused(t, "not all of it can be kept", source.url, live.url)
			if got := live.revision(); got != 1 {
				t.Errorf("a refused migration has made revision %d", got)
			}
			out := migrate(t, source.url, live.url, "--yes")
			if !strings.Contains(out, "snapshot restore") {
				t.Errorf("the way that keeps everything is not named:\n%s", out)
			}
			refused(t, "--merge", source.url, live.url, "--yes")
			migrate(t, source.url, live.url, "--yes", "--merge")
			migrate(t, source.url, whole.url, "--yes", "--history")
			want := source.values()
			for _, s := range []*server{live, whole} {
				if got := s.values(); got != want {
					t.Errorf("it has\n%s\nand not\n%s", got, want)
				}
			}
			if before, after := live.revision(), whole.revision(); after < before {
				t.Errorf("the history makes revision %d, and what lives %d", after, before)
			}
		})
	}
}

// outlast waits until a lease has ended that is granted now, with the shortest TTL.
func (s *server) outlast() {
	s.t.Helper()
	id := must[*pb.LeaseGrantResponse](s.t)(s.LeaseGrant(s.t.Context(), &pb.LeaseGrantRequest{TTL: 1})).ID
	for must[*pb.LeaseTimeToLiveResponse](s.t)(s.LeaseTimeToLive(s.t.Context(), &pb.LeaseTimeToLiveRequest{ID: id})).GrantedTTL > 0 {
		time.Sleep(50 * time.Millisecond) // etcd tells nobody
	}
}

// TestShortLeases: a migration to a running server that takes longer than leases live keeps them alive, those that it finds there as well, and says which have a TTL that the server makes longer.
func TestShortLeases(t *testing.T) {
	source := bigFile(t, 300, etcdfile.Lease{ID: 77, TTL: 2}, etcdfile.Lease{ID: 78, TTL: 1})
	for _, name := range []string{"etcd", "keelson"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, name, t.TempDir())
			var planned, lost string
			steps := map[string]bool{}
			o := mover.Options{
				From: mover.Place{Kind: mover.Snapshot, Where: source}, To: mover.Place{Kind: mover.Endpoint, Where: s.url}, Accept: true, Logger: slog.New(slog.DiscardHandler),
				Plan: func(p mover.Plan) { planned = strings.Join(p.Lost, "\n") },
				Lost: func(text string) { lost = text },
				// Some keys are put before and some after, and all are read back before it is asked for the leases.
				Progress: func(step string, done, _ int64) {
					if step == "writing" || step == "reading the target back" && done > 0 {
						steps[step] = true
						s.outlast()
					}
				},
			}
			for _, o.Merge = range []bool{false, true} {
				proof, err := mover.Run(t.Context(), o)
				if err != nil || proof.Source != proof.Target || proof.Target.Keys != 300 || len(steps) != 2 {
					t.Fatalf("merge %v: %+v, %v, slowed in %v", o.Merge, proof, err, steps)
				}
				if raised := "lease 4e has 2 s and not 1 s"; !strings.Contains(planned+lost, raised) {
					t.Errorf("merge %v: it is planned that there is lost\n%s\nand told %q", o.Merge, planned, lost)
				}
				clear(steps)
				lost = ""
			}
		})
	}
}

// TestMoment takes a server that is written to all the while: what arrives is what it had at one revision.
func TestMoment(t *testing.T) {
	for _, name := range []string{"etcd", "keelson"} {
		t.Run(name, func(t *testing.T) {
			source := start(t, name, t.TempDir())
			end := source.write()
			var dirs []string
			for range 3 {
				dir := t.TempDir()
				migrate(t, source.url, "dir:"+filepath.Join(dir, "data"))
				dirs = append(dirs, dir)
			}
			end()
			for _, dir := range dirs {
				copied := start(t, "keelson", dir)
				at := copied.revision()
				t.Logf("taken at revision %d of %d", at, source.revision())
				same(t, "HashKV", source.hashes(at-20, at), copied.hashes(at-20, at))
				same(t, "Range", source.history("/", "0", at-20, at, true), copied.history("/", "0", at-20, at, true))
			}
		})
	}
}

// write changes keys until end is called, and has changed some when it returns.
func (s *server) write() (end func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			if i == 100 {
				close(begun)
			}
			value := fmt.Append(nil, i)
			_, err := s.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
				op(&pb.PutRequest{Key: fmt.Append(nil, "/a", i%10), Value: value}), op(&pb.PutRequest{Key: []byte("/b"), Value: value}), op(&pb.DeleteRangeRequest{Key: fmt.Append(nil, "/a", (i+5)%10)}),
			}})
			if err != nil {
				if ctx.Err() != nil {
					err = nil
				}
				ended <- err
				return
			}
		}
	}()
	select {
	case <-begun:
	case err := <-ended:
		cancel()
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		cancel()
		if err := <-ended; err != nil {
			s.t.Fatal(err)
		}
	}
}

// values gives the keys that live, with what a running server can be given.
func (s *server) values() string {
	var b strings.Builder
	resp := must[*pb.RangeResponse](s.t)(s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}))
	for _, kv := range resp.Kvs {
		fmt.Fprintf(&b, "%q=%q lease %x\n", kv.Key, kv.Value, kv.Lease)
	}
	return b.String()
}
