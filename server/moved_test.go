package server

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestLeaderMovedWhileAway: the leader's peer URL has changed while a member was away. The leader reaches it, and says where its answers reach the leader, before the log does.
func TestLeaderMovedWhileAway(t *testing.T) {
	m := newMembers(t, 3)
	nodes, stops := m.start(t)
	stops[2]()
	moved, _ := nodes[0].clustered()
	update := &mvcc.UpdateMember{ID: moved.Member, PeerURLs: []string{freeURL(t)}}
	until(t, func() bool {
		return slices.ContainsFunc(nodes[:2], func(n *Node) bool {
			_, err := n.cluster.Change(t.Context(), update)
			return err == nil
		})
	})
	stops[0]()
	now := m
	now.peers = slices.Clone(m.peers)
	now.peers[0] = update.PeerURLs[0]
	first, err := now.open(t, 0, config.ClusterStateNew)
	if err != nil {
		t.Fatal(err)
	}
	run(t, first)
	// It says so already where it is not the leader: there the log has told.
	until(t, func() bool {
		if !first.leads() {
			_ = nodes[1].cluster.MoveLeader(t.Context(), moved.Member)
		}
		return first.leads()
	})
	putSomewhere(t, "k", first, nodes[1])
	last, err := m.open(t, 2, "existing") // its flags do not tell either
	if err != nil {
		t.Fatal(err)
	}
	if at := last.store.Index().MemberByID(moved.Member).PeerURLs; !slices.Equal(at, m.peers[:1]) {
		t.Fatalf("it knows that the leader is at %v", at)
	}
	run(t, last)
	until(t, func() bool {
		if !first.leads() { // an election, and another leader would bring it back anyway
			_ = nodes[1].cluster.MoveLeader(t.Context(), moved.Member)
		}
		return last.store.Index().Rev == first.store.Index().Rev && slices.Equal(last.store.Index().MemberByID(moved.Member).PeerURLs, update.PeerURLs)
	})
	until(t, func() bool {
		_, err := last.store.Linearizable(t.Context())
		return err == nil
	})
}

// TestLeaderAddedWhileAway: a member is added while another one is away, and leads when that comes back. It gets the log from the new one, of which its own log does not know.
func TestLeaderAddedWhileAway(t *testing.T) {
	const id = 0xadded
	m := newMembers(t, 3)
	nodes, stops := m.start(t)
	stops[2]()
	more := newMembers(t, 1)
	grown := members{names: append(slices.Clone(m.names), "n3"), dir: append(slices.Clone(m.dir), more.dir...), peers: append(slices.Clone(m.peers), more.peers...), clients: append(slices.Clone(m.clients), more.clients...)}
	add := &mvcc.AddMember{Member: &pb.Member{ID: id, PeerURLs: more.peers}}
	until(t, func() bool {
		return slices.ContainsFunc(nodes[:2], func(n *Node) bool {
			_, err := n.cluster.Change(t.Context(), add)
			return err == nil || n.store.Index().MemberByID(id) != nil
		})
	})
	added, err := grown.open(t, 3, "existing")
	if err != nil {
		t.Fatal(err)
	}
	run(t, added)
	lead := func() bool {
		for _, n := range nodes[:2] {
			if n.leads() {
				_ = n.cluster.MoveLeader(t.Context(), id)
			}
		}
		return added.leads()
	}
	until(t, lead)
	putSomewhere(t, "k", added)
	last, err := m.open(t, 2, config.ClusterStateNew)
	if err != nil {
		t.Fatal(err)
	}
	run(t, last)
	until(t, func() bool {
		return lead() && last.store.Index().Rev == added.store.Index().Rev
	})
}

// TestHear: where a member says that it is counts if it is known, and says something later than the log here.
func TestHear(t *testing.T) {
	joined := &mvcc.Bootstrap{ClusterID: 9, Members: []*pb.Member{
		{ID: 1, PeerURLs: []string{"http://a"}}, {ID: 2, PeerURLs: []string{"http://b"}}, {ID: 3, PeerURLs: []string{"http://c"}},
	}}
	grown := func(ix *mvcc.Index, requests ...any) *mvcc.Index {
		t.Helper()
		b, results := mvcc.Evaluate(ix, mvcc.Env{}, requests)
		for _, r := range results {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		end := b.End()
		end.Position += int64(len(b.Entries()))
		return b.Index(end)
	}
	nobody := mvcc.NewIndex()
	before := grown(nobody, joined)
	after := grown(before, &mvcc.UpdateMember{ID: 2, PeerURLs: []string{"http://bb"}}, &mvcc.RemoveMember{ID: 3})
	was, is := before.MemberByID(2).Position(), after.MemberByID(2).Position()
	if is <= was {
		t.Fatalf("positions %d and %d", was, is)
	}
	configured := func(uint64) bool { return true }
	of := func(ix *mvcc.Index) *addresses {
		a := &addresses{parting: map[uint64]bool{}, said: map[uint64]whereabouts{}}
		a.take(ix, configured)
		return a
	}
	there := func(a *addresses, id uint64, want string) {
		t.Helper()
		if got := a.urls[id]; !slices.Equal(got, []string{want}) {
			t.Errorf("%d is at %v, want %s", id, got, want)
		}
	}
	bb := whereabouts{[]string{"http://bb"}, is}

	a := of(before)
	if a.hear(before, 2, whereabouts{[]string{"http://x"}, was}) {
		t.Error("what is no later than the log counts")
	}
	if !a.hear(before, 2, bb) || a.hear(before, 2, bb) || a.hear(before, 2, whereabouts{[]string{"http://x"}, is - 1}) {
		t.Error("what is later counts, and that once")
	}
	there(a, 2, "http://bb")
	if a.hear(before, 2, whereabouts{[]string{"http://bb"}, is + 1}) || a.said[2].position != is+1 {
		t.Error("it is where it was, as a later entry has it")
	}
	a.said[2] = bb
	a.take(before, configured)
	there(a, 2, "http://bb")
	// One that is no member may have become one later than what the log here has.
	if a.hear(before, 4, whereabouts{[]string{"http://x"}, before.End.Position}) || a.urls[4] != nil {
		t.Error("who is no member counts")
	}
	if !a.hear(before, 4, whereabouts{[]string{"http://d"}, after.End.Position}) {
		t.Error("who may have become a member does not count")
	}
	a.take(before, configured)
	there(a, 4, "http://d")
	for id := range uint64(2 * maxSaid) {
		a.hear(before, 1000+id, whereabouts{[]string{"http://x"}, after.End.Position})
	}
	if len(a.said) > maxSaid {
		t.Errorf("it keeps the words of %d who may be no members", len(a.said))
	}
	a.take(after, configured)
	there(a, 2, "http://bb")
	if a.urls[4] != nil {
		t.Error("who has not become a member counts")
	}
	if len(a.said) != 0 {
		t.Errorf("it is kept: %v", a.said)
	}
	if a.hear(after, 3, whereabouts{[]string{"http://x"}, is + 9}) {
		t.Error("who was removed counts")
	}
	there(a, 3, "http://c")

	// The log has nobody, and the flags or another member have told.
	a = of(nobody)
	if a.hear(nobody, 2, bb) {
		t.Error("nobody has told of it")
	}
	a.meet([]*pb.Member{{ID: 2, PeerURLs: []string{"http://b"}}})
	if !a.hear(nobody, 2, bb) {
		t.Error("somebody has told of it")
	}
	there(a, 2, "http://bb")
	a.meet([]*pb.Member{{ID: 2, PeerURLs: []string{"http://b"}}})
	there(a, 2, "http://bb")
	a.take(after, configured)
	there(a, 2, "http://bb")
	if a.take(grown(after, &mvcc.UpdateMember{ID: 2, PeerURLs: []string{"http://bbb"}}), configured); len(a.said) != 0 {
		t.Errorf("it is kept: %v", a.said)
	}
	there(a, 2, "http://bbb")
}
