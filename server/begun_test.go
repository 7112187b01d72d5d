package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keelson-io/keelson/server/config"
)

// TestLostData: a member whose data directory is lost is not the same member any more, whatever its flags say of the cluster's state.
func TestLostData(t *testing.T) {
	dir := t.TempDir()
	var names, peers, clients, initial []string
	for i := range 3 {
		names = append(names, fmt.Sprintf("n%d", i))
		peers, clients = append(peers, freeURL(t)), append(clients, freeURL(t))
		initial = append(initial, names[i]+"="+peers[i])
	}
	open := func(i int, state string) (*Node, error) {
		opts, _, err := config.Load(config.Input{Args: []string{
			"--name=" + names[i], "--data-dir=" + filepath.Join(dir, names[i]), "--listen-client-urls=" + clients[i], "--advertise-client-urls=" + clients[i],
			"--listen-peer-urls=" + peers[i], "--initial-advertise-peer-urls=" + peers[i], "--initial-cluster=" + strings.Join(initial, ","),
			"--initial-cluster-state=" + state,
		}})
		if err != nil {
			return nil, err
		}
		return Open(t.Context(), opts, slog.New(slog.DiscardHandler))
	}
	var nodes []*Node
	var stops []func()
	for i := range names {
		n, err := open(i, config.ClusterStateNew)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, n)
		nodes, stops = append(nodes, n), append(stops, stop)
	}
	for _, n := range nodes {
		for published := 0; published < len(names); {
			published = 0
			for _, m := range n.members() {
				if len(m.ClientURLs) > 0 {
					published++
				}
			}
			select {
			case <-t.Context().Done():
				t.Fatal("not all members are there")
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	stops[2]()
	if err := os.RemoveAll(filepath.Join(dir, names[2])); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{config.ClusterStateNew, "existing"} {
		n, err := open(2, state)
		if !errors.Is(err, errBegun) {
			t.Errorf("state %s: %v", state, err)
		}
		if err == nil {
			_ = n.Close()
		}
	}
}

// run runs a node until stop is called, or the test ends.
func run(t *testing.T, n *Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(n.Run(ctx), n.Close()) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}
