package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// begin makes the Raft log of a server that is a member of a cluster from the start.
func (c *cluster) begin(ctx context.Context, o raft.Options) error {
	opts := &c.node.opts
	clustered, err := raft.Clustered(o.Dir)
	if err != nil {
		return err
	}
	others, err := opts.Others()
	if err != nil {
		return err
	}
	_, err = os.Stat(o.Database.Path)
	switch alone := len(others) == 0 && opts.ClusterState == config.ClusterStateNew; {
	case err == nil && !clustered, alone && !clustered:
		return nil // it has data, or will, and is alone
	case clustered && opts.ClusterState != config.ClusterStateNew:
		return nil
	case opts.ClusterState != config.ClusterStateNew:
		return c.join(ctx, o)
	}
	// One that has founded the cluster may have been stopped before the log had its founders.
	if err := c.found(ctx, o, !clustered); err != nil && !clustered {
		return err
	}
	return nil
}

// found makes this server one of the founders that the flags name. All of them find the same ids.
func (c *cluster) found(ctx context.Context, o raft.Options, create bool) error {
	opts := &c.node.opts
	if err := opts.VerifyBootstrap(ctx); err != nil {
		return err
	}
	founders, self, err := Founding(opts)
	if err != nil {
		return err
	}
	c.addresses.urls, c.founders = map[uint64][]string{}, founders
	var voters []uint64
	for _, m := range founders.Members {
		voters, c.addresses.urls[m.ID] = append(voters, m.ID), m.PeerURLs
	}
	if !create {
		return nil
	}
	if err := c.unknown(ctx, self, c.addresses.urls); err != nil {
		return err
	}
	c.logger.Info("founding a cluster", "cluster_id", fmt.Sprintf("%x", founders.ClusterID), "member_id", fmt.Sprintf("%x", self), "members", opts.InitialCluster)
	return raft.Bootstrap(o, raft.Identity{Cluster: founders.ClusterID, Member: self}, voters, drivers.End{})
}

// Founding gives the cluster that options found, and which of its members the server with these options is. All of them find the same ids.
func Founding(opts *config.Options) (founders *mvcc.Bootstrap, self uint64, err error) {
	urls, err := opts.Founders()
	if err != nil {
		return nil, 0, err
	}
	var initial []membership.Founder
	for name, u := range urls {
		initial = append(initial, membership.Founder{Name: name, PeerURLs: u.Strings()})
	}
	initial, id, err := membership.Found(initial, opts.InitialClusterToken)
	if err != nil {
		return nil, 0, fmt.Errorf("--initial-cluster: %w", err)
	}
	founders = &mvcc.Bootstrap{ClusterID: uint64(id)}
	for _, f := range initial {
		founders.Members = append(founders.Members, &pb.Member{ID: uint64(f.ID), Name: f.Name, PeerURLs: f.PeerURLs})
		if f.Name == opts.Name {
			self = uint64(f.ID)
		}
	}
	return founders, self, nil
}

// join makes this server the member of an existing cluster that was added for it.
func (c *cluster) join(ctx context.Context, o raft.Options) error {
	opts := &c.node.opts
	if err := opts.VerifyBootstrap(ctx); err != nil {
		return err
	}
	known, err := c.ask(ctx)
	if err != nil {
		return fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
	members := known.Members
	urls, err := opts.Founders()
	if err != nil {
		return err
	}
	if len(urls) != len(members) {
		return fmt.Errorf("error validating peerURLs: member count is unequal: --initial-cluster has %d members, and the cluster %d: %s", len(urls), len(members), describe(members))
	}
	own := slices.Sorted(slices.Values(urls[opts.Name].Strings()))
	i := slices.IndexFunc(members, func(m *pb.Member) bool { return slices.Equal(slices.Sorted(slices.Values(m.PeerURLs)), own) })
	if i < 0 {
		return fmt.Errorf("error validating peerURLs: the cluster has no member with the peer URLs %s: %s: add it first (etcdctl member add)", strings.Join(own, ","), describe(members))
	}
	if err := begun(members[i]); err != nil {
		return err
	}
	c.addresses.meet(members)
	c.logger.Info("joining a cluster", "cluster_id", fmt.Sprintf("%x", known.Cluster), "member_id", fmt.Sprintf("%x", members[i].ID))
	return raft.Join(o, raft.Identity{Cluster: known.Cluster, Member: members[i].ID, Origin: known.Origin})
}

func describe(members []*pb.Member) string {
	var all []string
	for _, m := range members {
		all = append(all, fmt.Sprintf("%x=%s", m.ID, strings.Join(m.PeerURLs, ",")))
	}
	return strings.Join(all, " ")
}

// ask asks the others that the flags name who the members are.
func (c *cluster) ask(ctx context.Context) (*peer.Known, error) {
	urls, err := c.node.opts.Founders()
	if err != nil {
		return nil, err
	}
	var all []string
	for name, u := range urls {
		if name != c.node.opts.Name {
			all = append(all, u.Strings()...)
		}
	}
	return peer.Members(ctx, all, c.clientTLS)
}

// introduce asks them, and takes note of where the members are as long as nobody else tells.
func (c *cluster) introduce(ctx context.Context, cluster uint64) error {
	known, err := c.ask(ctx)
	switch {
	case err != nil:
		return err
	case known.Cluster != cluster || len(known.Members) == 0:
		return errStrangers
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addresses.meet(known.Members)
	return nil
}

// errStrangers says that who was asked does not know the members either.
var errStrangers = errors.New("who answers is not a member of the cluster, or has no data yet")

// seek asks who the members are as long as the log does not say, from time to time, until ctx ends. One that knows nobody cannot answer anybody: without its vote there may
// be no leader, from whom it would learn it. Who leads may also be one that was added since it was told.
func (c *cluster) seek(ctx context.Context) error {
	id, clustered := c.log.Clustered()
	for clustered && c.founders == nil && len(c.node.store.Index().Members()) == 0 {
		pause := leaderCheck
		if !c.met() {
			pause = seekAgain
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if err := c.introduce(ctx, id.Cluster); err != nil {
			c.logger.Debug("the other members do not answer", "error", err)
		}
		c.connect(c.node.store.Index())
	}
	return nil
}

// met tells whether anybody has told where the members are.
func (c *cluster) met() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addresses.urls != nil
}

// seekAgain is the pause before the others are asked again who the members are, if nobody has told.
const seekAgain = time.Second
