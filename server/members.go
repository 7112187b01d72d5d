package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/etcdv3"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/server/peer/peerpb"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

var (
	_ etcdv3.Members = (*cluster)(nil)
	_ etcdv3.Lead    = lead{}
)

// Members implements etcdv3.Members.
func (c *cluster) Members() []*pb.Member { return mvcc.Messages(c.node.store.Index().Members()) }

// ActiveSince implements etcdv3.Members.
func (c *cluster) ActiveSince(id uint64) time.Time {
	// There are connections to one that was removed for a while.
	if net := c.connections(); net != nil && c.node.store.Index().MemberByID(id) != nil {
		return net.ActiveSince(id)
	}
	return time.Time{}
}

// Progress implements etcdv3.Members.
func (c *cluster) Progress(id uint64) (etcdv3.Progress, error) {
	if _, clustered := c.log.Clustered(); !clustered {
		// It is alone, and knows of itself.
		if c.node.store.Index().MemberByID(id) == nil {
			return etcdv3.Progress{}, mvcc.ErrMemberNotFound
		}
		return etcdv3.Progress{Match: 1, Last: 1}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.node.opts.RequestTimeout())
	defer cancel()
	s, err := c.log.Status(ctx)
	switch p, known := s.Progress[id]; {
	case err != nil:
		return etcdv3.Progress{}, err
	case s.Leader != s.ID:
		return etcdv3.Progress{}, drivers.ErrNotLeader
	case !known:
		return etcdv3.Progress{}, mvcc.ErrMemberNotFound
	default:
		return etcdv3.Progress{Match: p.Match, Last: s.Last}, nil
	}
}

// Change implements etcdv3.Members. What the log decides counts; Raft follows.
func (c *cluster) Change(ctx context.Context, request any) ([]*pb.Member, error) {
	if _, add := request.(*mvcc.AddMember); add {
		// What is refused is no reason to grow.
		if _, results := mvcc.Evaluate(c.node.store.Index(), mvcc.Env{}, []any{request}); results[0].Err != nil {
			return nil, results[0].Err
		}
		if err := c.grow(ctx); err != nil {
			return nil, err
		}
	}
	resp, err := c.node.store.Do(ctx, request, 0)
	if err != nil {
		return nil, err
	}
	members := mvcc.Messages(resp.([]*mvcc.Member))
	if _, clustered := c.log.Clustered(); clustered {
		c.told(c.node.store.Index())
		switch err := c.configure(ctx); {
		case err == nil, errors.Is(err, drivers.ErrNotLeader), errors.Is(err, drivers.ErrNoLeader), errors.Is(err, drivers.ErrNoQuorum):
			// Whoever leads next does it.
		default:
			return nil, err
		}
	}
	return members, nil
}

// configure brings Raft's configuration to the members that the log has. Who is wanted is found out by one at a time, and holds for the term: somebody with
// an older list would bring back a voter that was removed, and is not there to vote.
func (c *cluster) configure(ctx context.Context) error {
	select {
	case c.configuring <- struct{}{}:
		defer func() { <-c.configuring }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// Somebody else, who has heard of the change too, may have done it. Then a quorum is not asked: if a second member was added to one that was
	// alone, there is none until the second is started, and that waits for the answer.
	if c.log.Follows(wanted(c.node.store.Index())) {
		return nil
	}
	_, term, leading, _ := c.log.Leader()
	if !leading {
		return drivers.ErrNotLeader
	}
	ix, err := c.node.store.Linearizable(ctx)
	if err != nil {
		return err
	}
	want := wanted(ix)
	if len(want) == 0 {
		return nil
	}
	return c.log.ConfigureIn(ctx, term, want)
}

// wanted gives Raft's configuration as the log has it.
func wanted(ix *mvcc.Index) []raft.Member {
	var all []raft.Member
	for _, m := range ix.Members() {
		all = append(all, raft.Member{ID: m.ID, Learner: m.IsLearner})
	}
	return all
}

// grow makes a server that is alone the first member of a cluster.
func (c *cluster) grow(ctx context.Context) error {
	// Also if nobody waits for it any more: it is a member of a cluster from then on.
	defer func() {
		if _, clustered := c.log.Clustered(); clustered {
			c.growOnce.Do(func() {
				c.alarmed(c.node.store.Index())
				close(c.grown)
			})
		}
	}()
	if _, clustered := c.log.Clustered(); clustered {
		return nil
	}
	m := c.node.store.Index().Member()
	if m == nil {
		return fmt.Errorf("grow into a cluster: %w", mvcc.ErrMemberNotFound)
	}
	if err := c.node.bindPeers(); err != nil {
		return fmt.Errorf("grow into a cluster: %w", err)
	}
	c.logger.Info("this server was alone and becomes the first member of a cluster", "cluster_id", fmt.Sprintf("%x", m.ClusterID), "member_id", fmt.Sprintf("%x", m.ID))
	if err := c.log.Grow(ctx, raft.Identity{Cluster: m.ClusterID, Member: m.ID}, c.network); err != nil {
		return fmt.Errorf("grow into a cluster: %w", err)
	}
	return nil
}

// MoveLeader implements etcdv3.Members.
func (c *cluster) MoveLeader(ctx context.Context, id uint64) error {
	return c.log.Transfer(ctx, id)
}

// lead brings requests to the leader.
type lead struct{ *cluster }

// Leader implements etcdv3.Lead.
func (l lead) Leader(ctx context.Context) (etcdv3.Leader, error) {
	id, conn, err := l.find(ctx)
	if err != nil || conn == nil {
		return nil, err
	}
	return leader{l.connections(), id, conn}, nil
}

// find waits until there is a leader that can be reached, and gives the connection to it, nil if it is this server. drivers.ErrNoLeader if this member stands still.
func (l lead) find(ctx context.Context) (uint64, *grpc.ClientConn, error) {
	for {
		leader, leading, changed := l.leader()
		switch {
		case l.halted():
			return 0, nil, drivers.ErrNoLeader
		case leading:
			return 0, nil, nil
		}
		if conn := l.ready(leader); conn != nil {
			return leader, conn, nil
		}
		moved, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-changed:
				cancel()
			case <-moved.Done():
			}
		}()
		conn := l.reach(moved, leader)
		if conn == nil && leader == 0 {
			<-moved.Done()
		}
		cancel()
		if conn != nil {
			return leader, conn, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
	}
}

// ready gives the connection to a member if there is one.
func (l lead) ready(id uint64) *grpc.ClientConn {
	net := l.connections()
	if id == 0 || net == nil {
		return nil
	}
	if conn, err := net.Conn(id); err == nil && conn.GetState() == connectivity.Ready {
		return conn
	}
	return nil
}

// reach waits until there is a connection to a member, or ctx ends.
func (l lead) reach(ctx context.Context, id uint64) *grpc.ClientConn {
	net := l.connections()
	for id != 0 && net != nil && ctx.Err() == nil {
		conn, err := net.Conn(id)
		if err != nil {
			// The log has not told yet where it is.
			timer := time.NewTimer(memberAgain)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			continue
		}
		state := conn.GetState()
		if state == connectivity.Ready {
			return conn
		}
		conn.WaitForStateChange(ctx, state)
	}
	return nil
}

// memberAgain is the pause before it is looked again where a member is, or tried again to tell it something.
const memberAgain = 100 * time.Millisecond

// leader is another member that leads.
type leader struct {
	net  *peer.Network
	id   uint64
	conn *grpc.ClientConn
}

// Answer implements etcdv3.Leader.
func (l leader) Answer(ctx context.Context, method string, request []byte) (etcdv3.Answer, error) {
	a, err := l.net.Forward(ctx, l.id, method, request)
	switch {
	case errors.Is(err, peer.ErrNotSent):
		return etcdv3.Answer{}, etcdv3.ErrNotSent
	case errors.Is(err, peer.ErrLost):
		return etcdv3.Answer{}, etcdv3.ErrLost
	case err != nil:
		return etcdv3.Answer{}, err
	}
	return etcdv3.Answer{
		Response: a.GetResponse(), Err: status.Error(codes.Code(a.GetCode()), a.GetText()), NotLeader: a.GetNotLeader(), Position: a.GetPosition(),
	}, nil
}

// Renew implements etcdv3.Leader.
func (l leader) Renew(ctx context.Context, lease int64) (ttl, position int64, err error) {
	resp, err := peerpb.NewPeerClient(l.conn).Renew(ctx, &peerpb.RenewRequest{Lease: lease})
	return resp.GetTtl(), resp.GetPosition(), err
}

// publish tells the cluster what this member is called and where clients reach it, until it knows.
func (c *cluster) publish(ctx context.Context) error {
	urls := c.node.opts.AdvertiseClientURLs.Strings()
	for {
		c.mu.Lock()
		self := c.id.Member
		c.mu.Unlock()
		m := c.node.store.Index().MemberByID(self)
		if m != nil && m.Name == c.node.opts.Name && slices.Equal(m.ClientURLs, urls) {
			return nil
		}
		_, conn, err := lead{c}.find(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil: // it stands still
		case c.log.Unbegun():
			// Whoever knows where its clients reach it is to be sure that it has begun, and that it knows so itself.
		case conn == nil:
			_, err = c.node.store.Do(ctx, &mvcc.PublishMember{ID: self, Name: c.node.opts.Name, ClientURLs: urls}, 0)
		default:
			_, err = peerpb.NewPeerClient(conn).Publish(ctx, &peerpb.PublishRequest{Name: c.node.opts.Name, ClientUrls: urls})
		}
		if err != nil {
			c.logger.Debug("this member is not published yet", "error", err)
		}
		timer := time.NewTimer(memberAgain)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// errNotLeading answers another member that takes this one for the leader.
var errNotLeading = status.Error(codes.Unavailable, "this member does not lead")
