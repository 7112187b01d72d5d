package raft

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// The file is written in the background, many batches in one transaction. What it waits for costs nothing but memory, and a longer replay after a crash.
const (
	// flushDelay is how long a batch waits for others that go to the file with it, unless flushBytes have come together.
	flushDelay = 200 * time.Millisecond
	flushBytes = 1 << 20
	// maxPending is how many bytes may wait for a file that cannot be written. Then the state machine stands still.
	maxPending = 64 << 20
	// flushAgain is the pause after a failure.
	flushAgain = 500 * time.Millisecond
	// walBytes is the size of the Raft log on disk at which it is cut, though it has fewer entries than SnapshotCount.
	walBytes = 128 << 20
)

// flusher writes the tail to the file until ctx ends, and then what is left.
func (l *Log) flusher(ctx context.Context, n *node) error {
	for {
		moved := l.tail.moved.Next()
		if l.tail.pending() == 0 {
			select {
			case <-moved:
			case <-ctx.Done():
				return nil
			}
		}
		l.gather(ctx)
		err := l.flush(context.WithoutCancel(ctx))
		l.noted(&l.database, err)
		switch {
		case err == nil:
			l.cutWAL(n)
		case ctx.Err() != nil:
			return nil
		default:
			select {
			case <-time.After(flushAgain):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil && l.tail.pending() == 0 {
			return nil
		}
	}
}

// gather waits until a transaction is worth its while.
func (l *Log) gather(ctx context.Context) {
	timer := time.NewTimer(flushDelay)
	defer timer.Stop()
	for {
		moved := l.tail.moved.Next()
		if l.tail.pending() >= flushBytes {
			return
		}
		select {
		case <-moved:
		case <-l.hurry:
			return
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// flush brings everything that waits to the file.
func (l *Log) flush(ctx context.Context) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	for {
		batches, waiting := l.tail.unflushed(2 * flushBytes)
		if waiting == 0 {
			return nil
		}
		n, err := l.write(ctx, batches)
		if err != nil {
			return fmt.Errorf("write the database: %w", err)
		}
		l.tail.flushedTo(n)
	}
}

// write brings batches to the file, and gives how many of the first are there now: at least one, if there is no error.
func (l *Log) write(ctx context.Context, batches []*applied) (int, error) {
	l.fileMu.RLock()
	defer l.fileMu.RUnlock()
	if l.file == nil {
		return 0, drivers.ErrClosed // a copy could not be installed
	}
	start := time.Now()
	err := l.file.AppendAll(ctx, batches[0].after, marked(batches))
	l.opts.Flushed(time.Since(start))
	switch {
	case err == nil:
		return len(batches), nil
	case errors.Is(err, drivers.ErrUncertain), errors.Is(err, drivers.ErrUnresolved), errors.Is(err, drivers.ErrConflict):
		return l.settle(ctx, batches, err)
	}
	return 0, err
}

// settle finds out how many of the batches are in the file after all: of this transaction, or of an earlier one of which that
// could not be found out, and which had fewer.
func (l *Log) settle(ctx context.Context, batches []*applied, why error) (int, error) {
	bounds, err := l.file.ReadIndex(ctx)
	if err == nil {
		for i, a := range batches {
			if a.end() == bounds.End {
				return i + 1, nil
			}
		}
	}
	return 0, errors.Join(why, err)
}

// awaitRoom waits while too much waits for the file.
func (l *Log) awaitRoom(ctx context.Context) error {
	for {
		room := l.tail.room.Next()
		if l.tail.pending() < maxPending {
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errImpatient, ctx.Err())
		}
	}
}

// hasten asks for what waits to be written at once.
func (l *Log) hasten() {
	select {
	case l.hurry <- struct{}{}:
	default:
	}
}

// disk is where one of the two logs is kept. They may be of different file systems, and each is found out about by another goroutine.
type disk struct {
	has     string
	failure atomic.Pointer[error] // what keeps this server from writing to it
}

// noted remembers what keeps this server from writing to a disk, or that nothing does. Who follows Leader hears of it: a leader that
// cannot write refuses to append, and another member should lead.
func (l *Log) noted(d *disk, err error) {
	old := d.failure.Load()
	switch {
	case err != nil:
		if d.failure.Swap(&err) == nil {
			l.logger.Error("a disk cannot be written, trying again", "has", d.has, "error", err)
			if n := l.node.Load(); n != nil {
				n.changed.All()
			}
		}
	case old != nil && d.failure.CompareAndSwap(old, nil):
		l.logger.Info("the disk can be written again", "has", d.has)
	}
}

// unwritable says why a disk cannot be written, if one cannot.
func (l *Log) unwritable() error {
	for _, d := range []*disk{&l.raftLog, &l.database} {
		if p := d.failure.Load(); p != nil {
			return *p
		}
	}
	return nil
}

// cutWAL asks for a new marker, and for the Raft log before it to go, once it is long enough.
func (l *Log) cutWAL(n *node) {
	_, mark := l.fileEnd()
	entry, _ := decodeMark(mark)
	snap, err := n.wal.Snapshot()
	if err != nil || entry.index <= snap.GetMetadata().GetIndex() {
		return
	}
	size, err := n.wal.Size()
	if err == nil && size < walBytes && entry.index-snap.GetMetadata().GetIndex() < l.opts.SnapshotCount {
		return
	}
	n.post(n.cut)
}

// cut sets the marker anew, and has the Raft log before it go, but for what is kept for others.
func (n *node) cut() {
	index, err := n.mark()
	if err == nil && index > 0 {
		err = n.wal.Compact(n.keepFrom(index))
	}
	if err != nil && !errors.Is(err, raft.ErrCompacted) {
		n.logger.Error("the Raft log could not be cut", "error", err)
	}
}

// mark sets the marker to what the file has, if the configuration as of then is known: it is the one of now, or none has come since. It gives
// the marker's index, 0 if there is no new one. A file that is ahead, after a start or as a copy, says nothing of where the log stood at an entry that is passed over.
func (n *node) mark() (uint64, error) {
	end, mark := n.log.fileEnd()
	entry, hash := decodeMark(mark)
	if entry.index > n.applied.Load() {
		return 0, nil
	}
	if n.log.tail.pending() == 0 {
		// The file has all that was applied.
		term, err := n.wal.Term(n.applied.Load())
		if err != nil {
			return 0, err
		}
		entry = entryID{n.applied.Load(), term}
		end, hash = n.log.tail.ends()
	}
	snap, err := n.wal.Snapshot()
	if err != nil || entry.index < n.confIndex || entry.index <= snap.GetMetadata().GetIndex() {
		return 0, err
	}
	return entry.index, n.wal.SetSnapshot(marker(entry, n.conf.Load(), end, hash))
}

// keepFrom gives the index up to which the Raft log may go: some is kept for members that are behind, less of it if it is large.
func (n *node) keepFrom(marked uint64) uint64 {
	keep := n.log.opts.CatchUpEntries
	size, err := n.wal.Size()
	switch {
	case err != nil, size > tooLarge*walBytes:
		keep = 0
	case size > walBytes:
		keep /= 8
	}
	index := marked - min(marked, keep)
	if n.state == raft.StateLeader && size <= tooLarge*walBytes {
		n.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
			switch {
			case !n.active(id):
			case pr.State == tracker.StateSnapshot && !n.log.copies.begun(id):
				// It may be fetching one of whoever led before, and need the log from an earlier marker on.
				index = 0
			case pr.State == tracker.StateSnapshot:
				// From there on it needs the log when it has the copy that it fetches. Without it, it would have to fetch another one.
				index = min(index, pr.PendingSnapshot)
			default:
				index = min(index, pr.Match)
			}
		})
	}
	if first, err := n.wal.FirstIndex(); err == nil {
		index = max(index, first-1)
	}
	return index
}

// tooLarge is how many times walBytes the Raft log may take before members that are behind have to fetch a copy of the database.
const tooLarge = 8

// marker is what Raft takes for a snapshot: it says where the state machine stood, and who were the members, and has no data.
func marker(entry entryID, conf *raftpb.ConfState, end drivers.End, hash uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data: encodeStand(end, hash),
		Metadata: &raftpb.SnapshotMetadata{
			Index: &entry.index, Term: &entry.term, ConfState: proto.Clone(conf).(*raftpb.ConfState),
		},
	}
}
