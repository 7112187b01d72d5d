package server

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

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
	urls, err := opts.Founders()
	if err != nil {
		return err
	}
	var founders []membership.Founder
	for name, u := range urls {
		founders = append(founders, membership.Founder{Name: name, PeerURLs: u.Strings()})
	}
	founders, id, err := membership.Found(founders, opts.InitialClusterToken)
	if err != nil {
		return fmt.Errorf("--initial-cluster: %w", err)
	}
	c.addresses.urls, c.founders = map[uint64][]string{}, &mvcc.Bootstrap{ClusterID: uint64(id)}
	var voters []uint64
	var self uint64
	for _, f := range founders {
		voters, c.addresses.urls[uint64(f.ID)] = append(voters, uint64(f.ID)), f.PeerURLs
		c.founders.Members = append(c.founders.Members, &pb.Member{ID: uint64(f.ID), Name: f.Name, PeerURLs: f.PeerURLs})
		if f.Name == opts.Name {
			self = uint64(f.ID)
		}
	}
	if !create {
		return nil
	}
	if err := c.unknown(ctx, self); err != nil {
		return err
	}
	c.logger.Info("founding a cluster", "cluster_id", fmt.Sprintf("%x", id), "member_id", fmt.Sprintf("%x", self), "members", opts.InitialCluster)
	return raft.Bootstrap(o, raft.Identity{Cluster: uint64(id), Member: self}, voters)
}

// join makes this server the member of an existing cluster that was added for it.
func (c *cluster) join(ctx context.Context, o raft.Options) error {
	opts := &c.node.opts
	if err := opts.VerifyBootstrap(ctx); err != nil {
		return err
	}
	id, members, err := c.ask(ctx)
	if err != nil {
		return fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
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
	c.logger.Info("joining a cluster", "cluster_id", fmt.Sprintf("%x", id), "member_id", fmt.Sprintf("%x", members[i].ID))
	return raft.Join(o, raft.Identity{Cluster: id, Member: members[i].ID})
}

func describe(members []*pb.Member) string {
	var all []string
	for _, m := range members {
		all = append(all, fmt.Sprintf("%x=%s", m.ID, strings.Join(m.PeerURLs, ",")))
	}
	return strings.Join(all, " ")
}

// ask asks the others that the flags name who the members are.
func (c *cluster) ask(ctx context.Context) (id uint64, members []*pb.Member, err error) {
	urls, err := c.node.opts.Founders()
	if err != nil {
		return 0, nil, err
	}
	var all []string
	for name, u := range urls {
		if name != c.node.opts.Name {
			all = append(all, u.Strings()...)
		}
	}
	if id, members, err = peer.Members(ctx, all, c.clientTLS); err != nil {
		return 0, nil, err
	}
	c.addresses.urls = map[uint64][]string{}
	for _, m := range members {
		c.addresses.urls[m.ID] = m.PeerURLs
	}
	return id, members, nil
}
