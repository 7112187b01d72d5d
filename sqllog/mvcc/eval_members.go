package mvcc

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// The requests about members are the server's own. They are decided on the index, as etcd decides them when it applies a change of
// its configuration, so that of two that do not agree the later one is refused. The checks come in this order, which is etcd's
// (RaftCluster.ValidateConfigurationChange of 3.7.3); which answer clients get is said in package etcdv3.
//
//	AddMember      Ready (if Strict)   ErrMemberRemoved, ErrMemberExists, ErrPeerURLExists, ErrTooManyLearners (a learner)
//	RemoveMember   Ready (if Strict)   ErrMemberRemoved, ErrMemberNotFound, ErrNotEnoughStarted (the last that votes)
//	PromoteMember  Ready (if Strict)   ErrMemberRemoved, ErrMemberNotFound, ErrMemberNotLearner
//	UpdateMember                       ErrMemberRemoved, ErrMemberNotFound, ErrPeerURLExists
//	PublishMember                      ErrMemberRemoved, ErrMemberNotFound
//
// The response to each is the members afterwards, a []*Member.

// Founding is a request of the server's own: it records the member unless the log has one already, whose cluster it joins then.
// The response is the member for which the log was founded, a *Member.
type Founding struct{ *Member }

// Bootstrap founds a cluster of several members at once, unless the log has a member already. The first of them is the founder.
type Bootstrap struct {
	ClusterID uint64
	Members   []*pb.Member
}

// AddMember adds a member, which has its id already, to a cluster that has some.
type AddMember struct {
	*pb.Member
	// MaxLearners is the most learners that there may be.
	MaxLearners int
	// Strict has Ready decide first.
	Strict bool
}

// RemoveMember removes a member for good. Its peer URLs stay known (see Index.RemovedMembers).
type RemoveMember struct {
	ID     uint64
	Strict bool
}

// PromoteMember lets a learner vote. Whether it has caught up is not for the log to know.
type PromoteMember struct {
	ID     uint64
	Strict bool
}

// UpdateMember changes a member's peer URLs.
type UpdateMember struct {
	ID       uint64
	PeerURLs []string
}

// PublishMember tells a member's name and client URLs, as it does when it has started. Nothing is written if they are known.
type PublishMember struct {
	ID         uint64
	Name       string
	ClientURLs []string
}

// voters counts the members that vote and those of them that have started, which is what having a name means.
func voters(members []*pb.Member) (all, started int) {
	for _, m := range members {
		if !m.IsLearner {
			all++
			if m.Name != "" {
				started++
			}
		}
	}
	return all, started
}

// enough refuses what would leave a cluster in which fewer than a quorum have started.
func enough(all, started int) error {
	if started < all/2+1 {
		return ErrNotEnoughStarted
	}
	return nil
}

// Ready is etcd's strict check of a change as far as the members decide it: that enough of them have started. To one that is
// alone another can always be added.
func (r *AddMember) Ready(members []*pb.Member) error {
	all, started := voters(members)
	if r.IsLearner || all == 1 && started == 1 {
		return nil
	}
	return enough(all+1, started)
}

// Ready is the same of a removal. A learner can always be removed.
func (r *RemoveMember) Ready(members []*pb.Member) error {
	for _, m := range members {
		if m.ID == r.ID && m.IsLearner {
			return nil
		}
	}
	left := slices.DeleteFunc(slices.Clone(members), func(m *pb.Member) bool { return m.ID == r.ID })
	return enough(voters(left))
}

// Ready is the same of a promotion. The learner is taken to have started.
func (r *PromoteMember) Ready(members []*pb.Member) error {
	all, started := voters(members)
	return enough(all+1, started+1)
}

// members decides a request about members, or has auth decide it.
func (ev *evaluator) members(request any) (any, error) {
	var err error
	switch r := request.(type) {
	case *Member:
		return ev.member(r)
	case *Founding:
		if m := ev.b.ix.Member(); m != nil {
			return m, nil
		}
		return ev.member(r.Member)
	case *Bootstrap:
		err = ev.bootstrap(r)
	case *AddMember:
		err = ev.addMember(r)
	case *RemoveMember:
		err = ev.removeMember(r)
	case *PromoteMember:
		err = ev.promoteMember(r)
	case *UpdateMember:
		err = ev.updateMember(r)
	case *PublishMember:
		err = ev.publishMember(r)
	default:
		return ev.auth(request)
	}
	if err != nil {
		return nil, err
	}
	return ev.b.ix.Members(), nil
}

// member records the state of a member that is known, or that is the first.
func (ev *evaluator) member(r *Member) (*Member, error) {
	m := *r
	if m.founder = len(ev.b.ix.members) == 0; !m.founder {
		old, err := ev.knownMember(m.ID)
		if err != nil {
			return nil, err
		}
		m.founder = old.founder
	}
	if err := ev.writeMember(&m); err != nil {
		return nil, err
	}
	return &m, nil
}

func (ev *evaluator) writeMember(m *Member) error {
	kind, meta, err := encodeMember(m)
	if err != nil {
		return err
	}
	m.position = ev.b.emit(kind, meta, nil)
	ev.b.applyMember(m)
	return nil
}

// changeMember records a member as change leaves it.
func (ev *evaluator) changeMember(old *Member, change func(*pb.Member)) error {
	m := &Member{ClusterID: old.ClusterID, Member: proto.CloneOf(old.Member), founder: old.founder}
	change(m.Member)
	return ev.writeMember(m)
}

func (ev *evaluator) knownMember(id uint64) (*Member, error) {
	if ev.b.ix.Removed(id) {
		return nil, ErrMemberRemoved
	}
	m := ev.b.ix.MemberByID(id)
	if m == nil {
		return nil, ErrMemberNotFound
	}
	return m, nil
}

// newMember refuses one that cannot be a member beside those that are.
func (ev *evaluator) newMember(m *pb.Member) error {
	switch {
	case ev.b.ix.Removed(m.ID):
		return ErrMemberRemoved
	case ev.b.ix.MemberByID(m.ID) != nil:
		return ErrMemberExists
	}
	return ev.checkPeerURLs(m.ID, m.PeerURLs)
}

// checkPeerURLs refuses peer URLs for a member of this id that another one has.
func (ev *evaluator) checkPeerURLs(id uint64, urls []string) error {
	for _, m := range ev.b.ix.members {
		if m.ID != id && slices.ContainsFunc(m.PeerURLs, func(u string) bool { return slices.Contains(urls, u) }) {
			return ErrPeerURLExists
		}
	}
	return nil
}

func (ev *evaluator) bootstrap(r *Bootstrap) error {
	if len(ev.b.ix.members) > 0 {
		return nil
	}
	for i, m := range r.Members {
		if err := ev.newMember(m); err != nil {
			return err
		}
		if err := ev.writeMember(&Member{ClusterID: r.ClusterID, Member: m, founder: i == 0}); err != nil {
			return err
		}
	}
	return nil
}

func (ev *evaluator) addMember(r *AddMember) error {
	members := Messages(ev.b.ix.members)
	if r.Strict {
		if err := r.Ready(members); err != nil {
			return err
		}
	}
	if err := ev.newMember(r.Member); err != nil {
		return err
	}
	all, _ := voters(members)
	if all == 0 {
		return ErrNotEnoughStarted // there is no cluster
	}
	if r.IsLearner && len(members)-all >= r.MaxLearners {
		return ErrTooManyLearners
	}
	return ev.writeMember(&Member{ClusterID: ev.b.ix.cluster, Member: r.Member})
}

func (ev *evaluator) removeMember(r *RemoveMember) error {
	members := Messages(ev.b.ix.members)
	if r.Strict {
		if err := r.Ready(members); err != nil {
			return err
		}
	}
	m, err := ev.knownMember(r.ID)
	if err != nil {
		return err
	}
	// etcd ends here when it is not strict.
	if all, _ := voters(members); all == 1 && !m.IsLearner {
		return ErrNotEnoughStarted
	}
	return ev.writeMember(&Member{ClusterID: m.ClusterID, Member: &pb.Member{ID: m.ID, PeerURLs: m.PeerURLs}, Removed: true})
}

func (ev *evaluator) promoteMember(r *PromoteMember) error {
	if r.Strict {
		if err := r.Ready(Messages(ev.b.ix.members)); err != nil {
			return err
		}
	}
	m, err := ev.knownMember(r.ID)
	switch {
	case err != nil:
		return err
	case !m.IsLearner:
		return ErrMemberNotLearner
	}
	return ev.changeMember(m, func(m *pb.Member) { m.IsLearner = false })
}

func (ev *evaluator) updateMember(r *UpdateMember) error {
	m, err := ev.knownMember(r.ID)
	if err != nil {
		return err
	}
	if err := ev.checkPeerURLs(r.ID, r.PeerURLs); err != nil {
		return err
	}
	return ev.changeMember(m, func(m *pb.Member) { m.PeerURLs = r.PeerURLs })
}

func (ev *evaluator) publishMember(r *PublishMember) error {
	m, err := ev.knownMember(r.ID)
	if err != nil || m.Name == r.Name && slices.Equal(m.ClientURLs, r.ClientURLs) {
		return err
	}
	return ev.changeMember(m, func(m *pb.Member) { m.Name, m.ClientURLs = r.Name, r.ClientURLs })
}
