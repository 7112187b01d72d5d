package mvcc

import (
	"cmp"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// Member is a member of the cluster, as MemberList shows it, and the cluster it belongs to. The ids are kept with the
// data: they stay when flags change. It never changes: a change makes a new one.
type Member struct {
	ClusterID uint64
	*pb.Member
	// Removed says that there is no such member any more, and never again. Of one that is removed there are the id and, for who still needs its vote, the peer URLs.
	Removed bool

	founder  bool
	position int64
}

// Founder tells whether the log was founded for this member.
func (m *Member) Founder() bool { return m.founder }

// Position is that of the entry that says so. Of two states of a member that of the later entry is the newer one, whoever has it.
func (m *Member) Position() int64 { return m.position }

// Members gives the members, by id. The slice is not to be changed.
func (ix *Index) Members() []*Member { return ix.members }

// MemberByID gives the member of this id, or nil.
func (ix *Index) MemberByID(id uint64) *Member {
	if i, known := ix.memberAt(id); known {
		return ix.members[i]
	}
	return nil
}

// memberAt is the place of the member of this id, or the one where it belongs.
func (ix *Index) memberAt(id uint64) (int, bool) { return place(ix.members, id) }

func place(members []*Member, id uint64) (int, bool) {
	return slices.BinarySearchFunc(members, id, func(m *Member, id uint64) int { return cmp.Compare(m.ID, id) })
}

// Member gives the member for which the log was founded: the only one, if the server is alone. Where that one was removed, it
// is the one with the lowest id. It is nil if no member has been recorded.
func (ix *Index) Member() *Member {
	for _, m := range ix.members {
		if m.founder {
			return m
		}
	}
	if len(ix.members) > 0 {
		return ix.members[0]
	}
	return nil
}

// Cluster gives the id of the cluster, 0 if no member has been recorded.
func (ix *Index) Cluster() uint64 { return ix.cluster }

// SameMembers tells whether two indexes of one log have the same members, and the same ones removed.
func (ix *Index) SameMembers(other *Index) bool {
	return slices.Equal(ix.members, other.members) && len(ix.removed) == len(other.removed)
}

// Removed tells whether the member of this id was removed.
func (ix *Index) Removed(id uint64) bool {
	_, gone := place(ix.removed, id)
	return gone
}

// RemovedMembers gives all that were removed, by id. The slice is not to be changed.
func (ix *Index) RemovedMembers() []*Member { return ix.removed }

// Messages gives members as the Cluster API has them. They are not to be changed.
func Messages(members []*Member) []*pb.Member {
	messages := make([]*pb.Member, len(members))
	for i, m := range members {
		messages[i] = m.Member
	}
	return messages
}

// applyMember takes in the newest state of a member. What an entry says of one that was removed before has no effect.
func (b *Builder) applyMember(m *Member) {
	b.ix.cluster = m.ClusterID
	if b.ix.Removed(m.ID) {
		b.discard(m.position)
		return
	}
	b.ix.members = slices.Clone(b.ix.members)
	if old := b.ix.Member(); m.founder && old != nil && old.founder && old.ID != m.ID {
		b.dropMember(old.ID) // a log has one founder, the newest
	}
	b.dropMember(m.ID)
	if m.Removed {
		i, _ := place(b.ix.removed, m.ID)
		b.ix.removed = slices.Insert(slices.Clone(b.ix.removed), i, m)
		return
	}
	i, _ := b.ix.memberAt(m.ID)
	b.ix.members = slices.Insert(b.ix.members, i, m)
}

// dropMember takes a member out of a list that is the builder's own.
func (b *Builder) dropMember(id uint64) {
	if i, known := b.ix.memberAt(id); known {
		b.discard(b.ix.members[i].position)
		b.ix.members = slices.Delete(b.ix.members, i, i+1)
	}
}

// encodeMember writes down a member, and gives the kind of its entry.
func encodeMember(m *Member) (kind uint8, meta []byte, err error) {
	kind, meta = KindMember, appendInts(nil, int64(m.ClusterID))
	if !m.founder || m.Removed {
		kind, meta = KindJoined, appendInts(meta, flag(m.Removed))
	}
	meta, err = proto.MarshalOptions{Deterministic: true}.MarshalAppend(meta, m.Member)
	return kind, meta, err
}

func decodeMember(e *drivers.Entry) (*Member, error) {
	d := decoder{buf: e.Meta}
	m := &Member{ClusterID: uint64(d.int()), Member: new(pb.Member), founder: e.Kind == KindMember, position: e.Position}
	var removed int64
	if e.Kind == KindJoined {
		removed = d.int()
		m.Removed = removed == 1
	}
	if err := proto.Unmarshal(d.buf, m.Member); err != nil || d.bad || removed < 0 || removed > 1 {
		return nil, fmt.Errorf("%w: member", ErrBadEntry)
	}
	return m, nil
}
