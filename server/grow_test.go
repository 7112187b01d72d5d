package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// openAlone opens a server that is alone.
func openAlone(t *testing.T, dir string) (*Node, error) {
	t.Helper()
	opts, _, err := config.Load(config.Input{Args: []string{
		"--data-dir", dir, "--listen-client-urls", "http://127.0.0.1:0", "--advertise-client-urls", "http://127.0.0.1:1",
		"--listen-peer-urls", "http://127.0.0.1:0",
	}})
	if err != nil {
		t.Fatal(err)
	}
	return Open(t.Context(), opts, slog.New(slog.DiscardHandler))
}

func runNode(t *testing.T, n *Node) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestGrowAndGiveUp: whatever becomes of the request by which a server grows, it serves its peer URLs from when it is a member of a cluster. And it does not
// go back to being alone when its Raft log is missing.
func TestGrowAndGiveUp(t *testing.T) {
	dir := t.TempDir()
	n, err := openAlone(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	stop := runNode(t, n)
	for n.store.Index().Member() == nil {
		if _, err := n.store.Do(t.Context(), &mvcc.Barrier{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	m := n.store.Index().Member()
	ctx, cancel := context.WithCancel(t.Context())
	// It has grown, and who asked for it is gone before that is known.
	if err := n.cluster.node.bindPeers(); err != nil {
		t.Fatal(err)
	}
	if err := n.cluster.log.Grow(ctx, raft.Identity{Cluster: m.ClusterID, Member: m.ID}, n.cluster.network); err != nil {
		t.Fatal(err)
	}
	cancel()
	add := &mvcc.AddMember{Member: &pb.Member{ID: 77, PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true}, MaxLearners: 1}
	_, _ = n.cluster.Change(ctx, add)
	select {
	case <-n.cluster.grown:
	default:
		t.Fatal("it does not serve its peer URLs")
	}
	// The first request may have done it, though it was given up.
	if _, err := n.cluster.Change(t.Context(), add); err != nil && !errors.Is(err, mvcc.ErrMemberExists) {
		t.Fatal(err)
	}
	stop()
	if err := os.RemoveAll(filepath.Join(dir, "member", "raft")); err != nil {
		t.Fatal(err)
	}
	if n, err := openAlone(t, dir); err == nil || !strings.Contains(err.Error(), "its Raft log is not there") {
		t.Errorf("a member without its Raft log starts alone: %v", err)
		_ = n.Close()
	}
}

// TestAddSecond: a voter that is not started yet can be added to one that is alone, however often Raft's configuration is looked at. Together they have no quorum
// that could be asked about it.
func TestAddSecond(t *testing.T) {
	n, err := openAlone(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer runNode(t, n)()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for n.store.Index().Member() == nil {
		if _, err := n.store.Do(ctx, &mvcc.Barrier{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	add := &mvcc.AddMember{Member: &pb.Member{ID: 77, PeerURLs: []string{"http://127.0.0.1:1"}}}
	if members, err := n.cluster.Change(ctx, add); err != nil || len(members) != 2 || !n.cluster.log.Configured(77) {
		t.Fatalf("%v, %v", members, err)
	}
	if err := n.cluster.configure(ctx); err != nil {
		t.Error(err)
	}
}
