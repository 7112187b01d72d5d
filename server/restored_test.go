package server

import (
	"errors"
	"os"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// restore makes the data directory of a member as a restore does. What was restored is told by the id of its only batch.
func (m members) restore(t *testing.T, i int, id drivers.BatchID) {
	t.Helper()
	opts, err := m.options(i, config.ClusterStateNew)
	if err != nil {
		t.Fatal(err)
	}
	founders, self, err := Founding(&opts)
	if err != nil {
		t.Fatal(err)
	}
	path, err := DatabasePath(opts.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	log, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	b, results := mvcc.Evaluate(mvcc.NewIndex().Edit(false).Index(drivers.End{}), mvcc.Env{}, []any{founders})
	batch := &drivers.Batch{ID: id, Time: time.Unix(0, 0), Entries: b.Entries()}
	if err := errors.Join(results[0].Err, log.Append(t.Context(), drivers.End{}, batch), log.Close()); err != nil {
		t.Fatal(err)
	}
	var voters []uint64
	for _, f := range founders.Members {
		voters = append(voters, f.ID)
	}
	end := drivers.End{Position: int64(len(batch.Entries)), Batch: id}
	if err := raft.Bootstrap(raft.Options{Dir: RaftDir(opts)}, raft.Identity{Cluster: founders.ClusterID, Member: self}, voters, end); err != nil {
		t.Fatal(err)
	}
}

// again loses a member's data directory and restores it.
func (m members) again(t *testing.T, i int, id drivers.BatchID) {
	t.Helper()
	if err := os.RemoveAll(m.dir[i]); err != nil {
		t.Fatal(err)
	}
	m.restore(t, i, id)
}

// TestRestoredAgain: a member of a restored cluster that is restored once more has forgotten what it has acknowledged, and is not let in, neither when those that know it run nor when they are started later.
func TestRestoredAgain(t *testing.T) {
	m := newMembers(t, 3)
	snapshot := drivers.BatchID{1}
	for i := range m.names {
		m.restore(t, i, snapshot)
	}
	nodes, stops := m.start(t)
	putSomewhere(t, "k", nodes...)
	stops[0]()
	// One that has just been restarted is the member that it was.
	n, stop := m.startOne(t, 0)
	putSomewhere(t, "l", n, nodes[1], nodes[2])
	stop()
	for _, state := range []string{config.ClusterStateNew, "existing"} {
		m.again(t, 0, snapshot)
		n, err := m.open(t, 0, state)
		if err == nil {
			_ = n.Close()
		}
		if !errors.Is(err, errBegun) {
			t.Errorf("state %s: %v", state, err)
		}
	}

	// The other two are away when it starts. Then one of them comes, and its vote would do.
	stops[1]()
	stops[2]()
	n, err := m.open(t, 0, config.ClusterStateNew)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(n.Run(t.Context()), n.Close()) }()
	other, _ := m.startOne(t, 2)
	if err := <-ended; !errors.Is(err, errBegun) {
		t.Errorf("it ended with %v", err)
	}
	if other.leads() {
		t.Error("it has voted, and was heard")
	}
	n, err = m.open(t, 0, config.ClusterStateNew)
	if err == nil {
		_ = n.Close()
	}
	if !errors.Is(err, errBegun) {
		t.Errorf("started again: %v", err)
	}
	last, _ := m.startOne(t, 1)
	putSomewhere(t, "m", last, other)
}

// TestFoundedAgain: the same of a member that has founded the cluster anew from nothing while the others were away.
func TestFoundedAgain(t *testing.T) {
	m := newMembers(t, 3)
	_, stops := m.start(t)
	for _, stop := range stops {
		stop()
	}
	if err := os.RemoveAll(m.dir[0]); err != nil {
		t.Fatal(err)
	}
	n, err := m.open(t, 0, config.ClusterStateNew)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(n.Run(t.Context()), n.Close()) }()
	m.startOne(t, 1)
	if err := <-ended; !errors.Is(err, errBegun) {
		t.Errorf("it ended with %v", err)
	}
}

// TestRestoredOtherwise: members that were restored of something else, or not at all, are not of one cluster. When that is mended they are; and one that joins is of the cluster that there is.
func TestRestoredOtherwise(t *testing.T) {
	m := newMembers(t, 3)
	snapshot := drivers.BatchID{1}
	m.restore(t, 0, snapshot)
	m.restore(t, 1, snapshot)
	m.restore(t, 2, drivers.BatchID{2})
	apart := func(others ...int) {
		t.Helper()
		n, stop := m.startOne(t, 2)
		defer stop()
		for _, other := range others {
			id := m.identity(t, other)
			until(t, func() bool {
				conn, err := n.cluster.connections().Conn(id.Member)
				if err != nil {
					return false
				}
				_, err = hashOf(t.Context(), conn, 0)
				return errors.Is(err, peer.ErrOtherOrigin)
			})
		}
	}
	first, _ := m.startOne(t, 0)
	apart(0)
	second, _ := m.startOne(t, 1)
	putSomewhere(t, "k", first, second)
	apart(0, 1)
	if err := os.RemoveAll(m.dir[2]); err != nil {
		t.Fatal(err)
	}
	apart(0, 1) // it is founded empty
	m.again(t, 2, snapshot)
	third, _ := m.startOne(t, 2)
	has := func(n *Node, revision int64) {
		t.Helper()
		until(t, func() bool {
			ix, err := n.store.Linearizable(t.Context())
			return err == nil && ix.Rev == revision
		})
	}
	has(third, 2)

	// One is replaced.
	gone := m.identity(t, 1)
	until(t, func() bool {
		_, err := first.cluster.Change(t.Context(), &mvcc.RemoveMember{ID: gone.Member})
		return err == nil || first.store.Index().MemberByID(gone.Member) == nil
	})
	until(t, func() bool { return second.cluster.ended() != nil })
	m.peers[1], m.dir[1] = freeURL(t), t.TempDir()
	add := &mvcc.AddMember{Member: &pb.Member{ID: 77, PeerURLs: m.peers[1:2]}}
	until(t, func() bool {
		for _, n := range []*Node{first, third} {
			_, _ = n.cluster.Change(t.Context(), add)
		}
		return first.store.Index().MemberByID(77) != nil && third.store.Index().MemberByID(77) != nil
	})
	n, err := m.open(t, 1, "existing")
	if err != nil {
		t.Fatal(err)
	}
	run(t, n)
	has(n, 2)
	if id, _ := n.clustered(); id.Origin == 0 {
		t.Error("it has no origin")
	}
}

// identity is who a member is by its flags.
func (m members) identity(t *testing.T, i int) raft.Identity {
	t.Helper()
	opts, err := m.options(i, config.ClusterStateNew)
	if err != nil {
		t.Fatal(err)
	}
	founders, self, err := Founding(&opts)
	if err != nil {
		t.Fatal(err)
	}
	return raft.Identity{Cluster: founders.ClusterID, Member: self}
}
