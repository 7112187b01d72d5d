package server

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/snapshot"
)

// TestSnapshotSize: what a snapshot takes is told by what will be in it, and not by what the log has beside that; a log that has less in use knows better.
func TestSnapshotSize(t *testing.T) {
	n, err := openAlone(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, n)()
	for i := range 500 {
		if _, err := n.store.Do(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%50), Value: []byte(strings.Repeat("v", 3000))}, 0); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := snapshot.New(snapshot.Options{Store: n.store, Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler), Raft: func() (term, index uint64) { return 1, 1 }}).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size := stream.Size()
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	for inUse, want := range map[int64][2]int64{math.MaxInt64: {size, 2 * size}, size / 3: {size / 3, size / 3}} {
		got, err := (&Node{store: n.store, log: sized{inUse: inUse}}).snapshotSize(t.Context())
		if err != nil || got < want[0] || got > want[1] {
			t.Errorf("with %d in use: %d, %v; the snapshot takes %d", inUse, got, err, size)
		}
	}
	// A database that has lost its statistics tells that next to nothing is in use.
	if got, err := (&Node{store: n.store, log: estimated{sized{inUse: 8192}}}).snapshotSize(t.Context()); err != nil || got < size || got > 2*size {
		t.Errorf("where what is in use is not known: %d, %v; the snapshot takes %d", got, err, size)
	}
}

// TestSnapshotDirs: a server with the default flags has the member id of every other such one, and leaves alone what that has in the same --snapshot-dir.
func TestSnapshotDirs(t *testing.T) {
	n := &Node{logger: slog.New(slog.DiscardHandler)}
	n.opts.SnapshotDir = t.TempDir()
	n.member.Store(5)
	one := n.snapshots(1)
	work := filepath.Join(one.Dir, "snapshot-1")
	if err := os.MkdirAll(work, 0o700); err != nil {
		t.Fatal(err)
	}
	snapshot.New(n.snapshots(2))
	if _, err := os.Stat(work); err != nil {
		t.Errorf("another cluster's server has removed it: %v", err)
	}
	snapshot.New(n.snapshots(1))
	if _, err := os.Stat(work); !os.IsNotExist(err) {
		t.Errorf("what this server's crash has left is there: %v", err)
	}
	n.member.Store(6)
	if other := n.snapshots(1); other.Dir == one.Dir {
		t.Errorf("two members have %s", one.Dir)
	}
}
