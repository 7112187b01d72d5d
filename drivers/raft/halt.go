package raft

import (
	"sync"
	"sync/atomic"
	"time"
)

// turns tells those outside of the loop whether it gets on. While it waits for its disk it takes in no messages: another member may lead by then, and this one still says
// what it knew before. What is decided by that is only what is reported, and for how long a call waits.
type turns struct {
	// count rises as the loop gets on.
	count atomic.Uint64
	// limit is for how many ticks it may not rise.
	limit int

	mu     sync.Mutex // held by who changes the other two
	halted atomic.Bool
	closed atomic.Pointer[chan struct{}] // closed while halted
}

// leastHalt is the shortest time after which the loop counts as halted: a disk that is sound takes a second at times.
const leastHalt = time.Second

// haltTicks is the number of heartbeats for which the loop stands still before it counts as halted: of two election timeouts, within which all others that
// hear of no leader have stood for election. What hangs for less often keeps the lead, and loses nothing.
func (o Options) haltTicks() int {
	return max(2*o.electionTicks(), int(leastHalt/o.HeartbeatInterval))
}

// turned says that the loop gets on.
func (n *node) turned() {
	n.turns.count.Add(1)
	if n.turns.halted.Load() {
		n.resume()
	}
}

// watchTurns finds out whether the loop stands still, until it has ended. It counts ticks and looks at no clock: if the process as a whole is slow, or was stopped, it
// was too.
func (n *node) watchTurns() {
	tick := time.NewTicker(n.log.opts.HeartbeatInterval)
	defer tick.Stop()
	var p lookout
	for {
		select {
		case <-tick.C:
			p.tick(n)
		case <-n.done:
			return
		}
	}
}

// lookout is how the loop looks from outside of it: at its last turn that was seen, and how many ticks ago that was.
type lookout struct {
	seen   uint64
	missed int
}

func (p *lookout) tick(n *node) {
	if now := n.turns.count.Load(); now != p.seen {
		p.seen, p.missed = now, 0
		return
	}
	// Of fewer than three voters none can lead without this one: then it is better to wait for it.
	if p.missed++; p.missed >= n.turns.limit && len(n.conf.Load().GetVoters()) > 2 {
		n.halt(p.seen)
	}
}

// halt says that the loop stands still, unless it has turned since it was seen.
func (n *node) halt(seen uint64) {
	if n.turns.halted.Load() {
		return
	}
	n.turns.mu.Lock()
	n.turns.halted.Store(true)
	close(*n.turns.closed.Load())
	n.turns.mu.Unlock()
	n.logger.Error("this member's Raft loop stands still, as while its disk hangs or is full: it counts as having no leader")
	n.changed.All()
	if n.turns.count.Load() != seen {
		n.resume()
	}
}

// resume says that it does not any more.
func (n *node) resume() {
	n.turns.mu.Lock()
	was := n.turns.halted.Load()
	if was {
		n.turns.halted.Store(false)
		n.turns.closed.Store(new(make(chan struct{})))
	}
	n.turns.mu.Unlock()
	if was {
		n.logger.Info("this member's Raft loop goes on")
		n.changed.All()
	}
}

// Halted implements drivers.Replica.
func (l *Log) Halted() <-chan struct{} {
	if n := l.node.Load(); n != nil {
		return *n.turns.closed.Load()
	}
	return nil
}
