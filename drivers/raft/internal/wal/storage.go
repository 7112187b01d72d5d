package wal

import (
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

// maxRun is how much is read from a segment at once, if it is more than one entry.
const maxRun = 1 << 20

// InitialState implements raft.Storage.
func (w *WAL) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return cloneHard(w.state.hard), cloneSnapshot(w.state.snap).GetMetadata().GetConfState(), nil
}

// FirstIndex implements raft.Storage.
func (w *WAL) FirstIndex() (uint64, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.state.mark.index + 1, nil
}

// LastIndex implements raft.Storage.
func (w *WAL) LastIndex() (uint64, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.state.last(), nil
}

// Term implements raft.Storage.
func (w *WAL) Term(index uint64) (uint64, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	switch {
	case index < w.state.mark.index:
		return 0, raft.ErrCompacted
	case index > w.state.last():
		return 0, raft.ErrUnavailable
	}
	return w.state.termOf(index), nil
}

// Snapshot implements raft.Storage.
func (w *WAL) Snapshot() (*raftpb.Snapshot, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return cloneSnapshot(w.state.snap), nil
}

// Entries implements raft.Storage.
func (w *WAL) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	entries, err := w.entries(lo, hi, maxSize)
	if errors.Is(err, drivers.ErrCorrupt) {
		// After an fsync that failed, what was not proven may read as it was before, until it is written anew: look again then.
		w.writing.Lock()
		defer w.writing.Unlock()
		return w.entries(lo, hi, maxSize)
	}
	return entries, err
}

func (w *WAL) entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	r, err := w.plan(lo, hi, maxSize)
	if err != nil {
		return nil, err
	}
	defer r.release()
	return r.read()
}

// reading is what Entries has to read, and what it need not.
type reading struct {
	first    uint64
	metas    []meta // of those that are read
	segments []*segment
	cached   []*raftpb.Entry // those after them
}

// plan finds out what Entries has to read, and holds the segments open.
func (w *WAL) plan(lo, hi, maxSize uint64) (*reading, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	s := &w.state
	switch {
	case w.closed:
		return nil, drivers.ErrClosed
	case lo <= s.mark.index:
		return nil, raft.ErrCompacted
	case lo > hi || hi > s.last()+1:
		return nil, raft.ErrUnavailable
	}
	metas := s.metas[lo-s.mark.index-1 : hi-s.mark.index-1]
	var size uint64
	for i, m := range metas {
		if size += uint64(m.size); size > maxSize && i > 0 {
			metas = metas[:i]
			break
		}
	}
	end, cachedFrom := lo+uint64(len(metas)), s.firstInMemory()
	if cachedFrom < end {
		from := max(lo, cachedFrom)
		r := &reading{first: lo, cached: append([]*raftpb.Entry(nil), s.bodies[from-cachedFrom:end-cachedFrom]...)}
		w.hold(r, metas[:from-lo])
		return r, nil
	}
	r := &reading{first: lo}
	w.hold(r, metas)
	return r, nil
}

// hold copies metas and holds their segments open.
func (w *WAL) hold(r *reading, metas []meta) {
	r.metas = append(r.metas, metas...)
	for i, m := range metas {
		if i == 0 || m.segment != metas[i-1].segment {
			s := w.segmentAt(m.segment)
			s.acquire()
			r.segments = append(r.segments, s)
		}
	}
}

func (r *reading) release() {
	for _, s := range r.segments {
		_ = s.release() // read only: nothing to lose
	}
}

func (r *reading) read() ([]*raftpb.Entry, error) {
	out := make([]*raftpb.Entry, 0, len(r.metas)+len(r.cached))
	segment := -1
	for i := 0; i < len(r.metas); {
		if i == 0 || r.metas[i].segment != r.metas[i-1].segment {
			segment++
		}
		n := run(r.metas[i:])
		var err error
		if out, err = readRun(out, r.segments[segment], r.metas[i:i+n], r.first+uint64(i)); err != nil {
			return nil, err
		}
		i += n
	}
	return append(out, r.cached...), nil
}

// run is how many of the first entries are close enough together to be read at once.
func run(metas []meta) int {
	n, size := 1, int64(metas[0].size)
	for ; n < len(metas) && metas[n].segment == metas[0].segment; n++ {
		size += int64(metas[n].size)
		span := metas[n].off + int64(metas[n].size) - metas[0].off
		if span > maxRun || span > 2*size+4096 {
			break
		}
	}
	return n
}

// readRun reads entries that lie together in a segment, and checks each.
func readRun(out []*raftpb.Entry, s *segment, metas []meta, index uint64) ([]*raftpb.Entry, error) {
	from, last := metas[0].off, metas[len(metas)-1]
	buf := make([]byte, last.off+int64(last.size)-from)
	if n, err := s.f.ReadAt(buf, from); n < len(buf) {
		return nil, fmt.Errorf("read the Raft log: %w", err)
	}
	for i, m := range metas {
		body := buf[m.off-from:][:m.size]
		e := new(raftpb.Entry)
		if crc32.Checksum(body, castagnoli) != m.crc || proto.Unmarshal(body, e) != nil || e.GetIndex() != index+uint64(i) {
			return nil, corrupt(s.path, m.off, fmt.Sprintf("entry %d is damaged", index+uint64(i)))
		}
		out = append(out, e)
	}
	return out, nil
}
