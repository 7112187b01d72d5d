package cluster

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
	"github.com/keelson-io/keelson/test/ports"
)

var (
	binDir  = flag.String("bin", "../../../.build/bin", "directory of the servers")
	server  = flag.String("server", "keelson", "the binary under test; etcd proves the answers")
	rewrite = flag.Bool("rewrite", false, "write etcd's answers down")
)

const answers = "testdata/etcd.txt"

// TestMembers plays the script and compares.
func TestMembers(t *testing.T) {
	c := newCluster(t)
	c.play()
	if t.Failed() {
		return
	}
	if *rewrite && *server == "etcd" {
		if err := os.WriteFile(answers, []byte(strings.Join(c.lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(answers)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := range max(len(want), len(c.lines)) {
		switch {
		case i >= len(want):
			t.Errorf("not in %s: %s", answers, c.lines[i])
		case i >= len(c.lines):
			t.Errorf("not asked: %s", want[i])
		case want[i] != c.lines[i]:
			t.Errorf("\n   %s\netcd:\n   %s", c.lines[i], want[i])
		}
	}
}

// node is one server, with stubs of what it is asked.
type node struct {
	*launch.Process
	name    string
	peerURL string
	id      uint64
	conn    *grpc.ClientConn
	pb.ClusterClient
	pb.MaintenanceClient
	pb.KVClient
}

// cluster is the servers under test and what they answered.
type cluster struct {
	t     *testing.T
	path  string
	nodes []*node
	lines []string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(*binDir, *server))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds keelson, make peers builds etcd", err)
	}
	c := &cluster{t: t, path: path}
	var all []launch.Options
	for i := range 3 {
		all = append(all, launch.Options{Binary: path, Dir: t.TempDir(), Name: fmt.Sprint("m", i)})
	}
	processes, err := launch.StartCluster(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range processes {
		c.connect(p, all[i].Name, "http://"+p.PeerEndpoint())
	}
	return c
}

func (c *cluster) connect(p *launch.Process, name, peerURL string) *node {
	c.t.Helper()
	conn, err := script.Dial(p.Endpoint())
	if err != nil {
		c.t.Fatal(err)
	}
	n := &node{
		Process: p, name: name, peerURL: peerURL, conn: conn,
		ClusterClient: pb.NewClusterClient(conn), MaintenanceClient: pb.NewMaintenanceClient(conn), KVClient: pb.NewKVClient(conn),
	}
	c.nodes = append(c.nodes, n)
	c.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			c.t.Error(err)
		}
		if err := p.Kill(); err != nil {
			c.t.Error(err)
		}
		if c.t.Failed() {
			c.t.Logf("the end of %s's log:\n%s", name, p.LogTail())
		}
	})
	n.id = c.status(n).Header.MemberId
	return n
}

// join starts a server that was added under a peer URL.
func (c *cluster) join(name, peerURL string) *node {
	c.t.Helper()
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.name+"="+n.peerURL)
	}
	all = append(all, name+"="+peerURL)
	p, err := launch.Start(c.t.Context(), launch.Options{Binary: c.path, Dir: c.t.TempDir(), Name: name, Flags: []string{
		"--initial-cluster=" + strings.Join(all, ","), "--initial-cluster-state=existing",
		"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL,
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.connect(p, name, peerURL)
}

// freeURL is a peer URL that nobody uses.
func (c *cluster) freeURL() string { return "http://" + ports.Address(c.t) }

// soon bounds what the script waits for.
const soon = 30 * time.Second

// until asks again and again until it is so.
func (c *cluster) until(what string, so func(ctx context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !so(ctx) {
		select {
		case <-again.C:
		case <-ctx.Done():
			c.t.Fatalf("waited in vain for %s; so far:\n%s", what, strings.Join(c.lines, "\n"))
		}
	}
}

func (c *cluster) status(n *node) *pb.StatusResponse {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	s, err := n.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// led waits until all the nodes say that the same one of them leads, and gives it and one that does not.
func (c *cluster) led() (leader, follower *node) {
	c.t.Helper()
	c.until("a leader", func(context.Context) bool {
		leader, follower = nil, nil
		id := c.status(c.nodes[0]).Leader
		for _, n := range c.nodes {
			s := c.status(n)
			switch {
			case s.Leader != id:
				return false
			case n.id == id:
				leader = n
			case !s.IsLearner:
				follower = n
			}
		}
		return leader != nil
	})
	return leader, follower
}

// steady waits until every node has been connected to the others for five seconds, which the answer to a request that is refused
// one way or the other tells.
func (c *cluster) steady() {
	c.t.Helper()
	for _, n := range c.nodes {
		c.until("steady connections", func(ctx context.Context) bool {
			_, err := n.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{c.nodes[0].peerURL}})
			return err != nil && strings.Contains(err.Error(), "Peer URLs already exists")
		})
	}
}

// forget leaves out a node that is no member any more.
func (c *cluster) forget(gone *node) {
	var left []*node
	for _, n := range c.nodes {
		if n != gone {
			left = append(left, n)
		}
	}
	c.nodes = left
}
