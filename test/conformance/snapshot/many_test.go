package snapshot

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
)

var many = flag.Int("keys", 20_000, "how many keys TestMany has")

// valueSize is the size of each of their values.
const valueSize = 128

// perKey is the memory that one key may cost a server, or a restore, which has an index of them; floor is what any of them may have besides.
const (
	perKey = 700
	floor  = 200 << 20
)

// TestMany saves, restores and serves many keys, in bounded memory, and they are the same in Keelson and in etcd.
func TestMany(t *testing.T) {
	k := startBinary(t, "keelson", t.TempDir())
	k.load(*many)
	before := k.peak()
	limit := int64(floor + *many*perKey)
	path := filepath.Join(t.TempDir(), "snapshot.db")
	saving := measured(t, "keelson", "snapshot", "save", path, "--endpoints", k.Endpoint())
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a snapshot of %d keys, %d MB: the server had used %d MB before and %d MB with it; saving it took %v and %d MB", *many, info.Size()>>20, before>>20, k.peak()>>20, saving.took, saving.peak>>20)
	if k.peak() > limit || saving.peak > floor {
		t.Errorf("the server has used %d bytes, saving %d", k.peak(), saving.peak)
	}
	dir := t.TempDir()
	restoring := measured(t, "keelson", "snapshot", "restore", path, "--data-dir", filepath.Join(dir, "data"), "--initial-cluster", "default=http://127.0.0.1:1", "--initial-advertise-peer-urls", "http://127.0.0.1:1")
	t.Logf("restoring it took %v and %d MB", restoring.took, restoring.peak>>20)
	if restoring.peak > limit {
		t.Errorf("restoring has used %d bytes", restoring.peak)
	}
	again, e := startBinary(t, "keelson", dir), start(t, restore(t, path))
	if x, y, z := k.hash(0), again.hash(0), e.hash(0); x != y || x != z {
		t.Errorf("the hash is %s, restored %s, in etcd %s", x, y, z)
	}
	if x, y := again.count(), e.count(); x != int64(*many) || y != x {
		t.Errorf("%d keys, in etcd %d", x, y)
	}
}

// load puts keys, many in a request.
func (s *server) load(n int) {
	s.t.Helper()
	const batch = 100
	g, ctx := errgroup.WithContext(s.t.Context())
	g.SetLimit(8)
	for from := 0; from < n; from += batch {
		g.Go(func() error {
			var ops []*pb.RequestOp
			for i := from; i < min(from+batch, n); i++ {
				ops = append(ops, put(fmt.Sprintf("/registry/pods/%08d", i), bytes.Repeat([]byte{byte(i)}, valueSize), 0))
			}
			_, err := s.Txn(ctx, &pb.TxnRequest{Success: ops})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) count() int64 {
	s.t.Helper()
	r, err := s.Range(s.t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.Count
}

// peak is the most memory that the server has used.
func (s *server) peak() int64 {
	s.t.Helper()
	n, err := peak(s.PID())
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// peak is the most memory that a process has used since it was started. What wait tells of it begins with what its parent has.
func peak(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return n << 10, err
}

// cost is what a command took.
type cost struct {
	took time.Duration
	peak int64
}

// measured runs a command, which has to succeed, and looks often how much memory it has used.
func measured(t *testing.T, name string, args ...string) (c cost) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	begun := time.Now()
	cmd := exec.CommandContext(ctx, tool(t, name), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for looks := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case err := <-ended:
			looks.Stop()
			if c.took = time.Since(begun); err != nil || c.peak == 0 {
				t.Fatalf("%s %q: %v, %d bytes\n%s", name, args, err, c.peak, out.Bytes())
			}
			return c
		case <-looks.C:
			if n, err := peak(cmd.Process.Pid); err == nil {
				c.peak = max(c.peak, n)
			}
		}
	}
}
