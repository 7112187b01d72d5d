package verify

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// member examines an entry of a member (I12).
func (w *walk) member(position int64, m *mvcc.Member) {
	if m.ID == 0 {
		w.find("I12", position, "a member has no id")
		return
	}
	if w.removed[m.ID] {
		w.find("I12", position, "member %x was removed before", m.ID)
		return
	}
	if w.cluster == 0 {
		w.cluster = m.ClusterID
	}
	if m.ClusterID != w.cluster {
		w.find("I12", position, "member %x is of cluster %x, and others are of cluster %x", m.ID, m.ClusterID, w.cluster)
	}
	for id, other := range w.members {
		if m.Founder() && other.Founder() && id != m.ID {
			w.find("I12", position, "the log was founded for member %x, and for member %x", id, m.ID)
			delete(w.members, id)
		}
	}
	if m.Removed {
		delete(w.members, m.ID)
		w.removed[m.ID] = true
		return
	}
	w.members[m.ID] = m
}

// compareMembers holds the members of the index to what the walk found (I12), and each to the others.
func (w *walk) compareMembers() {
	voters, urls := 0, map[string]uint64{}
	for _, id := range slices.Sorted(maps.Keys(w.members)) {
		m := w.members[id]
		if got := w.index.MemberByID(id); got == nil || got.ClusterID != m.ClusterID || got.Founder() != m.Founder() || !proto.Equal(got.Member, m.Member) {
			w.find("I12", 0, "member %x is not in the index as in the log", id)
		}
		if !m.IsLearner {
			voters++
		}
		for _, u := range m.PeerURLs {
			if other, taken := urls[u]; taken && other != id {
				w.find("I12", 0, "members %x and %x have the peer URL %q in common", other, id, u)
			}
			urls[u] = id
		}
	}
	if len(w.members) > 0 && voters == 0 {
		w.find("I12", 0, "none of the %d members votes", len(w.members))
	}
	for _, id := range slices.Sorted(maps.Keys(w.removed)) {
		if !w.index.Removed(id) {
			w.find("I12", 0, "member %x was removed, and the index does not know it", id)
		}
	}
}
