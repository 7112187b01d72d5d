package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/pg"
	"github.com/keelson-io/keelson/test/ports"
)

// datastores are what Keelson restores to, and serves.
func datastores(t *testing.T) map[string]func(t *testing.T, path string, flags ...string) *server {
	t.Helper()
	postgres := pg.Run(t, pg.Options{})
	names := 0
	return map[string]func(*testing.T, string, ...string) *server{
		"sqlite": func(t *testing.T, path string, flags ...string) *server {
			return startBinary(t, "keelson", restoreBy(t, "keelson", path, flags...))
		},
		"postgres": func(t *testing.T, path string, flags ...string) *server {
			names++
			place := []string{"--datastore", postgres.URL("postgres"), "--datastore-name", fmt.Sprint("restored_", names)}
			run(t, "keelson", append(append([]string{"snapshot", "restore", path}, place...), flags...)...)
			return startBinary(t, "keelson", t.TempDir(), place...)
		},
	}
}

// sameTools compares what keelson says of a file with what etcdutl does, in each format.
func sameTools(t *testing.T, path string) {
	t.Helper()
	for _, format := range []string{"simple", "table", "json", "fields"} {
		want := run(t, "etcdutl", "snapshot", "status", path, "--write-out", format)
		got := run(t, "keelson", "snapshot", "status", path, "--write-out", format)
		if !bytes.Equal(got, want) {
			t.Errorf("keelson says\n%s\netcdutl says\n%s", got, want)
		}
	}
}

// filled is an etcd with history, tombstones, leases and a compaction; from gives the first revision at which hashes are compared.
func filled(t *testing.T, seed uint64) (s *server, from int64) {
	t.Helper()
	return filledIn(t, t.TempDir(), seed)
}

func filledIn(t *testing.T, dir string, seed uint64) (s *server, from int64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, seed))
	s = start(t, dir)
	s.grant()
	s.change(rng, 120)
	s.txn(del("\x00", "\x00"))
	s.change(rng, 40)
	from = s.revision() - 20
	s.compact(from - 1)
	s.change(rng, 60)
	return s, from
}

// TestDrill goes from etcd to Keelson and back, and on each way everything is the same at every revision.
func TestDrill(t *testing.T) {
	original, from := filled(t, 11)
	saved := original.save()
	sameTools(t, saved)
	for name, restored := range datastores(t) {
		t.Run(name, func(t *testing.T) {
			k := restored(t, saved)
			same(t, original, k, from)
			back := k.save()
			sameTools(t, back)
			same(t, k, start(t, restore(t, back)), from)
			// It goes on, and comes back once more, by Keelson's own command.
			k.change(rand.New(rand.NewPCG(12, 12)), 50)
			at := k.revision() - 30
			k.compact(at)
			k.change(rand.New(rand.NewPCG(13, 13)), 10)
			again := filepath.Join(t.TempDir(), "again")
			run(t, "keelson", "snapshot", "save", again, "--endpoints", k.Endpoint())
			sameTools(t, again)
			e := start(t, restore(t, again))
			same(t, k, e, at+1)
			same(t, e, restored(t, e.save()), at+1)
		})
	}
}

// TestDrillBumped: a raised revision is the same by either tool, and a file of it by either server.
func TestDrillBumped(t *testing.T) {
	original, _ := filled(t, 21)
	saved, at := original.save(), original.revision()
	bump := []string{"--bump-revision", "1000000", "--mark-compacted"}
	e := start(t, restore(t, saved, bump...))
	for name, restored := range datastores(t) {
		t.Run(name, func(t *testing.T) {
			k := restored(t, saved, bump...)
			bumped := at + 1_000_000
			same(t, e, k, bumped)
			for _, s := range []*server{e, k} {
				_, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Revision: at})
				if rpctypes.Error(err) != rpctypes.ErrCompacted {
					t.Errorf("at a revision of before: %v", err)
				}
			}
			same(t, k, start(t, restore(t, k.save())), bumped)
			same(t, e, restored(t, e.save()), bumped)
			// What comes next is the same, too: keys go on with their versions.
			x, y := restored(t, e.save()), start(t, restore(t, k.save()))
			for _, s := range []*server{x, y} {
				s.change(rand.New(rand.NewPCG(22, 22)), 30)
			}
			same(t, x, y, bumped+1)
			// Raised again, by Keelson what etcdutl has raised, and the other way round.
			p, q := restored(t, x.save(), bump...), start(t, restore(t, y.save(), bump...))
			same(t, p, q, p.revision())
		})
	}
}

// TestDrillBare: the database of an etcd that is stopped, without a snapshot.
func TestDrillBare(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.grant()
	s.change(rand.New(rand.NewPCG(31, 31)), 100)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	bare := copied(t, database(dir))
	sameTools(t, bare)
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, s, startBinary(t, "keelson", restoreBy(t, "keelson", bare, "--skip-hash-check")), 1)
}

// addresses gives free addresses for n servers' peers.
func addresses(t *testing.T, n int) (urls []string) {
	t.Helper()
	for range n {
		urls = append(urls, "http://"+ports.Address(t))
	}
	return urls
}

// cluster restores three members of a snapshot, and starts them.
func cluster(t *testing.T, path string) (members []*server, initial string) {
	t.Helper()
	urls := addresses(t, 3)
	var pairs []string
	for i, u := range urls {
		pairs = append(pairs, fmt.Sprintf("m%d=%s", i, u))
	}
	initial = strings.Join(pairs, ",")
	processes := make([]*launch.Process, len(urls))
	var g errgroup.Group
	for i, u := range urls {
		name := fmt.Sprint("m", i)
		flags := []string{"--initial-cluster=" + initial, "--initial-advertise-peer-urls=" + u, "--initial-cluster-token=restored"}
		dir := t.TempDir()
		run(t, "keelson", append([]string{"snapshot", "restore", path, "--data-dir", filepath.Join(dir, "data"), "--name", name}, flags...)...)
		g.Go(func() (err error) {
			processes[i], err = launch.Start(t.Context(), launch.Options{Binary: tool(t, "keelson"), Dir: dir, Name: name, Flags: append(flags, "--listen-peer-urls="+u)})
			return err
		})
	}
	err := g.Wait()
	for _, p := range processes {
		if p != nil {
			members = append(members, connect(t, p))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return members, initial
}

// settled waits until a member has what another one has.
func (s *server) settled(with *server) {
	s.t.Helper()
	s.catchUp()
	if a, b := s.revision(), with.revision(); a != b {
		s.t.Fatalf("a member is at revision %d, and another at %d", a, b)
	}
}

// catchUp waits until a member has what all had written.
func (s *server) catchUp() {
	s.t.Helper()
	if _, err := s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte("none")}); err != nil { // linearizable
		s.t.Fatal(err)
	}
}

// add adds a member, as soon as those that are there have been connected for as long as that takes.
func (s *server) add(url string) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := s.MemberAdd(s.t.Context(), &pb.MemberAddRequest{PeerURLs: []string{url}})
		if err == nil {
			return
		}
		if !errors.Is(rpctypes.Error(err), rpctypes.ErrUnhealthy) || time.Now().After(deadline) {
			s.t.Fatal(err)
		}
	}
}

// TestDrillCluster: three members that were restored are a cluster with the same data; it takes requests, and another member; and what any of them gives as a
// snapshot is that, with a leader and without.
func TestDrillCluster(t *testing.T) {
	original, from := filled(t, 41)
	members, initial := cluster(t, original.save())
	for _, m := range members {
		m.settled(members[0])
		same(t, original, m, from)
	}
	members[1].change(rand.New(rand.NewPCG(42, 42)), 30)
	url := addresses(t, 1)[0]
	members[2].add(url)
	p, err := launch.Start(t.Context(), launch.Options{Binary: tool(t, "keelson"), Dir: t.TempDir(), Name: "m3", Flags: []string{
		"--initial-cluster=" + initial + ",m3=" + url, "--initial-cluster-state=existing", "--initial-advertise-peer-urls=" + url, "--listen-peer-urls=" + url,
	}})
	if err != nil {
		t.Fatal(err)
	}
	fourth := connect(t, p)
	fourth.settled(members[0])
	for _, m := range members {
		m.settled(fourth)
		same(t, m, fourth, from)
	}
	// Three of four are stopped: nobody leads.
	for _, m := range members {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	leaderless := fourth.save()
	sameTools(t, leaderless)
	r, err := fourth.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Serializable: true})
	if err != nil {
		t.Fatal(err)
	}
	e := start(t, restore(t, leaderless))
	var kept []string
	for _, kv := range r.Kvs {
		kept = append(kept, kv.String())
	}
	if got := e.keys(0); !reflect.DeepEqual(got, kept) || e.revision() != r.Header.Revision {
		t.Errorf("at revision %d: %d keys, and %d of the snapshot at %d", r.Header.Revision, len(kept), len(got), e.revision())
	}
}

// TestDrillFollower: each member of a cluster gives the same snapshot of what is there.
func TestDrillFollower(t *testing.T) {
	original, from := filled(t, 51)
	members, _ := cluster(t, original.save())
	members[0].change(rand.New(rand.NewPCG(52, 52)), 20)
	var first *etcdfile.File
	for _, m := range members {
		m.settled(members[0])
		saved := m.save()
		f := open(t, saved)
		if first == nil {
			first = f
			same(t, m, start(t, restore(t, saved)), from)
		}
		sameRows(t, first, f)
		if got, want := f.Meta(), first.Meta(); len(got.Members) != 3 || !reflect.DeepEqual(got.Members, want.Members) || got.Compact != want.Compact || got.Revision != want.Revision {
			t.Errorf("%+v, and another member says %+v", got, want)
		}
	}
}

// TestDrillWrites: a snapshot that is taken while clients write is of one moment.
func TestDrillWrites(t *testing.T) {
	empty, _ := filled(t, 61)
	for name, restored := range datastores(t) {
		t.Run(name, func(t *testing.T) {
			s := restored(t, empty.save())
			consistentUnder(t, s, s)
		})
	}
	t.Run("cluster", func(t *testing.T) {
		members, _ := cluster(t, empty.save())
		consistentUnder(t, members[0], members[1])
	})
}

// consistentUnder writes to one member and takes snapshots of another: three keys say the same at every revision, and how many revisions there were.
func consistentUnder(t *testing.T, writer, from *server) {
	t.Helper()
	base := writer.revision()
	step := func(ctx context.Context, i int64) error {
		var ops []*pb.RequestOp
		for k := range 3 {
			ops = append(ops, put(fmt.Sprint("counter", k), fmt.Append(bytes.Repeat([]byte("0"), 2000), i), 0))
		}
		_, err := writer.Txn(ctx, &pb.TxnRequest{Success: ops})
		return err
	}
	if err := step(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stepped := make(chan struct{}, 1)
	wg.Go(func() {
		for i := int64(2); ctx.Err() == nil; i++ {
			if err := step(ctx, i); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			if i%50 == 0 {
				_, err := writer.Compact(ctx, &pb.CompactionRequest{Revision: base + i - 20, Physical: i%100 == 0})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
			select {
			case stepped <- struct{}{}:
			default:
			}
		}
	})
	from.catchUp()
	last := ""
	for range 8 {
		last = from.save()
		f := open(t, last)
		live := map[string]*mvccpb.KeyValue{}
		for row, err := range f.Rows() {
			kv := new(mvccpb.KeyValue)
			if err == nil {
				err = proto.Unmarshal(row.KeyValue, kv)
			}
			if err != nil {
				t.Fatal(err)
			}
			live[string(kv.Key)] = kv
		}
		rev := f.Meta().Revision
		for k := range 3 {
			kv := live[fmt.Sprint("counter", k)]
			var i int64
			if kv != nil {
				_, _ = fmt.Sscan(strings.TrimLeft(string(kv.Value), "0"), &i)
			}
			if kv == nil || kv.ModRevision != rev || base+i != rev || kv.Version != i {
				t.Errorf("at revision %d, %d after the first: key %d has %d, version %d, revision %d", rev, rev-base, k, i, kv.GetVersion(), kv.GetModRevision())
			}
		}
		<-stepped
	}
	e := start(t, restore(t, last))
	same(t, e, startBinary(t, "keelson", restoreBy(t, "keelson", last)), e.revision())
}

// TestDrillNothing: of an empty server there is a snapshot, too. Its file was where it should be made, and nothing is left of it.
func TestDrillNothing(t *testing.T) {
	dir := t.TempDir()
	k := startBinary(t, "keelson", t.TempDir(), "--snapshot-dir="+dir)
	saved := k.save()
	own, err := filepath.Glob(filepath.Join(dir, "keelson-*"))
	if err != nil || len(own) != 1 {
		t.Fatalf("%v, %v", own, err)
	}
	if left, err := os.ReadDir(own[0]); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	sameTools(t, saved)
	e := start(t, restore(t, saved))
	same(t, k, e, 1)
	same(t, e, startBinary(t, "keelson", restoreBy(t, "keelson", e.save())), 1)
	var s struct{ Revision int64 }
	if err := json.Unmarshal(run(t, "keelson", "snapshot", "status", saved, "-w", "json"), &s); err != nil || s.Revision > 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if info, err := os.Stat(saved); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}
