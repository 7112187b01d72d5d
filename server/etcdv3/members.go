package etcdv3

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Members is a cluster whose members are entries of the log, as a server of it knows it. Its methods may be called concurrently.
type Members interface {
	// Members gives the members that the log has, by id. They are not to be changed.
	Members() []*pb.Member
	// ActiveSince gives the time from which on this server has been connected to another member without a break, and the
	// zero time if it is not connected.
	ActiveSince(id uint64) time.Time
	// Progress tells how much of the leader's log a member has: mvcc.ErrMemberNotFound if the leader does not know it,
	// drivers.ErrNotLeader if this server does not lead.
	Progress(id uint64) (Progress, error)
	// Change has the log decide a request (mvcc.AddMember, RemoveMember, PromoteMember, UpdateMember) and gives the members
	// afterwards. It returns when the change is in force: the next one can follow. Called on the leader.
	Change(ctx context.Context, request any) ([]*pb.Member, error)
	// MoveLeader has another member that votes lead. This server leads when it is called; it returns when the other one does, or with ctx.
	MoveLeader(ctx context.Context, id uint64) error
}

// Progress is how far a member is: the last position of the leader's log that it is known to have, and the leader's own last one.
type Progress struct{ Match, Last uint64 }

// errNotReady refuses to promote a learner that lags.
var errNotReady = errors.New("etcdv3: the learner has not caught up")

// errUnhealthy refuses a change of the members that the connections of today do not bear.
var errUnhealthy = errors.New("etcdv3: too few members that vote are connected")

// The bounds are etcd's.
const (
	// healthInterval is how long a member must have been connected to be counted on.
	healthInterval = 5 * time.Second
	// readyPercent is how much of the leader's log a learner must have to be promoted.
	readyPercent = 90
)

// What each request is checked for, in this order, and the answer to it. It is etcd's, from api/v3rpc/member.go,
// EtcdServer.AddMember and so on, RaftCluster.ValidateConfigurationChange, and v3rpc's togRPCError; what the log decides is in package mvcc.
// A dagger marks what --strict-reconfig-check=false leaves out.
//
//	MemberAdd      URLs that are none                InvalidArgument     given member URLs are invalid
//	               † too few started (a voter)       Unknown             re-configuration failed due to not enough started members
//	               † no quorum of n+1 connected      Unavailable         unhealthy cluster
//	               id removed (the same second)      NotFound            member not found
//	               id known (the same second)        FailedPrecondition  member ID already exist
//	               peer URL known                    FailedPrecondition  Peer URLs already exists
//	               --max-learners (a learner)        FailedPrecondition  too many learner members in cluster
//	MemberRemove   † a learner: none of the daggers
//	               † too few started without it      Unknown             re-configuration failed due to not enough started members
//	               † connected, and no quorum of the rest is: Unavailable unhealthy cluster
//	               id removed, or not known          NotFound            member not found
//	MemberPromote  leader's progress: id not known   NotFound            member not found
//	               less than 90 % of the log         FailedPrecondition  can only promote a learner member which is in sync with leader
//	               † too few started with it         Unknown             re-configuration failed due to not enough started members
//	               id removed, or not known          NotFound            member not found
//	               votes already                     FailedPrecondition  can only promote a learner member
//	MemberUpdate   id removed, or not known          NotFound            member not found
//	               peer URL of another               FailedPrecondition  Peer URLs already exists
//	MoveLeader     this server does not lead         FailedPrecondition  not leader
//	               target not known, or a learner    FailedPrecondition  bad leader transferee
//	               ctx ends                          Unknown             request timed out, leader transfer took too long
//
// Every text begins with "etcdserver: ". Connected means for five seconds, in which this server itself counts always. Anyone may ask a
// member that does not lead; it has the leader judge a promotion. One thing is not etcd's: it takes any peer URLs in an
// update, and every other member ends on those that are none. Here they are refused like those of MemberAdd.

// peerURLs gives a member's peer URLs, sorted and without spaces around them, if they are such.
func peerURLs(given []string) (urls []string, ok bool) {
	for _, s := range given {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return nil, false
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return nil, false
			}
		case "unix", "unixs":
		default:
			return nil, false
		}
		urls = append(urls, u.String())
	}
	slices.Sort(urls)
	return urls, len(urls) > 0
}

// connected counts the members that vote, and those of them that are connected for long enough.
func (s *clusterServer) connected() (voters, connected int) {
	since := time.Now().Add(-healthInterval)
	for _, m := range s.opts.Members.Members() {
		if m.IsLearner {
			continue
		}
		voters++
		t := s.opts.Members.ActiveSince(m.ID)
		if m.ID == s.opts.Cluster.Member || !t.IsZero() && t.Before(since) {
			connected++
		}
	}
	return voters, connected
}

// mayAdd is the strict check of an addition. To one server alone another can always be added; otherwise the new
// member is taken to be down.
func (s *clusterServer) mayAdd(r *mvcc.AddMember) error {
	if !r.Strict {
		return nil
	}
	if err := r.Ready(s.opts.Members.Members()); err != nil {
		return err
	}
	if voters, connected := s.connected(); voters != 1 && connected < (voters+1)/2+1 {
		return errUnhealthy
	}
	return nil
}

// mayRemove is the strict check of a removal. One that is down takes nothing away from those that are not.
func (s *clusterServer) mayRemove(r *mvcc.RemoveMember) error {
	learner := func(m *pb.Member) bool { return m.ID == r.ID && m.IsLearner }
	if !r.Strict || slices.ContainsFunc(s.opts.Members.Members(), learner) {
		return nil
	}
	if err := r.Ready(s.opts.Members.Members()); err != nil {
		return err
	}
	if r.ID != s.opts.Cluster.Member && s.opts.Members.ActiveSince(r.ID).IsZero() {
		return nil
	}
	if voters, connected := s.connected(); connected-1 < 1+(voters-1)/2 {
		return errUnhealthy
	}
	return nil
}

// mayPromote judges a learner. Only the leader can.
func (s *clusterServer) mayPromote(r *mvcc.PromoteMember) error {
	p, err := s.opts.Members.Progress(r.ID)
	if err != nil {
		return err
	}
	if float64(p.Match)/float64(p.Last) < readyPercent/100.0 {
		return errNotReady
	}
	if !r.Strict {
		return nil
	}
	return r.Ready(s.opts.Members.Members())
}
