package server

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// corrupt tells whether CORRUPT alarms stop this server: where others vote one for this member or for all of them, elsewhere any.
func (n *Node) corrupt(ix *mvcc.Index) bool {
	if id, clustered := n.clustered(); clustered && othersVote(ix, id.Member) {
		return ix.Corrupt(id.Member)
	}
	return ix.Alarmed(int32(pb.AlarmType_CORRUPT))
}

// othersVote tells whether there is a member beside one that could serve in its place.
func othersVote(ix *mvcc.Index, id uint64) bool {
	return slices.ContainsFunc(ix.Members(), func(m *mvcc.Member) bool { return m.ID != id && !m.IsLearner })
}

// alarmed takes note of the alarms that are raised.
func (c *cluster) alarmed(ix *mvcc.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.net == nil {
		return
	}
	now := *c.corrupted.Load()
	stopped := false
	select {
	case <-now:
		stopped = true
	default:
	}
	self := fmt.Sprintf("%x", c.id.Member)
	switch stop := ix.Corrupt(c.id.Member) && othersVote(ix, c.id.Member); {
	case stop && !stopped:
		c.logger.Error("a CORRUPT alarm is raised for this member: it serves no keys until the alarm is disarmed. If its data differ from the others', remove it from the cluster, empty its data directory and add it again", "member", self, "all", ix.Corrupt(0))
		close(now)
	case !stop && stopped:
		c.logger.Warn("the CORRUPT alarm for this member is disarmed: it serves keys again", "member", self)
		c.corrupted.Store(new(make(chan struct{})))
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// sound tells whether no CORRUPT alarm stops a member.
func (c *cluster) sound(id uint64) bool { return !c.node.store.Index().Corrupt(id) }
