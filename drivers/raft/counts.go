package raft

import (
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
)

// Counts is what this server's part in the consensus has counted since it began, for metrics. Unlike Status it can be had while the loop waits for its disk.
type Counts struct {
	// Committed and Applied are the indexes of the last entry of Raft's log that is agreed on, and in the state machine.
	Committed, Applied uint64
	// LeaderChanges is how often a leader became known that was not known right before.
	LeaderChanges uint64
	// LateHeartbeats are those that this server, as the leader, sent more than an interval late, since it was held up.
	LateHeartbeats uint64
	// SlowReads are questions of ReadIndex that had to be asked again, since nobody had answered for some intervals.
	SlowReads uint64
	// Installing is set while a copy of another member's database takes the place of this one's.
	Installing bool
}

// Counts gives what was counted; false for a server that is alone.
func (l *Log) Counts() (Counts, bool) {
	n := l.node.Load()
	if n == nil {
		return Counts{}, false
	}
	// What is applied was committed before.
	applied := n.applied.Load()
	return Counts{
		Committed: max(n.counts.committed.Load(), applied), Applied: applied, LeaderChanges: n.counts.leaders.Load(),
		LateHeartbeats: n.counts.late.Load(), SlowReads: n.counts.slowReads.Load(), Installing: n.counts.installing.Load(),
	}, true
}

// counts is what the loop counts.
type counts struct {
	committed, leaders, late, slowReads atomic.Uint64
	installing                          atomic.Bool
	beat                                time.Time // when the leader's last heartbeats went out; zero if it has sent none
}

// tick is told of every tick. A leader's heartbeats go out with each, and count as late as etcd's do: when twice the interval has gone by between two.
func (c *counts) tick(n *node, now time.Time) {
	if n.state != raft.StateLeader {
		c.beat = time.Time{}
		return
	}
	if !c.beat.IsZero() && now.Sub(c.beat) > 2*n.log.opts.HeartbeatInterval {
		conf := n.conf.Load()
		c.late.Add(uint64(len(conf.GetVoters()) + len(conf.GetLearners()) - 1))
	}
	c.beat = now
}
