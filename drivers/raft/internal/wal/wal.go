package wal

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// Options say where a log is and how it is kept.
type Options struct {
	// Dir is the directory of the log; its parent exists.
	Dir string
	// SegmentBytes is the size at which a segment is closed. Default: 16 MiB.
	SegmentBytes int64
	// CacheBytes is how much of the latest entries is kept in memory; older ones are read from their segment. Default: 1 MiB.
	CacheBytes int64
	// Synced is told how long each fsync of frames took, while the log is locked. Default: nobody.
	Synced func(took time.Duration)
	// Logger is told what was found and mended. Default: none.
	Logger *slog.Logger

	fs fsys
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 1 << 20
	}
	if o.Synced == nil {
		o.Synced = func(time.Duration) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.fs == nil {
		o.fs = osFS{}
	}
	return o
}

// Identity says whose log it is.
type Identity struct {
	Cluster, Member uint64
	// Origin tells what the cluster's log began with: the same on all members. 0: with nothing, as all logs of before there was an Origin.
	Origin uint64
}

// ErrBroken: an earlier write failed and could not be undone, so nothing more is written until the log is opened again.
var ErrBroken = errors.New("the Raft log must be opened again before it can be written")

// WAL is an open log.
type WAL struct {
	o Options

	// writing is held by the call that writes, and guards what is above mu. Who holds it may read the state without mu.
	writing sync.Mutex
	current *segment // the one that is written
	// seq is the next frame's sequence number, end where in the current segment it goes.
	seq uint64
	end int64
	// pending are the frames from synced to end: what is written and not proven.
	pending  []byte
	synced   int64
	unproven uint32
	// fresh: the next frame goes into a new segment (W5).
	fresh   bool
	broken  error
	garbage []uint64 // segments that could not be deleted yet
	metas   []meta   // reused

	mu       sync.RWMutex
	state    state
	segments []*segment // from the mark's to the current one
	closed   bool
}

// Identity tells whose log it is.
func (w *WAL) Identity() Identity {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.state.id
}

// Size is how many bytes the log has on disk.
func (w *WAL) Size() (int64, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return 0, drivers.ErrClosed
	}
	var sum int64
	for _, s := range w.segments {
		n, err := s.f.Size()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Close syncs what was saved without, and closes the log. Reading that has begun may end.
func (w *WAL) Close() error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.closed {
		return nil
	}
	var err error
	if w.broken == nil {
		err = w.syncPending()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, s := range w.segments {
		err = errors.Join(err, s.release())
	}
	return err
}

// usable tells why nothing can be written.
func (w *WAL) usable() error {
	if w.closed {
		return drivers.ErrClosed
	}
	return w.broken
}

// segmentAt gives a segment of the log; mu is held.
func (w *WAL) segmentAt(number uint32) *segment {
	return w.segments[uint64(number)-w.segments[0].number]
}
