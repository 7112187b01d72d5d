package wal

import (
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// meta says where an entry is.
type meta struct {
	term    uint64
	off     int64
	segment uint32
	size    uint32
	crc     uint32
}

func newMeta(e *raftpb.Entry, segment uint64, off int64, body []byte) meta {
	return meta{term: e.GetTerm(), off: off, segment: uint32(segment), size: uint32(len(body)), crc: crc32.Checksum(body, castagnoli)}
}

// state is the log as far as it is kept in memory.
type state struct {
	id   Identity
	hard *raftpb.HardState // never changed, only replaced; nil: none yet
	snap *raftpb.Snapshot  // the same
	mark mark

	metas []meta // of the entries from mark.index+1 on
	// bodies are the last entries of the log, those that are kept in memory.
	bodies    []*raftpb.Entry
	bodyBytes int64
	maxBytes  int64

	// gap: what was replayed last stands behind entries that are missing. It is to be overwritten by what follows.
	gap bool
}

func (s *state) last() uint64          { return s.mark.index + uint64(len(s.metas)) }
func (s *state) snapIndex() uint64     { return s.snap.GetMetadata().GetIndex() }
func (s *state) firstInMemory() uint64 { return s.last() + 1 - uint64(len(s.bodies)) }

// termOf is the term of an entry from mark.index to last.
func (s *state) termOf(index uint64) uint64 {
	if index == s.mark.index {
		return s.mark.term
	}
	return s.metas[index-s.mark.index-1].term
}

// put appends an entry in the place of those from its index on.
func (s *state) put(e *raftpb.Entry, m meta) {
	index := e.GetIndex()
	if index <= s.mark.index {
		// Only in replay: it was compacted later.
		s.cut(s.mark.index)
		s.gap = false
		return
	}
	if index > s.last()+1 {
		s.gap = true
		return
	}
	s.cut(index - 1)
	s.gap = false
	s.metas = append(s.metas, m)
	s.bodies = append(s.bodies, e)
	s.bodyBytes += int64(m.size)
	s.evict()
}

// cut takes away the entries after an index.
func (s *state) cut(index uint64) {
	for n := min(s.last()-index, uint64(len(s.metas))); n > 0; n-- {
		end := len(s.metas) - 1
		if last := len(s.bodies) - 1; last >= 0 {
			s.bodyBytes -= int64(s.metas[end].size)
			s.bodies[last] = nil
			s.bodies = s.bodies[:last]
		}
		s.metas = s.metas[:end]
	}
}

// evict lets go what is too much to be kept in memory, oldest first.
func (s *state) evict() {
	n := 0
	for ; s.bodyBytes > s.maxBytes && n < len(s.bodies); n++ {
		s.bodyBytes -= int64(s.metas[len(s.metas)-len(s.bodies)+n].size)
	}
	s.dropBodies(n)
}

func (s *state) dropBodies(n int) {
	clear(s.bodies[:n])
	s.bodies = s.bodies[n:]
}

// compact moves the mark to one that is not above last.
func (s *state) compact(m mark) {
	n := int(m.index - s.mark.index)
	for len(s.metas)-n < len(s.bodies) {
		s.bodyBytes -= int64(s.metas[len(s.metas)-len(s.bodies)].size)
		s.dropBodies(1)
	}
	s.metas = append([]meta(nil), s.metas[n:]...)
	s.mark = m
}

// reset makes an empty log that begins after a snapshot.
func (s *state) reset(hard *raftpb.HardState, snap *raftpb.Snapshot, m mark) {
	*s = state{id: s.id, hard: hard, snap: snap, mark: m, maxBytes: s.maxBytes}
}

// head is what a new segment begins with.
func (s *state) head() *batch {
	id, m := s.id, s.mark
	return &batch{id: &id, hard: s.hard, snap: s.snap, mark: &m}
}

// withCommit is a hard state that fits a snapshot: what is in a snapshot is committed (W9), and raft
// refuses to start from a hard state that says less.
func withCommit(hard *raftpb.HardState, snap *raftpb.Snapshot) *raftpb.HardState {
	index, term := snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	if index == 0 || hard.GetCommit() >= index && hard.GetTerm() >= term {
		return hard
	}
	out := &raftpb.HardState{Term: new(hard.GetTerm()), Vote: new(hard.GetVote()), Commit: new(max(hard.GetCommit(), index))}
	if term > hard.GetTerm() {
		out.Term, out.Vote = new(term), new(uint64(0))
	}
	return out
}

func sameHard(a, b *raftpb.HardState) bool {
	return (a == nil) == (b == nil) && a.GetTerm() == b.GetTerm() && a.GetVote() == b.GetVote() && a.GetCommit() == b.GetCommit()
}

func cloneHard(h *raftpb.HardState) *raftpb.HardState {
	if h == nil {
		return nil
	}
	return &raftpb.HardState{Term: new(h.GetTerm()), Vote: new(h.GetVote()), Commit: new(h.GetCommit())}
}

func cloneSnapshot(s *raftpb.Snapshot) *raftpb.Snapshot {
	if s == nil {
		return raftpb.EnsureSnapshot(nil)
	}
	return raftpb.EnsureSnapshot(proto.Clone(s).(*raftpb.Snapshot))
}
