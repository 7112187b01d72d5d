package server

import (
	"strings"
	"time"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/metrics"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// published passes the events of a commit on to the hub.
func (n *Node) published(ix *mvcc.Index, events []*mvcc.Event) {
	n.hub.Publish(ix, events)
	n.counted.Published(events)
}

// leasesChanged passes the leases that a commit changed on to the lessor.
func (n *Node) leasesChanged(ix *mvcc.Index, ids []int64) {
	n.counted.LeasesChanged(ix, ids, n.remaining)
	n.lessor.Changed(ix, ids)
}

// remaining tells what is left of a lease, and whether there is one. Who does not count it does not know that it has expired.
func (n *Node) remaining(id int64) (time.Duration, bool) {
	left, known := n.lessor.Remaining(id)
	if !n.lessor.Counting() {
		left = max(left, 1)
	}
	return left, known
}

// reloaded passes on that the index was loaded anew.
func (n *Node) reloaded(ix *mvcc.Index) {
	n.hub.Reloaded(ix)
	n.lessor.Reloaded(ix)
}

// membersChanged passes on who the members are.
func (n *Node) membersChanged(ix *mvcc.Index) {
	if n.cluster != nil {
		n.cluster.told(ix)
	}
}

// alarmsChanged passes on which alarms are raised.
func (n *Node) alarmsChanged(ix *mvcc.Index) {
	if n.cluster != nil {
		n.cluster.alarmed(ix)
	}
}

// diverged ends all watches, and has this server leave those that share the log: it has seen another one.
func (n *Node) diverged(err error) {
	n.hub.Break(err)
	if n.roster != nil {
		n.roster.Quit()
	}
}

// compacted tells the compactor, which is made after the store.
func (n *Node) compacted() {
	if n.compactor != nil {
		n.compactor.Compacted()
	}
}

// appended warns of appends that take long, as etcd warns of slow applies.
func (n *Node) appended(requests, entries int, took time.Duration) {
	if _, clustered := n.clustered(); !clustered {
		// It is all that the disk has to do with it. In a cluster the log tells of its two disks.
		n.counted.Synced(took)
		n.counted.Committed(took)
	}
	if n.counted.Appended(took) {
		n.logger.Warn("apply request took too long", "took", took,
			"expected_duration", n.opts.WarningApplyDuration, "requests", requests, "entries", entries)
	}
}

// showMetrics registers what /metrics tells of this node.
func (n *Node) showMetrics(member uint64) error {
	cluster := versions{}.ClusterVersion()
	return n.counted.Register(n.metrics, metrics.Sources{
		Index: n.store.Index, Hub: n.hub.Stats, Size: n.log.Size,
		HasLeader: n.HasLeader, IsLeader: n.leads, IsLearner: n.IsLearner,
		Consensus: n.consensus, Members: n.memberIDs, Connected: n.connectedTo,
		Member: member, Quota: max(n.opts.QuotaBackendBytes, 0),
		ServerVersion: config.EtcdVersion(), ClusterVersion: cluster[:strings.LastIndexByte(cluster, '.')],
	})
}

// consensus tells of this node's part in it, without waiting for anything.
func (n *Node) consensus() metrics.Consensus {
	if n.cluster != nil {
		if c, clustered := n.cluster.log.Counts(); clustered {
			return metrics.Consensus{
				Committed: c.Committed, Applied: c.Applied, LeaderChanges: c.LeaderChanges,
				LateHeartbeats: c.LateHeartbeats, SlowReads: c.SlowReads, Installing: c.Installing,
			}
		}
	}
	position := uint64(n.store.Index().End.Position)
	return metrics.Consensus{Committed: position, Applied: position, LeaderChanges: 1}
}

func (n *Node) memberIDs() (ids []uint64) {
	for _, m := range n.members() {
		ids = append(ids, m.ID)
	}
	return ids
}

func (n *Node) connectedTo(id uint64) bool {
	return n.cluster != nil && !n.cluster.ActiveSince(id).IsZero()
}

// counter gives who counts what passes between this member and another one.
func (c *cluster) counter(id uint64) peer.Counter { return c.node.counted.Peer(id) }
