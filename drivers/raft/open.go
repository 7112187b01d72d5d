package raft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/semaphore"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft/internal/wal"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// Options configures a Log. Database and Dir are required.
type Options struct {
	// Database is how the SQLite file is kept.
	Database sqlite.Options
	// Dir is the directory of the Raft log. It exists only if the server is a member of a cluster; its parent must exist.
	Dir string
	// HeartbeatInterval is the time between a leader's heartbeats, and ElectionTimeout how long a follower waits for one before it
	// stands for election. Defaults, etcd's: 100 ms and 1 s.
	HeartbeatInterval, ElectionTimeout time.Duration
	// PreVote has a member ask whether it could win before it disturbs the others with an election.
	PreVote bool
	// SnapshotCount is after how many entries of the Raft log it is cut at its front, and CatchUpEntries how many are kept then for members that are
	// behind; who is further behind fetches a copy of the database. Defaults, etcd's: 10,000 and 5,000.
	SnapshotCount, CatchUpEntries uint64
	// Timeout is how long a question to the others may take. Default: 7 s.
	Timeout time.Duration
	// CopyTimeout is how long a copy of the database may stand still on its way before it is broken off. Default: 30 s.
	CopyTimeout time.Duration
	// Synced is told how long each fsync of the Raft log took, and Flushed each transaction that brings batches to the database. They must not wait. Optional.
	Synced, Flushed func(took time.Duration)
	// Logger gets what operators should know. Default: slog.Default().
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.HeartbeatInterval = cmp.Or(o.HeartbeatInterval, 100*time.Millisecond)
	o.ElectionTimeout = cmp.Or(o.ElectionTimeout, time.Second)
	o.SnapshotCount = cmp.Or(o.SnapshotCount, 10_000)
	o.CatchUpEntries = cmp.Or(o.CatchUpEntries, 5_000)
	o.Timeout = cmp.Or(o.Timeout, 7*time.Second)
	o.CopyTimeout = cmp.Or(o.CopyTimeout, 30*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.Database.Logger = cmp.Or(o.Database.Logger, o.Logger)
	if o.Synced == nil {
		o.Synced = func(time.Duration) {}
	}
	if o.Flushed == nil {
		o.Flushed = func(time.Duration) {}
	}
	return o
}

// electionTicks is ElectionTimeout in heartbeats.
func (o Options) electionTicks() int { return max(int(o.ElectionTimeout/o.HeartbeatInterval), 2) }

func (o Options) wal() wal.Options {
	return wal.Options{Dir: o.Dir, Synced: o.Synced, Logger: o.Logger}
}

// Identity says which member of which cluster a Raft log belongs to.
type Identity = wal.Identity

// Clustered tells whether there is a Raft log in a directory. An empty one has none.
func Clustered(dir string) (bool, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) == 0 {
		return false, nil
	}
	return wal.Exists(dir)
}

// create makes a Raft log, in an empty directory too.
func create(o Options, id Identity, snap *raftpb.Snapshot) error {
	_ = os.Remove(o.Dir) // if there is anything in it, it stays, and Create says so
	return wal.Create(o.wal(), id, snap)
}

// Bootstrap makes the Raft log of a founding member of a cluster. Every founder does so, with the same voters, and with a database that has the same
// and ends at end: the zero End, but for what was restored. The identity gets the origin that this is.
func Bootstrap(o Options, id Identity, voters []uint64, end drivers.End) error {
	id.Origin = origin(end)
	return create(o.withDefaults(), id, beginning(voters, end, 0))
}

// origin tells from other beginnings the log that a cluster begins with: 0 if it is empty. What is restored has batch ids that are made of all that is in it.
func origin(end drivers.End) uint64 {
	if end == (drivers.End{}) {
		return 0
	}
	return max(binary.BigEndian.Uint64(end.Batch[:]), 1)
}

// Join makes the Raft log of a member that was added to a cluster. It learns everything from the others, but for the origin, without which they do not let it in.
func Join(o Options, id Identity) error {
	return create(o.withDefaults(), id, new(raftpb.Snapshot))
}

// beginning is the marker that a new cluster's Raft log begins with.
func beginning(voters []uint64, end drivers.End, chain uint64) *raftpb.Snapshot {
	return marker(entryID{1, 1}, &raftpb.ConfState{Voters: voters}, end, chain)
}

// Open opens the database, and the Raft log if there is one. A member of a cluster takes part in it from Start on; until then it can
// be read. It must be closed.
//
// Errors: those of sqlite.Open; ErrCorrupt also if the Raft log is damaged, or the database lacks what the Raft log does not have any more.
func Open(ctx context.Context, o Options) (*Log, error) {
	l := &Log{opts: o.withDefaults(), born: rand.Uint64(), hurry: make(chan struct{}, 1), copying: semaphore.NewWeighted(allCopies)}
	l.logger = l.opts.Logger
	l.raftLog.has, l.database.has = "the Raft log", "the database"
	l.ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.patience, l.lose = context.WithCancel(l.ctx)
	l.copies.init()
	var err error
	if l.file, err = sqlite.Open(ctx, l.opts.Database); err != nil {
		return nil, err
	}
	l.fileCtx, l.fileEnds = context.WithCancel(l.ctx)
	if !o.Database.ReadOnly {
		l.removeCopy() // of before, if it was killed or stopped then
	}
	return l, nil
}

// Start has a member of a cluster take part in it, by a network that reaches the others. ErrRemoved if its own data tell that it was removed.
func (l *Log) Start(net func(Identity) (Network, error)) error {
	if _, err := os.Stat(l.forcing()); !l.forced && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errForcing, err)
	}
	n, err := l.begin(net)
	if err != nil {
		return err
	}
	l.launch(n)
	return nil
}

// Unbegun tells, from when Start asks for the network, whether this founding member of a cluster of several has never had an entry, as far as it knows: its Raft log is what Bootstrap has made. Once
// it is not so, that is on disk.
func (l *Log) Unbegun() bool { return l.unbegun.Load() && l.Applied() <= 1 }

// isUnbegun tells so of a Raft log. Those that begin with entry 1 in term 1 are Bootstrap's, and Grow's, where nobody else votes. It may have voted.
func isUnbegun(w *wal.WAL) (bool, error) {
	snap, err := w.Snapshot()
	if err != nil {
		return false, err
	}
	last, err := w.LastIndex()
	if err != nil {
		return false, err
	}
	m := snap.GetMetadata()
	return last == 1 && m.GetIndex() == 1 && m.GetTerm() == 1 && !votesAlone(m.GetConfState(), w.Identity().Member), nil
}

// begin opens the Raft log, and makes this server's part in the consensus as it says.
func (l *Log) begin(net func(Identity) (Network, error)) (*node, error) {
	w, err := wal.Open(l.opts.wal())
	if err != nil {
		return nil, fmt.Errorf("open the Raft log: %w", err)
	}
	n, err := l.start(w, net)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return n, nil
}

func (l *Log) start(w *wal.WAL, net func(Identity) (Network, error)) (*node, error) {
	if err := refuseRemoved(w); err != nil {
		return nil, err
	}
	unbegun, err := isUnbegun(w)
	if err != nil {
		return nil, err
	}
	l.unbegun.Store(unbegun)
	network, err := net(w.Identity())
	if err != nil {
		return nil, err
	}
	snap, err := w.Snapshot()
	if err != nil {
		return nil, err
	}
	if l.tail, err = l.tailAfter(snap); err != nil {
		return nil, err
	}
	hs, _, err := w.InitialState()
	if err != nil {
		return nil, err
	}
	if m := snap.GetMetadata(); hs.GetTerm() < m.GetTerm() {
		hs = &raftpb.HardState{Term: new(m.GetTerm()), Vote: new(uint64(0)), Commit: new(m.GetIndex())}
		if err := w.Save(hs, nil, true); err != nil {
			return nil, err
		}
	}
	return newNode(l, w, network)
}

// tailAfter makes the state machine as the file has it.
func (l *Log) tailAfter(snap *raftpb.Snapshot) (*tail, error) {
	stood, chained, err := decodeStand(snap.GetData())
	if err != nil {
		return nil, err
	}
	end, mark := l.file.LastMark()
	entry, hash := decodeMark(mark)
	switch {
	case end.Position < stood.Position:
		return nil, fmt.Errorf("%w: it ends at position %d, and the Raft log goes back to %d only: remove this member from the cluster, empty its data directory and add it again", drivers.ErrCorrupt, end.Position, stood.Position)
	case end.Position == stood.Position && end != stood:
		return nil, fmt.Errorf("%w: it is not the database of this Raft log", drivers.ErrCorrupt)
	case end == stood && entry.index == 0:
		hash = chained
	}
	return newTail(end, hash), nil
}

// launch begins to take part.
func (l *Log) launch(n *node) {
	l.node.Store(n)
	l.grown.All()
	// The loop ends first, so that what it has applied goes to the file.
	flushing, stopFlushing := context.WithCancel(context.WithoutCancel(l.ctx))
	l.background.Go(func() {
		defer stopFlushing()
		_ = n.run(l.ctx) // told by fail
	})
	l.background.Go(n.watchTurns)
	l.background.Go(func() {
		_ = l.flusher(flushing, n)
		if err := n.wal.Close(); err != nil {
			l.logger.Error("the Raft log could not be closed", "error", err)
		}
	})
}

// Grow makes a server that is alone the first member of a cluster, while it goes on serving: appends wait for a moment, no more.
func (l *Log) Grow(ctx context.Context, id Identity, net func(Identity) (Network, error)) error {
	l.appending.Lock()
	defer l.appending.Unlock()
	if l.node.Load() != nil {
		return nil
	}
	bounds, err := l.file.ReadIndex(ctx)
	if err != nil {
		return err
	}
	// What is appended from here on goes through the Raft log, which is durable before the first append is.
	if err := create(l.opts, id, beginning([]uint64{id.Member}, bounds.End, 0)); err != nil {
		return fmt.Errorf("make the Raft log: %w", err)
	}
	n, err := l.begin(net)
	if err != nil {
		// It stays alone, and may try again.
		return errors.Join(err, wal.Remove(l.opts.wal()))
	}
	n.counts.leaders.Store(1) // itself, alone
	if err := n.rn.Campaign(); err != nil && !errors.Is(err, raft.ErrProposalDropped) {
		l.logger.Warn("the first election could not be held at once", "error", err)
	}
	l.launch(n)
	return l.AwaitLeader(ctx)
}

// ForceNew makes a member the only one of its cluster, with everything that it has: what its Raft log holds counts as agreed on, since it may have been
// acknowledged. It is for a cluster whose majority is lost for good. It comes before Start. ErrRemoved, and nothing is changed, if the member's own data tell that it was removed; the same with
// an error of may, which is asked whether this member, being who it is, may become that.
//
// It has begun when a file beside the Raft log says so, and until EndForcing Start refuses, but after this: the database may have by then what the others never agreed on,
// and the log above has them as members until they are removed there.
func (l *Log) ForceNew(ctx context.Context, may func(Identity) error) error {
	w, err := wal.Open(l.opts.wal())
	if err != nil {
		return fmt.Errorf("open the Raft log: %w", err)
	}
	id := w.Identity()
	var snap *raftpb.Snapshot
	if err = refuseRemoved(w); err == nil {
		err = may(id)
	}
	if err == nil {
		snap, err = l.force(ctx, w)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := wal.Replace(l.opts.wal(), id, snap); err != nil {
		return err
	}
	l.forced = true
	return nil
}

// EndForcing says that the log above has no other members any more: what ForceNew or ForceAnew has begun is done.
func (l *Log) EndForcing() error {
	if err := os.Remove(l.forcing()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(l.opts.Dir))
}

// HadRaftLog tells whether the database was written by way of a Raft log last. If that is gone, what was acknowledged and not in the database yet is, too.
func (l *Log) HadRaftLog() bool {
	_, mark := l.fileEnd()
	return mark != sqlite.Mark{}
}

// ForceAnew makes a Raft log for a member that has lost its own, as the only one of its cluster, with what the database has. It comes before Start, and is done, as
// ForceNew is, with EndForcing.
func (l *Log) ForceAnew(id Identity) error {
	end, mark := l.fileEnd()
	entry, hash := decodeMark(mark)
	l.logger.Warn("this member has lost its Raft log, and is made the only one of its cluster with what its database has", "member", fmt.Sprintf("%x", id.Member), "position", end.Position)
	if err := l.noteForcing(); err != nil {
		return err
	}
	at := entryID{max(entry.index, 1), entry.term + 1}
	if err := create(l.opts, id, marker(at, &raftpb.ConfState{Voters: []uint64{id.Member}}, end, hash)); err != nil {
		return fmt.Errorf("make the Raft log anew: %w", err)
	}
	l.forced = true
	return nil
}

// forcing is the file that is there while ForceNew or ForceAnew is not done.
func (l *Log) forcing() string { return l.opts.Dir + ".forcing" }

func (l *Log) noteForcing() error {
	f, err := os.OpenFile(l.forcing(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), syncDir(filepath.Dir(l.opts.Dir)))
	}
	if err != nil {
		return fmt.Errorf("note that a new cluster is forced: %w", err)
	}
	return nil
}

// errForcing says that ForceNew or ForceAnew was broken off.
var errForcing = errors.New("making this member the only one of its cluster was broken off: do it again (--force-new-cluster)")

// force brings all of a Raft log to the file, and gives the marker for after it.
func (l *Log) force(ctx context.Context, w *wal.WAL) (*raftpb.Snapshot, error) {
	if err := l.noteForcing(); err != nil {
		return nil, err
	}
	snap, err := w.Snapshot()
	if err != nil {
		return nil, err
	}
	if l.tail, err = l.tailAfter(snap); err != nil {
		return nil, err
	}
	hs, _, err := w.InitialState()
	if err != nil {
		return nil, err
	}
	at := entryID{snap.GetMetadata().GetIndex(), max(hs.GetTerm(), snap.GetMetadata().GetTerm())}
	n := &node{log: l, id: w.Identity().Member, waiters: map[drivers.BatchID]chan error{}}
	last, err := w.LastIndex()
	if err != nil {
		return nil, err
	}
	for at.index < last {
		entries, err := w.Entries(at.index+1, last+1, flushBytes)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.GetType() == raftpb.EntryNormal && len(e.Data) > 0 {
				if err := n.applyCommand(ctx, e); err != nil {
					return nil, err
				}
			}
			at = entryID{e.GetIndex(), max(at.term, e.GetTerm())}
		}
		if err := l.flush(ctx); err != nil {
			return nil, err
		}
	}
	end, hash := l.tail.ends()
	l.logger.Warn("this member is made the only one of its cluster", "member", fmt.Sprintf("%x", n.id), "position", end.Position)
	return marker(entryID{max(at.index, 1), at.term + 1}, &raftpb.ConfState{Voters: []uint64{n.id}}, end, hash), nil
}

// Run does the database's work in the background until ctx ends. Then this server is stopping: an append that waits for a full disk is uncertain from
// then on, rather than keep it from that.
func (l *Log) Run(ctx context.Context) error {
	defer l.lose()
	for {
		replaced := l.replaced.Next()
		l.fileMu.RLock()
		file, fileCtx := l.file, l.fileCtx
		l.fileMu.RUnlock()
		runCtx, cancel := context.WithCancel(ctx)
		end := context.AfterFunc(fileCtx, cancel)
		err := file.Run(runCtx)
		end()
		cancel()
		if ctx.Err() != nil || fileCtx.Err() == nil {
			return err
		}
		select {
		case <-replaced:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return drivers.ErrClosed
		}
	}
}

// Close ends this server's part, brings to the file what waits for it, and closes both logs.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.stop()
		l.background.Wait()
		l.fileMu.Lock()
		defer l.fileMu.Unlock()
		if l.file != nil {
			l.closeErr = l.file.Close()
			l.file = nil
		}
	})
	return l.closeErr
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
