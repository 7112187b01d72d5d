package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
)

var binDir = flag.String("bin", "../../../.build/bin", "directory of etcd, etcdctl and etcdutl")

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(*binDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds keelson, make peers etcd, etcdctl and etcdutl", err)
	}
	return path
}

// run gives the output of a command, which has to succeed.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, name), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.Bytes())
	}
	return out
}

// server is a real etcd, or a Keelson, with clients.
type server struct {
	t *testing.T
	*launch.Process
	pb.KVClient
	pb.LeaseClient
	pb.MaintenanceClient
	pb.AuthClient
	pb.ClusterClient
}

// start starts an etcd on the data in a directory, or an empty one.
func start(t *testing.T, dir string) *server {
	t.Helper()
	return startBinary(t, "etcd", dir)
}

// startBinary starts a server of either kind.
func startBinary(t *testing.T, name, dir string, flags ...string) *server {
	t.Helper()
	p, err := launch.Start(t.Context(), launch.Options{Binary: tool(t, name), Dir: dir, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, p)
}

// connect makes clients of a server that ends with the test.
func connect(t *testing.T, p *launch.Process) *server {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", p.Endpoint(), p.LogTail())
		}
	})
	conn, err := script.Dial(p.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &server{t, p, pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn), pb.NewAuthClient(conn), pb.NewClusterClient(conn)}
}

// restore makes a data directory of a snapshot, for start.
func restore(t *testing.T, path string, flags ...string) (dir string) {
	t.Helper()
	return restoreBy(t, "etcdutl", path, flags...)
}

// restoreBy does so by one of the tools that can.
func restoreBy(t *testing.T, name, path string, flags ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	args := []string{
		"snapshot", "restore", path, "--data-dir", filepath.Join(dir, "data"),
		"--initial-cluster", "default=http://127.0.0.1:1", "--initial-advertise-peer-urls", "http://127.0.0.1:1",
	}
	run(t, name, append(args, flags...)...)
	return dir
}

// database is where a data directory has its file.
func database(dir string) string { return filepath.Join(dir, "data", "member", "snap", "db") }

// save saves a snapshot by etcdctl.
func (s *server) save() (path string) {
	s.t.Helper()
	path = filepath.Join(s.t.TempDir(), "snapshot")
	run(s.t, "etcdctl", "--endpoints", s.Endpoint(), "snapshot", "save", path)
	return path
}

// status is what etcdutl says of a file.
func status(t *testing.T, path string) (s etcdfile.Status) {
	t.Helper()
	unmarshal(t, run(t, "etcdutl", "snapshot", "status", path, "--write-out", "json"), &s)
	return s
}

func unmarshal(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}

// keys gives all keys at a revision, 0 for the newest.
func (s *server) keys(revision int64) []string {
	s.t.Helper()
	r, err := s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
	if err != nil {
		s.t.Fatalf("revision %d: %v", revision, err)
	}
	var all []string
	for _, kv := range r.Kvs {
		all = append(all, kv.String())
	}
	return all
}

// revision gives the current revision.
func (s *server) revision() int64 {
	s.t.Helper()
	r, err := s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte("none")})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Header.Revision
}

// hash gives the hash at a revision and the compact revision with it.
func (s *server) hash(revision int64) string {
	s.t.Helper()
	r, err := s.HashKV(s.t.Context(), &pb.HashKVRequest{Revision: revision})
	if err != nil {
		s.t.Fatalf("revision %d: %v", revision, err)
	}
	return fmt.Sprintf("%08x at %d, compacted at %d", r.Hash, r.HashRevision, r.CompactRevision)
}

// compact compacts and waits until that is done.
func (s *server) compact(revision int64) {
	s.t.Helper()
	if _, err := s.Compact(s.t.Context(), &pb.CompactionRequest{Revision: revision, Physical: true}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) txn(ops ...*pb.RequestOp) {
	s.t.Helper()
	if _, err := s.Txn(s.t.Context(), &pb.TxnRequest{Success: ops}); err != nil {
		s.t.Fatal(err)
	}
}

func put(key string, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease}}}
}

func del(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

// change makes random changes: puts, with leases too, deletes of one key and of many, several in one request.
func (s *server) change(rng *rand.Rand, n int) {
	s.t.Helper()
	for range n {
		key := strconv.Itoa(rng.IntN(30))
		switch rng.IntN(8) {
		case 0, 1:
			s.txn(del(key, ""))
		case 2:
			s.txn(del(key, key+"0"), put("x"+key, nil, 0), put("y"+key, []byte("y"), 0))
		case 3:
			s.txn(put(key, []byte("leased"), 1+rng.Int64N(3)))
		default:
			s.txn(put(key, bytes.Repeat([]byte("v"), rng.IntN(3000)), 0))
		}
	}
}

// grant grants the leases that change uses.
func (s *server) grant() {
	s.t.Helper()
	for id := int64(1); id <= 4; id++ {
		if _, err := s.LeaseGrant(s.t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 10_000 * id}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// leases gives all leases with what was granted and their keys.
func (s *server) leases() (all []string) {
	s.t.Helper()
	list, err := s.LeaseLeases(s.t.Context(), &pb.LeaseLeasesRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	for id := int64(1); id <= int64(len(list.Leases)); id++ {
		r, err := s.LeaseTimeToLive(s.t.Context(), &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		if err != nil {
			s.t.Fatal(err)
		}
		keys := map[string]bool{}
		for _, k := range r.Keys {
			keys[string(k)] = true
		}
		all = append(all, fmt.Sprint(id, r.GrantedTTL, keys))
	}
	return all
}
