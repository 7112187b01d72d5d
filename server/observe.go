package server

import (
	"strings"
	"time"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/metrics"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// published passes the events of a commit on to the hub.
func (n *Node) published(ix *mvcc.Index, events []*mvcc.Event) {
	n.hub.Publish(ix, events)
	n.counted.Published(events)
}

// leasesChanged passes the leases that a commit changed on to the lessor.
func (n *Node) leasesChanged(ix *mvcc.Index, ids []int64) {
	n.counted.LeasesChanged(ix, ids, n.lessor.Remaining)
	n.lessor.Changed(ix, ids)
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
		Member: member, Quota: max(n.opts.QuotaBackendBytes, 0),
		ServerVersion: config.EtcdVersion(), ClusterVersion: cluster[:strings.LastIndexByte(cluster, '.')],
	})
}
