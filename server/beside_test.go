package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// startOne opens a member and runs it.
func (m members) startOne(t *testing.T, i int, more ...string) (*Node, func()) {
	t.Helper()
	n, err := m.open(t, i, config.ClusterStateNew, more...)
	if err != nil {
		t.Fatal(err)
	}
	return n, run(t, n)
}

// putSomewhere puts a key by one of some members.
func putSomewhere(t *testing.T, key string, nodes ...*Node) {
	t.Helper()
	until(t, func() bool {
		return slices.ContainsFunc(nodes, func(n *Node) bool {
			_, err := n.store.Do(t.Context(), &pb.PutRequest{Key: []byte(key)}, 1)
			return err == nil
		})
	})
}

// TestForceRefused: no new cluster is forced while another member runs, also if the Raft log is lost, or if the one that runs has just been founded anew by the same flags. Nothing
// is changed then: the member starts as the one that it was.
func TestForceRefused(t *testing.T) {
	m := newMembers(t, 3)
	nodes, stops := m.start(t)
	stops[2]()
	refused := func(who ...int) {
		t.Helper()
		n, err := m.open(t, 2, config.ClusterStateNew, "--force-new-cluster")
		if !errors.Is(err, errBeside) {
			t.Errorf("with others running: %v", err)
		}
		if err == nil {
			_ = n.Close()
			return
		}
		for _, i := range who {
			id, _ := nodes[i].clustered()
			if want := fmt.Sprintf("%x (%s) at %s", id.Member, m.names[i], m.peers[i]); !strings.Contains(err.Error(), want) {
				t.Errorf("%v: it does not name %s", err, want)
			}
		}
	}
	refused(0, 1)
	n, stop := m.startOne(t, 2)
	putSomewhere(t, "k", append(nodes[:2], n)...)
	until(t, func() bool {
		kv, err := n.store.Linearizable(t.Context())
		return err == nil && kv.Rev == 2 && len(n.members()) == 3
	})
	stop()
	stops[0]()
	refused(1)

	// A quorum is not needed for that, and no data: this one has founded the cluster anew.
	stops[1]()
	if err := os.RemoveAll(m.dir[1]); err != nil {
		t.Fatal(err)
	}
	_, stop = m.startOne(t, 1)
	until(t, func() bool {
		n, err := m.open(t, 2, config.ClusterStateNew, "--force-new-cluster")
		if err == nil {
			_ = n.Close()
			t.Fatal("forced beside one that was founded anew")
		}
		return errors.Is(err, errBeside)
	})
	if err := os.RemoveAll(filepath.Join(m.dir[2], "member", "raft")); err != nil {
		t.Fatal(err)
	}
	refused()
	stop()
	n, _ = m.startOne(t, 2, "--force-new-cluster")
	<-n.cluster.forgotten
	if len(n.members()) != 1 {
		t.Errorf("the members are %v", n.members())
	}
}

// TestForceBesideStrangers: who is of another cluster is not in the way, wherever it is.
func TestForceBesideStrangers(t *testing.T) {
	m := newMembers(t, 2)
	_, stops := m.start(t)
	stops[0]()
	stops[1]()
	strangers := newMembers(t, 2)
	strangers.peers[0] = m.peers[1]
	nodes, _ := strangers.start(t)
	n, _ := m.startOne(t, 0, "--force-new-cluster")
	<-n.cluster.forgotten
	if len(n.members()) != 1 || len(nodes[0].members()) != 2 {
		t.Errorf("the members are %v, those of the other cluster %v", n.members(), nodes[0].members())
	}
}

// TestForceBesideOthers: if the others come back while a member is made a cluster of its own it says that they were removed. They have a leader that does not, and go on.
func TestForceBesideOthers(t *testing.T) {
	m := newMembers(t, 3)
	_, stops := m.start(t)
	for _, stop := range stops {
		stop()
	}
	forced, err := m.open(t, 2, config.ClusterStateNew, "--force-new-cluster")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := m.startOne(t, 0)
	b, _ := m.startOne(t, 1)
	putSomewhere(t, "k", a, b)
	run(t, forced)
	<-forced.cluster.forgotten
	id, _ := forced.clustered()
	for _, n := range []*Node{a, b} {
		c := n.cluster
		until(t, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.hearsay.heard[id.Member] || c.ended() != nil
		})
	}
	for _, n := range []*Node{a, b} {
		if err := n.cluster.ended(); err != nil || len(n.members()) != 3 {
			t.Fatalf("%v, members %v", err, n.members())
		}
	}
	putSomewhere(t, "k", a, b)
	if !forced.leads() || len(forced.members()) != 1 {
		t.Errorf("the one that was forced: members %v", forced.members())
	}
}

// TestRemovedWhileAway: a member that is removed while it is away is told when it comes back, by members that are not its leader: it has none.
func TestRemovedWhileAway(t *testing.T) {
	m := newMembers(t, 3)
	nodes, stops := m.start(t)
	gone, _ := nodes[2].clustered()
	stops[2]()
	until(t, func() bool {
		return slices.ContainsFunc(nodes[:2], func(n *Node) bool {
			_, err := n.cluster.Change(t.Context(), &mvcc.RemoveMember{ID: gone.Member})
			return err == nil || errors.Is(err, mvcc.ErrMemberRemoved)
		})
	})
	n, _ := m.startOne(t, 2)
	until(t, func() bool { return errors.Is(n.cluster.ended(), errRemoved) })
}

// TestHearsay: that a member was removed is believed when it has had no leader for long, and others have said so all the while.
func TestHearsay(t *testing.T) {
	const patience = 3 * time.Second
	type heard struct {
		led  bool
		at   time.Duration
		want bool
	}
	for what, all := range map[string][]heard{
		"no leader":                {{false, 0, false}, {false, time.Second, false}, {false, 2 * time.Second, false}, {false, 3 * time.Second, true}},
		"a leader":                 {{true, 0, false}, {true, 2 * time.Second, false}, {true, 4 * time.Second, false}, {true, 6 * time.Second, false}},
		"an election":              {{true, 0, false}, {false, time.Second, false}, {false, 3 * time.Second, false}, {true, 3500 * time.Millisecond, false}, {false, 4 * time.Second, false}, {false, 6 * time.Second, false}, {false, 7 * time.Second, true}},
		"one election and another": {{false, 0, false}, {false, time.Second, false}, {false, time.Hour, false}, {false, time.Hour + 2*time.Second, false}, {false, time.Hour + 3*time.Second, true}},
	} {
		var h hearsay
		began := time.Now()
		for _, x := range all {
			if got := h.believed(x.led, began.Add(x.at), patience); got != x.want {
				t.Errorf("%s: %v at %v", what, got, x.at)
			}
		}
	}
}
