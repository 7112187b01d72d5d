package raft

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// Part is a piece of a copy of the database: first the Stand alone, then Rows, and at last the end.
type Part struct {
	Stand *Stand
	Rows  []sqlite.Row
	Last  bool
}

// Stand is what a copy is of.
type Stand struct {
	End      drivers.End
	Scrubbed int64
	Mark     sqlite.Mark
}

// ServeCopy gives a copy of the database as the file has it now to fn. Scrubs wait meanwhile; all else goes on.
func (l *Log) ServeCopy(ctx context.Context, fn func(Part) error) error {
	l.copies.Add(1)
	defer l.copies.Add(-1)
	l.copying.RLock()
	defer l.copying.RUnlock()
	return l.withFile(ctx, func(ctx context.Context, f *sqlite.Log) error {
		s := Stand{Scrubbed: f.Bounds().Scrubbed}
		s.End, s.Mark = f.LastMark()
		if err := fn(Part{Stand: &s}); err != nil {
			return err
		}
		err := f.Rows(ctx, 0, s.End.Position, func(rows []sqlite.Row) error { return fn(Part{Rows: rows}) })
		if err != nil {
			return err
		}
		return fn(Part{Last: true})
	})
}

// copySuffix is added to the database's name while a copy of another member's is made.
const copySuffix = ".copy"

// fetch makes a copy of the database of the leader, which says by m that this member is too far behind to get the log, and then gives m to Raft, which has
// it installed. One is fetched at a time; the leader asks again.
func (n *node) fetch(m *raftpb.Message) {
	if m.GetSnapshot().GetMetadata().GetIndex() <= n.applied.Load() {
		n.pass(m) // Raft knows what to answer
		return
	}
	if !n.fetching.CompareAndSwap(false, true) {
		return
	}
	n.log.background.Go(func() {
		defer n.fetching.Store(false)
		n.logger.Info("this member is far behind: fetching a copy of the database", "from", fmt.Sprintf("%x", m.GetFrom()))
		if err := n.log.fetchCopy(n.log.ctx, n.net, m.GetFrom()); err != nil {
			n.logger.Warn("the copy of the database was broken off", "from", fmt.Sprintf("%x", m.GetFrom()), "error", err)
			return
		}
		n.pass(m)
		// Until it is installed or passed over, no other one is to take its place.
		_ = n.do(n.log.ctx, func() {})
	})
}

func (n *node) pass(m *raftpb.Message) {
	select {
	case n.inbox <- m:
	case <-n.done:
	}
}

// fetchCopy makes a whole copy, durable, beside the database.
func (l *Log) fetchCopy(ctx context.Context, net Network, from uint64) error {
	c, err := sqlite.NewCopy(l.opts.Database.Path+copySuffix, l.opts.Database)
	if err != nil {
		return err
	}
	var stand *Stand
	whole := false
	err = net.Copy(ctx, from, func(p Part) error {
		switch {
		case p.Stand != nil:
			stand = p.Stand
		case p.Last:
			whole = true
		default:
			return c.Write(p.Rows)
		}
		return nil
	})
	if err == nil && (stand == nil || !whole) {
		err = errors.New("it has no end")
	}
	if err != nil {
		return errors.Join(err, c.Abort())
	}
	return c.Finish(stand.Scrubbed, stand.End)
}

// install puts the copy that was fetched in the place of the database, and has the Raft log begin after it. The copy may be of a later state
// than Raft asks for: the state machine passes over what it has. After a crash between the two steps the database is ahead of the Raft log, which does no harm.
func (n *node) install(snap *raftpb.Snapshot) error {
	l := n.log
	if err := l.replace(snap); err != nil {
		return fmt.Errorf("install a copy of the database: %w", err)
	}
	m := snap.GetMetadata()
	if err := n.wal.Install(n.hard, snap); err != nil {
		return fmt.Errorf("install a copy of the database: %w", err)
	}
	n.unsaved = false
	n.configured(m.GetConfState(), m.GetIndex())
	n.member = n.member || isMember(n.conf, n.id)
	n.applied.Store(m.GetIndex())
	n.confed.all()
	n.logger.Info("a copy of the database was installed", "index", m.GetIndex())
	return nil
}

// replace puts the copy in the place of the file.
func (l *Log) replace(snap *raftpb.Snapshot) error {
	stood, _, err := decodeStand(snap.GetData())
	if err != nil {
		return err
	}
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.fileEnds()
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			return err
		}
		l.file = nil
	}
	if err := sqlite.Swap(l.opts.Database.Path, l.opts.Database.Path+copySuffix); err != nil {
		return err
	}
	file, err := sqlite.Open(context.WithoutCancel(l.ctx), l.opts.Database)
	if err != nil {
		return err
	}
	end, mark := file.LastMark()
	if end.Position < stood.Position {
		return errors.Join(fmt.Errorf("%w: the copy ends at %d, before %d", drivers.ErrCorrupt, end.Position, stood.Position), file.Close())
	}
	l.file = file
	l.fileCtx, l.fileEnds = context.WithCancel(l.ctx)
	l.epoch.Add(1)
	_, hash := decodeMark(mark)
	l.tail.reset(end, hash)
	l.replaced.all()
	return nil
}

// stuckTicks is for how many ticks a member may seem to need a copy and fetch none before it is asked anew how far it is.
const stuckTicks = 50

// unstick asks members anew that Raft waits for: that they have a copy, or that they failed to get one, may have been lost on the way.
func (n *node) unstick() {
	if n.state != raft.StateLeader || n.log.copies.Load() > 0 {
		clear(n.stuck)
		return
	}
	n.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if pr.State != tracker.StateSnapshot {
			delete(n.stuck, id)
			return
		}
		n.stuck[id]++
	})
	for id, ticks := range n.stuck {
		if ticks >= stuckTicks {
			delete(n.stuck, id)
			n.rn.ReportSnapshot(id, raft.SnapshotFailure)
		}
	}
}
