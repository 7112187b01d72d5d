package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// run does what falls to a member of a cluster when the leader or the members change, until ctx ends or it was removed.
func (c *cluster) run(ctx context.Context) error {
	leaving := false
	for {
		if c.log.Failure() == nil {
			c.patience.healed()
		}
		leader, term, leading, moved := c.log.Leader()
		removed := c.log.Removed()
		if leaving {
			removed = nil
		}
		if _, clustered := c.log.Clustered(); clustered {
			// Raft's configuration changes without a word of the log's.
			c.connect(c.node.store.Index())
			switch {
			case leading && c.yield(ctx):
				c.node.lessor.Demote()
			case leading:
				if err := c.takeOver(ctx, term); err != nil && ctx.Err() == nil && !errors.Is(err, drivers.ErrNotLeader) {
					c.logger.Warn("this member leads, and what a leader does first is not done yet", "error", err)
				}
			default:
				c.node.lessor.Demote()
			}
			c.logger.Debug("the lead", "leader", fmt.Sprintf("%x", leader), "term", term, "leading", leading)
		}
		retry := time.NewTimer(leaderCheck)
		select {
		case <-ctx.Done():
		case <-moved:
		case <-c.changed:
		case <-retry.C:
		case <-removed:
			// The others should hear first that it is agreed on: if it led, nobody else tells them.
			leaving = true
			time.AfterFunc(leaveTime, c.leave)
		case <-c.log.Failed():
			c.end(c.log.Failure())
		case <-c.gone:
		}
		retry.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-c.gone:
			return nil
		default:
		}
	}
}

// leaderCheck is how often a leader looks whether Raft's configuration is what the log says.
const leaderCheck = 5 * time.Second

// leaveTime is how long a member goes on that knows by itself that it was removed, as in etcd.
const leaveTime = time.Second

// yield hands over the lead if this member should not have it and another one may, and tells whether it has.
func (c *cluster) yield(ctx context.Context) bool {
	id, _ := c.log.Clustered()
	var why string
	hand := c.log.Resign
	switch err := c.log.Failure(); {
	case !c.sound(id.Member):
		why = "a CORRUPT alarm is raised for it"
	case err != nil && c.patience.over(time.Now()):
		// Nobody knows whether the others' disks can be written: the lead goes round until it is with one whose disk can.
		why, hand = err.Error(), c.log.HandOn
	default:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, leaderCheck)
	defer cancel()
	c.logger.Warn("this member hands over the lead, if another one can take it", "why", why)
	if err := hand(ctx, c.fit); err != nil {
		c.logger.Warn("the lead could not be handed over", "error", err)
	}
	_, _, leading, _ := c.log.Leader()
	return !leading
}

// patience says when a member that cannot write may hand over the lead again: each time after a longer pause. If nobody can write the lead would go
// round for nothing, and every change gives all leases more time.
type patience struct {
	last  time.Time // when it did
	pause time.Duration
}

// maxPatience is the longest pause.
const maxPatience = time.Minute

// over tells whether the pause is, and begins the next one.
func (p *patience) over(now time.Time) bool {
	if now.Sub(p.last) < p.pause {
		return false
	}
	p.last, p.pause = now, min(max(2*p.pause, leaderCheck), maxPatience)
	return true
}

// healed makes the pause a short one: the disk can be written. One that comes and goes does not have the lead go round faster.
func (p *patience) healed() { p.pause = min(p.pause, leaderCheck) }

// takeOver does what a leader of a term does, once it has applied all that was agreed on before it led.
func (c *cluster) takeOver(ctx context.Context, term uint64) error {
	ix, err := c.node.store.Linearizable(ctx)
	if err != nil {
		return err
	}
	if _, now, leading, _ := c.log.Leader(); !leading || now != term {
		return drivers.ErrNotLeader
	}
	c.node.lessor.Promote(term)
	if len(ix.Members()) == 0 && c.founders != nil {
		if _, err := c.node.store.Do(ctx, c.founders, 0); err != nil {
			return err
		}
	}
	if c.node.opts.ForceNewCluster {
		if err := c.forget(ctx); err != nil {
			return err
		}
	}
	return c.configure(ctx)
}

// forget removes all other members, once: there is no way to them any more. A start without --force-new-cluster is refused until it is done: this member would have
// them vote again.
func (c *cluster) forget(ctx context.Context) error {
	select {
	case <-c.forgotten:
		return nil
	default:
	}
	id, _ := c.log.Clustered()
	for _, m := range c.node.store.Index().Members() {
		if m.ID == id.Member {
			if m.IsLearner {
				if _, err := c.node.store.Do(ctx, &mvcc.PromoteMember{ID: m.ID}, 0); err != nil {
					return err
				}
			}
			continue
		}
		if _, err := c.node.store.Do(ctx, &mvcc.RemoveMember{ID: m.ID}, 0); err != nil {
			return err
		}
	}
	if err := c.log.EndForcing(); err != nil {
		return fmt.Errorf("note that the new cluster is there: %w", err)
	}
	close(c.forgotten)
	return nil
}

// awaitForgotten waits until that is done, if it is to be done: clients see a cluster of one from the start.
func (c *cluster) awaitForgotten(ctx context.Context) {
	if _, clustered := c.log.Clustered(); !clustered || !c.node.opts.ForceNewCluster {
		return
	}
	select {
	case <-c.forgotten:
	case <-ctx.Done():
	}
}

// leader gives the leader that clients are told of, 0 if none is known: as the log has it, but for a member that stands still. What is decided asks the log itself, where
// nothing hangs on how long something took.
func (c *cluster) leader() (leader uint64, leading bool, changed <-chan struct{}) {
	leader, _, leading, changed = c.log.Leader()
	if c.halted() {
		return 0, false, changed
	}
	return leader, leading, changed
}

// halted tells whether this member stands still.
func (c *cluster) halted() bool {
	select {
	case <-c.log.Halted():
		return true
	default:
		return false
	}
}

// watchLeaders gives up what a leader was asked and has not answered when another one has followed it, until ctx ends. One that has lost the lead first finds out what
// became of its requests, and says so: so it is given an election timeout.
func (c *cluster) watchLeaders(ctx context.Context) error {
	grace := time.Duration(c.node.opts.ElectionTimeout) * time.Millisecond
	var last uint64
	for {
		leader, _, _, moved := c.log.Leader()
		if old := last; old != 0 && leader != 0 && leader != old {
			time.AfterFunc(grace, func() {
				net := c.connections()
				if now, _, _, _ := c.log.Leader(); now != old && net != nil {
					net.GiveUp(old)
				}
			})
		}
		if leader != 0 {
			last = leader
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchLead closes lost when there has been no leader for three election timeouts, as long as etcd waits, until ctx ends.
func (c *cluster) watchLead(ctx context.Context) error {
	timeout := 3 * time.Duration(c.node.opts.ElectionTimeout) * time.Millisecond
	for {
		leader, leading, moved := c.leader()
		if leader != 0 || leading {
			select {
			case <-moved:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		timer := time.NewTimer(timeout)
		select {
		case <-moved:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			c.mu.Lock()
			close(c.lost)
			c.lost = make(chan struct{})
			c.mu.Unlock()
			select {
			case <-moved:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// leaderLost gives the channel that is closed then.
func (c *cluster) leaderLost() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// resign hands over what this member does for the others, before it stops. Without a quorum it does not: what it would write down, or ask of the others, it
// would wait for in vain.
func (c *cluster) resign(ctx context.Context) {
	id, clustered := c.log.Clustered()
	if _, leading, _ := c.leader(); !clustered || !leading {
		return
	}
	if !c.quorate() {
		c.logger.Warn("the lead is not handed over: too few members are connected", "member", fmt.Sprintf("%x", id.Member))
		return
	}
	c.node.lessor.Stop(ctx)
	if err := c.log.Resign(ctx, c.fit); err != nil {
		c.logger.Warn("the lead could not be handed over", "member", fmt.Sprintf("%x", id.Member), "error", err)
	}
}

// fit tells whether another member can take over the lead: it may have it, and is connected.
func (c *cluster) fit(id uint64) bool { return c.sound(id) && !c.ActiveSince(id).IsZero() }

// quorate tells whether a majority of the members that vote are connected. One that is alone is one.
func (c *cluster) quorate() bool {
	self, clustered := c.log.Clustered()
	voters, connected := 0, 0
	for _, m := range c.node.store.Index().Members() {
		if m.IsLearner {
			continue
		}
		voters++
		if m.ID == self.Member || !c.ActiveSince(m.ID).IsZero() {
			connected++
		}
	}
	return !clustered || 2*connected > voters
}

// indexes gives the indexes of the Raft log's last entry, and of the last one applied, for Status. The last entry of a member that does not say counts as applied.
func (c *cluster) indexes() (index, applied uint64) {
	if _, clustered := c.log.Clustered(); clustered {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if !c.halted() {
			if s, err := c.log.Status(ctx); err == nil {
				return s.Last, s.Applied
			}
		}
		applied = c.log.Applied()
		return applied, applied
	}
	position := uint64(c.node.store.Index().End.Position)
	return position, position
}
