package server

import (
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// addresses are the peer URLs at which a member reaches the others.
type addresses struct {
	// urls are as the flags or another member tell them until the log does. Nil: nobody has.
	urls map[uint64][]string
	// said is where members say that they are themselves, if the log here does not say so, or something later, yet.
	said map[uint64]whereabouts
	// parting are members that were removed: true when the connections to them have been ended, false before.
	parting map[uint64]bool
	// toldAt is the position up to which the log was taken in that told of the members last.
	toldAt int64
}

// whereabouts are a member's peer URLs, as the log says at a position.
type whereabouts struct {
	urls     []string
	position int64
}

// maxSaid bounds said: there are not so many members, but anybody who gets at the peer port may claim to be one.
const maxSaid = 64

// hear takes note of where a member says that it is, and tells whether it was taken to be elsewhere. It may have moved while this member was away, and this one's answers go to where it takes it to be: without them
// the log that would tell does not come. What a member says is what the log has there, be it behind or ahead of this one's, so of the two the later entry holds.
func (a *addresses) hear(ix *mvcc.Index, id uint64, w whereabouts) bool {
	m := ix.MemberByID(id)
	_, met := a.urls[id]
	switch {
	case ix.Removed(id), m == nil && len(ix.Members()) == 0 && !met:
		return false // it is not known
	case m == nil && len(ix.Members()) > 0 && (w.position <= ix.End.Position || len(a.said) >= maxSaid):
		return false // it is no member. One that was added later may be, and lead: then this one's log comes from it alone
	case m != nil && m.Position() >= w.position, a.said[id].position >= w.position:
		return false
	}
	a.said[id] = w
	moved := !slices.Equal(a.urls[id], w.urls)
	if a.urls != nil {
		a.urls[id] = w.urls
	}
	return moved
}

// meet takes note of the members that another one has told of.
func (a *addresses) meet(members []*pb.Member) {
	a.urls = map[uint64][]string{}
	for _, m := range members {
		a.urls[m.ID] = m.PeerURLs
		if w, ok := a.said[m.ID]; ok {
			a.urls[m.ID] = w.urls // it knows better than others
		}
	}
}

// take takes note of the members that the log has. It gives those that were removed and are to be parted from, once.
//
// As long as Raft's configuration has a removed member its vote may be needed, be it for the change that takes it out, and also after a start: then the log tells where it is. The
// others are kept for a while: they may have an answer to give, and should hear that they were removed.
func (a *addresses) take(ix *mvcc.Index, configured func(id uint64) bool) (removed []uint64) {
	if ix.End.Position < a.toldAt {
		return nil // somebody has told of a later one already
	}
	a.toldAt = ix.End.Position
	if len(ix.Members()) == 0 {
		return nil
	}
	urls := map[uint64][]string{}
	for _, m := range ix.Members() {
		urls[m.ID] = m.PeerURLs
		if w := a.said[m.ID]; w.position > m.Position() {
			urls[m.ID] = w.urls
		} else {
			delete(a.said, m.ID)
		}
	}
	for id, w := range a.said {
		switch {
		case ix.MemberByID(id) != nil:
		case !ix.Removed(id) && w.position > ix.End.Position:
			urls[id] = w.urls
		default:
			delete(a.said, id)
		}
	}
	for _, m := range ix.RemovedMembers() {
		at, connected := a.urls[m.ID]
		if len(m.PeerURLs) > 0 {
			at = m.PeerURLs
		}
		parted, parting := a.parting[m.ID]
		if len(at) == 0 || !configured(m.ID) && (!connected || parted) {
			continue
		}
		urls[m.ID] = at
		if !parting || parted {
			a.parting[m.ID] = false
			removed = append(removed, m.ID)
		}
	}
	a.urls = urls
	return removed
}

// told takes note of the members that the log has.
func (c *cluster) told(ix *mvcc.Index) {
	c.connect(ix)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// connect brings the connections to the members that the log and Raft's configuration have.
func (c *cluster) connect(ix *mvcc.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.net == nil {
		return
	}
	for _, id := range c.addresses.take(ix, c.log.Configured) {
		c.partLater(id)
	}
	if m := ix.MemberByID(c.id.Member); m != nil {
		c.net.Located(m.PeerURLs, m.Position())
	}
	c.net.SetPeers(c.addresses.urls)
}

// located hears where another member says that it is.
func (c *cluster) located(id uint64, w whereabouts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ix := c.node.store.Index()
	if !c.addresses.hear(ix, id, w) {
		return
	}
	c.logger.Info("a member says that it has moved", "member", fmt.Sprintf("%x", id), "peer-urls", w.urls)
	if c.net != nil && c.addresses.urls != nil {
		c.net.SetPeers(c.addresses.urls)
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
	configured := c.log.Configured(id)
	c.mu.Lock()
	if configured {
		c.partLater(id)
	} else {
		c.addresses.parting[id] = true
	}
	c.mu.Unlock()
	if !configured {
		c.told(c.node.store.Index())
	}
}

// partLater has that done in a while, but not after close. The mutex is held.
func (c *cluster) partLater(id uint64) {
	if !c.closed {
		c.partings[id] = time.AfterFunc(partTime, func() { c.part(id) })
	}
}

// close closes the connections to the others, after the log.
func (c *cluster) close() {
	c.mu.Lock()
	c.closed = true
	for id, timer := range c.partings {
		timer.Stop()
		delete(c.partings, id)
	}
	net := c.net
	c.mu.Unlock()
	if net != nil {
		net.Close()
	}
}

func (c *cluster) connections() *peer.Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.net
}

// network connects this member to the others.
func (c *cluster) network(id raft.Identity) (raft.Network, error) {
	net := peer.NewNetwork(peer.NetworkOptions{
		Count:   c.counter,
		Cluster: id.Cluster, Self: id.Member, Origin: id.Origin, TLS: c.clientTLS, Logger: c.logger,
		Unreachable: c.log.Unreachable, SnapshotLost: c.log.SnapshotLost, Removed: c.removedBy,
		Unbegun: c.log.Unbegun, Begun: c.begunBefore,
	})
	c.mu.Lock()
	old := c.net
	c.net, c.id = net, id
	net.SetPeers(c.addresses.urls)
	c.mu.Unlock()
	if old != nil {
		old.Close() // of a growth that failed
	}
	return copier{net, c.node.counted}, nil
}
