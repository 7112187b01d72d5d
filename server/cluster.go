package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/metrics"
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

	mu        sync.Mutex
	net       *peer.Network // nil while alone
	id        raft.Identity
	addresses addresses
	// partings are the timers of members that are to be parted from, by id; none when closed.
	partings map[uint64]*time.Timer
	closed   bool
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
	published chan struct{}      // closed when the cluster knows where clients reach this member
	patience  patience           // of run
	hearsay   hearsay            // guarded by mu
}

// RaftDir is the directory of the Raft log, which is there if the server is a member of a cluster.
func RaftDir(o config.Options) string {
	dir := filepath.Join(o.DataDir, "member")
	if o.WALDir != "" {
		dir = o.WALDir
	}
	return filepath.Join(dir, "raft")
}

func raftOptions(o config.Options, path string, logger *slog.Logger) raft.Options {
	return raft.Options{
		Database: sqlite.Options{Path: path, Logger: logger}, Dir: RaftDir(o), Logger: logger,
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
		changed: make(chan struct{}, 1), gone: make(chan struct{}), forgotten: make(chan struct{}), published: make(chan struct{}), configuring: make(chan struct{}, 1),
		addresses: addresses{parting: map[uint64]bool{}, said: map[uint64]whereabouts{}}, partings: map[uint64]*time.Timer{}, hearsay: hearsay{heard: map[uint64]bool{}},
	}
	c.corrupted.Store(new(make(chan struct{})))
	if c.serverTLS, c.clientTLS, err = n.peerTLS(); err != nil {
		return nil, err
	}
	o := raftOptions(n.opts, path, n.logger)
	o.Synced, o.Flushed = n.counted.Synced, n.counted.Committed
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
	if err := guard(n.opts.DataDir); err != nil {
		c.logger.Warn("nothing keeps an etcd from starting on the data directory", "error", err)
	}
	clustered, err := raft.Clustered(o.Dir)
	if err == nil && clustered && n.opts.ForceNewCluster {
		err = advise(c.log.ForceNew(ctx, c.mayForce(ctx)))
	}
	if err != nil {
		return nil, errors.Join(err, c.log.Close())
	}
	n.cluster = c
	return c.log, nil
}

// start has a member of a cluster take part in it, once the store is there.
func (c *cluster) start(ctx context.Context) error {
	clustered, err := raft.Clustered(RaftDir(c.node.opts))
	if err != nil {
		return err
	}
	ix := c.node.store.Index()
	if !clustered {
		switch err := c.lacksRaft(ix); {
		case err == nil:
			close(c.forgotten) // it is alone, and has nobody to forget; if it grows, those are added
			return nil
		case !c.node.opts.ForceNewCluster:
			return err
		default:
			if err := c.forceAnew(ctx, ix, err); err != nil {
				return err
			}
		}
	}
	err = c.log.Start(func(id raft.Identity) (raft.Network, error) {
		if len(ix.Members()) == 0 && c.addresses.urls == nil {
			if err := c.introduce(ctx, id.Cluster); err != nil {
				c.logger.Warn("the other members do not answer, and this one does not know them yet: it asks again", "error", err)
			}
		}
		if c.node.opts.ForceNewCluster && ix.Removed(id.Member) {
			// The log says so first, and Raft's configuration follows.
			return nil, fmt.Errorf("member %x: %w", id.Member, raft.ErrRemoved)
		}
		if err := c.unknownAs(ctx, id.Member, ix); err != nil {
			return nil, err
		}
		net, err := c.network(id)
		if err == nil {
			c.told(ix)
			err = c.initialCheck(ctx)
		}
		return net, err
	})
	if err != nil {
		return advise(err)
	}
	c.alarmed(ix)
	c.growOnce.Do(func() { close(c.grown) })
	return nil
}

// advise adds to the error of a member that was removed what can be done.
func advise(err error) error {
	if errors.Is(err, raft.ErrRemoved) {
		return fmt.Errorf("%w: its data directory is of no use any more: to have this server in the cluster again, add a member (etcdctl member add) and start it with an empty one", err)
	}
	return err
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

// copier is a Network for the log.
type copier struct {
	*peer.Network
	counted *metrics.Metrics
}

// Copy implements raft.Network.
func (c copier) Copy(ctx context.Context, from uint64, receive func(raft.Part) error) (err error) {
	ended := c.counted.Peer(from).Receiving()
	defer func() { ended(err) }()
	return receiveCopy(ctx, c.Network, from, receive)
}

var _ raft.Network = copier{}
