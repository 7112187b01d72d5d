package server

import (
	"time"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

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
