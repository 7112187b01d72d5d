package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// cluster is a node's part in a cluster of members that each have the log, by Raft. The member may be alone, and then
// does without Raft until another one is added.
type cluster struct {
	node   *Node
	log    *raft.Log
	logger *slog.Logger

	serverTLS *listen.TLS
	clientTLS func() *tls.Config

	mu  sync.Mutex
	net *peer.Network // nil while alone
	id  raft.Identity
	// peers are the members' peer URLs, as the flags or another member tell them until the log does.
	peers map[uint64][]string
	// parted are members that were removed, and to which there is no connection any more.
	parted map[uint64]bool
	// toldAt is the position up to which the log was taken in that told of the members last.
	toldAt int64
	// founders is what the first leader founds the cluster with, if the log has no member.
	founders *mvcc.Bootstrap
	// lost is closed when there has been no leader for long.
	lost chan struct{}
	// corrupted is closed while a CORRUPT alarm names this member. Those who change it hold mu.
	corrupted atomic.Pointer[chan struct{}]

	grown   chan struct{} // closed when Raft is there
	changed chan struct{} // the members have changed; capacity 1
	// configuring has a token while Raft's configuration is changed.
	configuring chan struct{}
	gone        chan struct{} // closed when this server ends by itself, for why
	why         error
	goOnce      sync.Once

	growOnce  sync.Once
	listeners []*listen.Listener // of the peer URLs; guarded by mu
	forgotten chan struct{}      // closed when --force-new-cluster is done
}

// raftDir is the directory of the Raft log, which is there if the server is a member of a cluster.
func raftDir(o config.Options) string {
	dir := filepath.Join(o.DataDir, "member")
	if o.WALDir != "" {
		dir = o.WALDir
	}
	return filepath.Join(dir, "raft")
}

func raftOptions(o config.Options, path string, logger *slog.Logger) raft.Options {
	return raft.Options{
		Database: sqlite.Options{Path: path, Logger: logger}, Dir: raftDir(o), Logger: logger,
		HeartbeatInterval: time.Duration(o.HeartbeatInterval) * time.Millisecond,
		ElectionTimeout:   time.Duration(o.ElectionTimeout) * time.Millisecond,
		PreVote:           o.PreVote, SnapshotCount: o.SnapshotCount, CatchUpEntries: o.SnapshotCatchUpEntries,
		Timeout: o.RequestTimeout(),
	}
}

// openCluster opens the log of a server with a data directory of its own, after founding or joining a cluster if the flags say so and the
// directory is new.
func (n *Node) openCluster(ctx context.Context) (*raft.Log, error) {
	path, err := DatabasePath(n.opts.DataDir)
	if err != nil {
		return nil, err
	}
	c := &cluster{
		node: n, logger: n.logger, lost: make(chan struct{}), grown: make(chan struct{}),
		changed: make(chan struct{}, 1), gone: make(chan struct{}), forgotten: make(chan struct{}), configuring: make(chan struct{}, 1), parted: map[uint64]bool{},
	}
	c.corrupted.Store(new(make(chan struct{})))
	if c.serverTLS, c.clientTLS, err = n.peerTLS(); err != nil {
		return nil, err
	}
	o := raftOptions(n.opts, path, n.logger)
	if n.opts.WALDir != "" {
		if err := os.MkdirAll(n.opts.WALDir, 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of the Raft log: %w", err)
		}
	}
	if err := c.begin(ctx, o); err != nil {
		return nil, err
	}
	if c.log, err = raft.Open(ctx, o); err != nil {
		return nil, err
	}
	clustered, err := raft.Clustered(o.Dir)
	if err == nil && clustered && n.opts.ForceNewCluster {
		err = c.log.ForceNew(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.log.Close())
	}
	n.cluster = c
	return c.log, nil
}

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
	c.peers, c.founders = map[uint64][]string{}, &mvcc.Bootstrap{ClusterID: uint64(id)}
	var voters []uint64
	var self uint64
	for _, f := range founders {
		voters, c.peers[uint64(f.ID)] = append(voters, uint64(f.ID)), f.PeerURLs
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
	c.peers = map[uint64][]string{}
	for _, m := range members {
		c.peers[m.ID] = m.PeerURLs
	}
	return id, members, nil
}

// start has a member of a cluster take part in it, once the store is there.
func (c *cluster) start(ctx context.Context) error {
	clustered, err := raft.Clustered(raftDir(c.node.opts))
	if err != nil {
		return err
	}
	ix := c.node.store.Index()
	if !clustered {
		switch err := c.lacksRaft(ix); {
		case err == nil:
			return nil // it is alone
		case !c.node.opts.ForceNewCluster:
			return err
		default:
			if err := c.forceAnew(ix, err); err != nil {
				return err
			}
		}
	}
	if len(ix.Members()) == 0 && c.peers == nil {
		if _, _, err := c.ask(ctx); err != nil {
			c.logger.Warn("the other members do not answer, and this one does not know them yet", "error", err)
		}
	}
	err = c.log.Start(func(id raft.Identity) (raft.Network, error) {
		net, err := c.network(id)
		if err == nil {
			c.told(ix)
			err = c.initialCheck(ctx)
		}
		return net, err
	})
	switch {
	case errors.Is(err, raft.ErrRemoved):
		return fmt.Errorf("%w: its data directory is of no use any more: to have this server in the cluster again, add a member (etcdctl member add) and start it with an empty one", err)
	case err != nil:
		return err
	}
	c.alarmed(ix)
	c.growOnce.Do(func() { close(c.grown) })
	return nil
}

// network connects this member to the others.
func (c *cluster) network(id raft.Identity) (raft.Network, error) {
	net := peer.NewNetwork(peer.NetworkOptions{
		Cluster: id.Cluster, Self: id.Member, TLS: c.clientTLS, Logger: c.logger,
		Unreachable: c.log.Unreachable, SnapshotLost: c.log.SnapshotLost, Removed: c.leave,
	})
	c.mu.Lock()
	old := c.net
	c.net, c.id = net, id
	net.SetPeers(c.peers)
	c.mu.Unlock()
	if old != nil {
		old.Close() // of a growth that failed
	}
	return copier{net}, nil
}

// errRemoved ends a server that is a member no more.
var errRemoved = errors.New("this member was removed from the cluster: its data directory is of no use to another one")

// leave stops this server: it was removed.
func (c *cluster) leave() { c.end(errRemoved) }

// end stops this server.
func (c *cluster) end(why error) {
	c.goOnce.Do(func() {
		c.logger.Error("stopping", "error", why)
		c.why = why
		close(c.gone)
	})
}

// ended says why this server has stopped by itself, if it has.
func (c *cluster) ended() error {
	select {
	case <-c.gone:
		return c.why
	default:
		return nil
	}
}

// told takes note of the members that the log has.
func (c *cluster) told(ix *mvcc.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ix.End.Position < c.toldAt {
		return // somebody has told of a later one already
	}
	c.toldAt = ix.End.Position
	if members := ix.Members(); c.net != nil && len(members) > 0 {
		urls := map[uint64][]string{}
		for _, m := range members {
			urls[m.ID] = m.PeerURLs
		}
		for id, old := range c.peers {
			if urls[id] == nil && ix.Removed(id) && (!c.parted[id] || c.log.Configured(id)) {
				// It may still have a vote or an answer to give, and should hear that it was removed.
				urls[id] = old
				time.AfterFunc(partTime, func() { c.part(id) })
			}
		}
		c.peers = urls
		c.net.SetPeers(urls)
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// removed tells whether a member has no part in the cluster any more. The log says so first; until Raft does, it votes.
func (c *cluster) removed(id uint64) bool {
	return c.node.store.Index().Removed(id) && !c.log.Configured(id)
}

// partTime is how long there are connections to a member after it was removed, at least.
const partTime = 5 * time.Second

// part ends the connections to a member that was removed.
func (c *cluster) part(id uint64) {
	if c.log.Configured(id) {
		time.AfterFunc(partTime, func() { c.part(id) })
		return
	}
	c.mu.Lock()
	c.parted[id] = true
	c.mu.Unlock()
	c.told(c.node.store.Index())
}

func (c *cluster) connections() *peer.Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.net
}

// close closes the connections to the others, after the log.
func (c *cluster) close() {
	if net := c.connections(); net != nil {
		net.Close()
	}
}

// copier is a Network for the log.
type copier struct{ *peer.Network }

// Copy implements raft.Network.
func (c copier) Copy(ctx context.Context, from uint64, receive func(raft.Part) error) error {
	return receiveCopy(ctx, c.Network, from, receive)
}

var _ raft.Network = copier{}
