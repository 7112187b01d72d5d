package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/test/ports"
)

// members are the flags of the members of a cluster in this process.
type members struct{ dir, names, peers, clients []string }

func newMembers(t *testing.T, count int) members {
	t.Helper()
	dir := t.TempDir()
	var m members
	for i := range count {
		m.names = append(m.names, fmt.Sprintf("n%d", i))
		m.dir = append(m.dir, filepath.Join(dir, m.names[i]))
		m.peers, m.clients = append(m.peers, freeURL(t)), append(m.clients, freeURL(t))
	}
	return m
}

func (m members) open(t *testing.T, i int, state string, more ...string) (*Node, error) {
	t.Helper()
	opts, err := m.options(i, state, more...)
	if err != nil {
		return nil, err
	}
	return Open(t.Context(), opts, slog.New(slog.DiscardHandler))
}

// options are those of one of them.
func (m members) options(i int, state string, more ...string) (config.Options, error) {
	var initial []string
	for i, name := range m.names {
		initial = append(initial, name+"="+m.peers[i])
	}
	opts, _, err := config.Load(config.Input{Args: append([]string{
		"--name=" + m.names[i], "--data-dir=" + m.dir[i], "--listen-client-urls=" + m.clients[i], "--advertise-client-urls=" + m.clients[i],
		"--listen-peer-urls=" + m.peers[i], "--initial-advertise-peer-urls=" + m.peers[i], "--initial-cluster=" + strings.Join(initial, ","),
		"--initial-cluster-state=" + state,
	}, more...)})
	return opts, err
}

// start starts all of them, and returns when each knows how clients reach all.
func (m members) start(t *testing.T) (nodes []*Node, stops []func()) {
	t.Helper()
	for i := range m.names {
		n, err := m.open(t, i, config.ClusterStateNew)
		if err != nil {
			t.Fatal(err)
		}
		nodes, stops = append(nodes, n), append(stops, run(t, n))
	}
	for _, n := range nodes {
		until(t, func() bool {
			all := n.members()
			return len(all) == len(nodes) && !slices.ContainsFunc(all, func(m *pb.Member) bool { return len(m.ClientURLs) == 0 })
		})
	}
	return nodes, stops
}

// TestLostData: a member whose data directory is lost is not the same member any more, whatever its flags say of the cluster's state.
func TestLostData(t *testing.T) {
	m := newMembers(t, 3)
	_, stops := m.start(t)
	stops[2]()
	if err := os.RemoveAll(filepath.Join(m.dir[2], "member", "raft")); err != nil {
		t.Fatal(err)
	}
	n, err := m.open(t, 2, "existing")
	if err == nil {
		_ = n.Close()
	}
	if !errors.Is(err, errNoRaft) {
		t.Errorf("without the Raft log: %v", err)
	}
	if err := os.RemoveAll(m.dir[2]); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{config.ClusterStateNew, "existing"} {
		n, err := m.open(t, 2, state)
		if !errors.Is(err, errBegun) {
			t.Errorf("state %s: %v", state, err)
		}
		if err == nil {
			_ = n.Close()
		}
	}
}

// TestLostRaftLog: a cluster of one that has lost its Raft log may have lost what it had acknowledged, and goes on only if it is told to. A server that never was a
// member of a cluster of several has none to lose.
func TestLostRaftLog(t *testing.T) {
	m := newMembers(t, 1)
	start := func() (*Node, func()) {
		n, err := m.open(t, 0, config.ClusterStateNew)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, n)
		until(t, func() bool {
			_, err := n.store.Do(t.Context(), &pb.PutRequest{Key: []byte("k")}, 1)
			return err == nil
		})
		return n, stop
	}
	_, stop := start()
	stop()
	n, stop := start() // alone as ever
	if _, clustered := n.clustered(); clustered {
		t.Fatal("it is a member of a cluster")
	}
	if err := n.cluster.grow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Do(t.Context(), &pb.PutRequest{Key: []byte("last")}, 1); err != nil {
		t.Fatal(err)
	}
	stop()
	dir := filepath.Join(m.dir[0], "member", "raft")
	for _, lose := range []func() error{
		func() error { return os.RemoveAll(dir) },
		func() error { return os.Mkdir(dir, 0o700) },
	} {
		if err := lose(); err != nil {
			t.Fatal(err)
		}
		n, err := m.open(t, 0, config.ClusterStateNew)
		if !errors.Is(err, errLostRaft) {
			t.Errorf("without the Raft log: %v", err)
		}
		if err == nil {
			_ = n.Close()
		}
	}
	for _, extra := range [][]string{{"--force-new-cluster"}, nil} {
		n, err := m.open(t, 0, config.ClusterStateNew, extra...)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, n)
		until(t, n.leads)
		if kv, err := n.store.Linearizable(t.Context()); err != nil || len(kv.Members()) != 1 {
			t.Errorf("%v: %v", extra, err)
		}
		stop()
	}
}

// TestRemoveLeader: of two members the one that leads is removed, and the other one goes on alone. Started again, it knows that it was removed.
func TestRemoveLeader(t *testing.T) {
	m := newMembers(t, 2)
	nodes, stops := m.start(t)
	until(t, func() bool { return nodes[0].leads() || nodes[1].leads() })
	leader, other := 0, 1
	if nodes[1].leads() {
		leader, other = 1, 0
	}
	id, _ := nodes[leader].clustered()
	if _, err := nodes[leader].cluster.Change(t.Context(), &mvcc.RemoveMember{ID: id.Member}); err != nil {
		t.Logf("the leader does not say how it went: %v", err)
	}
	until(t, nodes[other].leads)
	if _, err := nodes[other].store.Do(t.Context(), &pb.PutRequest{Key: []byte("k")}, 1); err != nil {
		t.Error(err)
	}
	if all := nodes[other].members(); len(all) != 1 {
		t.Errorf("the members are %v", all)
	}
	<-nodes[leader].cluster.log.Removed()
	stops[leader]()
	for _, state := range []string{config.ClusterStateNew, "existing"} {
		n, err := m.open(t, leader, state)
		if !errors.Is(err, raft.ErrRemoved) {
			t.Errorf("started again, state %s: %v", state, err)
		}
		if err == nil {
			_ = n.Close()
		}
	}
}

// TestForceOther: who was removed from a cluster of two and has lost its Raft log has a database with one member, which is the other one. It is not told to become that, and
// does not.
func TestForceOther(t *testing.T) {
	m := newMembers(t, 2)
	nodes, stops := m.start(t)
	m.remove(t, nodes)
	stops[0]()
	stops[1]()
	if err := os.RemoveAll(filepath.Join(m.dir[0], "member", "raft")); err != nil {
		t.Fatal(err)
	}
	for _, extra := range [][]string{nil, {"--force-new-cluster"}} {
		n, err := m.open(t, 0, config.ClusterStateNew, extra...)
		if !errors.Is(err, errNoRaft) {
			t.Errorf("%v: %v", extra, err)
		}
		if err == nil {
			_ = n.Close()
		}
	}
}

// TestForceRemoved: no new cluster is forced from the data of a member that was removed, as Raft's configuration says, or as the log does alone.
func TestForceRemoved(t *testing.T) {
	for _, configured := range []bool{false, true} {
		m := newMembers(t, 2)
		nodes, stops := m.start(t)
		if configured {
			for _, n := range nodes {
				n.cluster.configuring <- struct{}{} // held: nobody changes Raft's configuration
			}
			id, _ := nodes[0].clustered()
			until(t, func() bool {
				return slices.ContainsFunc(nodes, func(n *Node) bool {
					_, err := n.store.Do(t.Context(), &mvcc.RemoveMember{ID: id.Member}, 0)
					return err == nil || errors.Is(err, mvcc.ErrMemberRemoved)
				})
			})
			until(t, func() bool { return nodes[0].store.Index().Removed(id.Member) })
		} else {
			m.remove(t, nodes)
		}
		stops[0]()
		stops[1]()
		for range 2 {
			n, err := m.open(t, 0, config.ClusterStateNew, "--force-new-cluster")
			if !errors.Is(err, raft.ErrRemoved) {
				t.Errorf("still in Raft's configuration: %v: %v", configured, err)
			}
			if err == nil {
				_ = n.Close()
			}
		}
	}
}

// TestForceBrokenOff: a new cluster is forced, and the server is killed before it has removed the others. It does not start without the flag, which would have those vote again; with
// it the new cluster is made, and then it starts without.
func TestForceBrokenOff(t *testing.T) {
	m := newMembers(t, 2)
	_, stops := m.start(t)
	stops[0]()
	stops[1]()
	n, err := m.open(t, 0, config.ClusterStateNew, "--force-new-cluster")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := m.open(t, 0, config.ClusterStateNew); err == nil {
		t.Error("it starts without the flag")
		_ = n.Close()
	}
	for _, extra := range [][]string{{"--force-new-cluster"}, nil} {
		if n, err = m.open(t, 0, config.ClusterStateNew, extra...); err != nil {
			t.Fatal(err)
		}
		stop := run(t, n)
		until(t, n.leads)
		if extra != nil {
			<-n.cluster.forgotten
		}
		if _, err := n.store.Do(t.Context(), &pb.PutRequest{Key: []byte("k")}, 1); err != nil || len(n.members()) != 1 {
			t.Errorf("%v: %v, members %v", extra, err, n.members())
		}
		stop()
	}
}

// TestForceAlone: a server that is alone has nobody to forget, and so it does not forget the member that is added to it.
func TestForceAlone(t *testing.T) {
	m := newMembers(t, 1)
	n, err := m.open(t, 0, config.ClusterStateNew, "--force-new-cluster")
	if err != nil {
		t.Fatal(err)
	}
	run(t, n)
	until(t, func() bool {
		_, err := n.store.Do(t.Context(), &pb.PutRequest{Key: []byte("k")}, 1)
		return err == nil && n.store.Index().Member() != nil
	})
	add := &mvcc.AddMember{Member: &pb.Member{ID: 77, PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true}, MaxLearners: 1}
	if _, err := n.cluster.Change(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	_, term, _, _ := n.cluster.log.Leader()
	if err := n.cluster.takeOver(t.Context(), term); err != nil {
		t.Fatal(err)
	}
	if len(n.members()) != 2 {
		t.Errorf("the members are %v", n.members())
	}
}

// remove removes the first of two members, and returns when it knows.
func (m members) remove(t *testing.T, nodes []*Node) {
	t.Helper()
	id, _ := nodes[0].clustered()
	until(t, func() bool {
		for _, n := range nodes {
			if n.leads() {
				_, _ = n.cluster.Change(t.Context(), &mvcc.RemoveMember{ID: id.Member})
			}
		}
		return nodes[1].store.Index().Removed(id.Member)
	})
	until(t, func() bool { return nodes[0].store.Index().Removed(id.Member) })
	<-nodes[0].cluster.log.Removed()
}

// TestRemovedVotes: of three members one is removed, another one is down, and the two that are left are started again before Raft's configuration follows. The vote of the
// one that was removed is needed for that, so it must be found where the log says that it was.
func TestRemovedVotes(t *testing.T) {
	m := newMembers(t, 3)
	nodes, stops := m.start(t)
	for _, n := range nodes {
		n.cluster.configuring <- struct{}{} // held: nobody changes Raft's configuration
	}
	gone, _ := nodes[1].clustered()
	until(t, func() bool {
		return slices.ContainsFunc(nodes, func(n *Node) bool {
			_, err := n.store.Do(t.Context(), &mvcc.RemoveMember{ID: gone.Member}, 0)
			return err == nil || errors.Is(err, mvcc.ErrMemberRemoved)
		})
	})
	until(t, func() bool { return nodes[0].store.Index().Removed(gone.Member) })
	c := nodes[0].cluster
	parting := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.partings) > 0
	}
	until(t, parting)
	stops[2]()
	stops[1]()
	stops[0]()
	if c.part(gone.Member); parting() {
		t.Error("a server that has ended will part from a member")
	}
	start := func(i int) *Node {
		n, err := m.open(t, i, "existing") // the flags tell nothing of the others
		if err != nil {
			t.Fatal(err)
		}
		run(t, n)
		return n
	}
	start(1)
	n := start(0)
	until(t, func() bool { return n.cluster.log.Configured(gone.Member) })
	until(t, func() bool { return !n.cluster.log.Configured(gone.Member) })
	start(2)
	until(t, func() bool {
		_, err := n.store.Linearizable(t.Context())
		return err == nil && len(n.members()) == 2
	})
}

// TestJoinerFirst: the second voter has joined and has no data yet, both are stopped, and it is started first. It knows nobody then, and without its vote there is no leader: it asks
// until somebody tells who the members are.
func TestJoinerFirst(t *testing.T) {
	m := newMembers(t, 2)
	one := members{m.dir[:1], m.names[:1], m.peers[:1], m.clients[:1]}
	start := func(m members, i int, state string) (*Node, func()) {
		n, err := m.open(t, i, state)
		if err != nil {
			t.Fatal(err)
		}
		return n, run(t, n)
	}
	first, stop := start(one, 0, config.ClusterStateNew)
	until(t, func() bool {
		_, err := first.store.Do(t.Context(), &pb.PutRequest{Key: []byte("k")}, 1)
		return err == nil && first.store.Index().Member() != nil
	})
	add := &mvcc.AddMember{Member: &pb.Member{ID: 77, PeerURLs: []string{m.peers[1]}}}
	if _, err := first.cluster.Change(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	joiner, err := m.open(t, 1, "existing")
	if err != nil {
		t.Fatal(err)
	}
	if err := joiner.Close(); err != nil { // as if killed
		t.Fatal(err)
	}
	stop()
	joiner, _ = start(m, 1, "existing")
	if joiner.cluster.met() || joiner.HasLeader() {
		t.Error("it knows somebody")
	}
	first, _ = start(one, 0, config.ClusterStateNew)
	until(t, func() bool { return len(joiner.members()) == 2 && (first.leads() || joiner.leads()) })
}

// TestQuorate: a member that is left alone of three knows that it is no quorum, and nobody is fit to take over from it.
func TestQuorate(t *testing.T) {
	nodes, stops := newMembers(t, 3).start(t)
	last := nodes[2].cluster
	other, _ := nodes[1].clustered()
	until(t, func() bool { return last.quorate() && last.fit(other.Member) })
	stops[0]()
	until(t, func() bool { return last.quorate() && last.fit(other.Member) })
	stops[1]()
	until(t, func() bool { return !last.quorate() && !last.fit(other.Member) })
	stops[2]()
}

// until waits until something is so.
func until(t *testing.T, so func() bool) {
	t.Helper()
	for !so() {
		select {
		case <-t.Context().Done():
			t.Fatal("it never was")
		case <-time.After(10 * time.Millisecond):
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

func freeURL(t *testing.T) string { return "http://" + ports.Address(t) }
