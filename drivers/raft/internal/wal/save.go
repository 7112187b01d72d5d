package wal

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Save appends entries, which take the place of those from the first one's index on, and the hard state; nil, or an empty one, leaves it as it is. With sync it returns
// when that, and all that was saved before, is on disk. Entries are kept and must not be changed afterwards.
//
// Errors: ErrNoSpace, ErrReadOnly, ErrClosed, an error of the file system: nothing was saved. ErrUncertain: it is not known whether it was;
// ErrBroken from then on.
func (w *WAL) Save(hs *raftpb.HardState, entries []*raftpb.Entry, sync bool) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	b := batch{entries: entries}
	if !raft.IsEmptyHardState(hs) {
		if hard := withCommit(cloneHard(hs), w.state.snap); !sameHard(hard, w.state.hard) {
			b.hard = hard
		}
	}
	if err := w.checkSave(&b); err != nil {
		return err
	}
	if b.hard == nil && len(entries) == 0 && (!sync || w.unproven == 0) {
		return nil
	}
	metas, err := w.write(&b, sync, w.o.SegmentBytes)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.hard != nil {
		w.state.hard = b.hard
	}
	for i, e := range entries {
		w.state.put(e, metas[i])
	}
	return nil
}

// checkSave refuses what would make a log that raft cannot start from (W9).
func (w *WAL) checkSave(b *batch) error {
	s := &w.state
	last := s.last()
	if n := len(b.entries); n > 0 {
		first := b.entries[0].GetIndex()
		if first <= s.snapIndex() || first > last+1 {
			return fmt.Errorf("entry %d cannot be saved: the Raft log has %d to %d and its snapshot is at %d", first, s.mark.index+1, last, s.snapIndex())
		}
		term := s.termOf(first - 1)
		for i, e := range b.entries {
			if e.GetIndex() != first+uint64(i) || e.GetTerm() < term {
				return fmt.Errorf("entry %d of term %d cannot be saved after one of term %d as number %d from entry %d on", e.GetIndex(), e.GetTerm(), term, i, first)
			}
			term = e.GetTerm()
		}
		last = first + uint64(n) - 1
	}
	hard := s.hard
	if b.hard != nil {
		hard = b.hard
		if err := s.follows(hard); err != nil {
			return err
		}
	}
	if hard.GetCommit() > last {
		return fmt.Errorf("commit index %d cannot be saved: the Raft log ends at %d", hard.GetCommit(), last)
	}
	return nil
}

// follows refuses a hard state that takes back a term or a vote.
func (s *state) follows(hard *raftpb.HardState) error {
	term, vote := s.hard.GetTerm(), s.hard.GetVote()
	if hard.GetTerm() < term || hard.GetTerm() == term && vote != 0 && hard.GetVote() != vote {
		return fmt.Errorf("a hard state of term %d with vote %x cannot be saved after one of term %d with vote %x", hard.GetTerm(), hard.GetVote(), term, vote)
	}
	return nil
}

// SetSnapshot records, durably, that the state machine has everything up to the snapshot's index on its own disk.
// The log keeps its entries. What is in a snapshot is committed: the hard state says so from then on.
//
// Errors: as Save's; raft.ErrSnapOutOfDate if the index is not above the old snapshot's, raft.ErrUnavailable if it is above LastIndex.
func (w *WAL) SetSnapshot(snap *raftpb.Snapshot) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	s, index, term := &w.state, snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	switch {
	case index <= s.snapIndex():
		return fmt.Errorf("snapshot %d after %d: %w", index, s.snapIndex(), raft.ErrSnapOutOfDate)
	case index > s.last():
		return fmt.Errorf("snapshot %d, the Raft log ends at %d: %w", index, s.last(), raft.ErrUnavailable)
	case term != s.termOf(index):
		return fmt.Errorf("snapshot %d has term %d, the Raft log has %d", index, term, s.termOf(index))
	}
	b := batch{snap: cloneSnapshot(snap)}
	if hard := withCommit(s.hard, b.snap); hard != s.hard {
		b.hard = hard
	}
	if _, err := w.write(&b, true, w.o.withReserve()); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.snap = b.snap
	if b.hard != nil {
		s.hard = b.hard
	}
	return nil
}

// Compact lets the entries up to and including index go; whole segments that nothing needs are deleted. FirstIndex becomes
// index+1, and Term(index) is still known. If no segment can go, a crash may undo it.
//
// Errors: as Save's; raft.ErrCompacted if that was done already, raft.ErrUnavailable if index is above the snapshot's.
func (w *WAL) Compact(index uint64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	s := &w.state
	switch {
	case index <= s.mark.index:
		return fmt.Errorf("compact the Raft log to %d: %w", index, raft.ErrCompacted)
	case index > s.snapIndex():
		return fmt.Errorf("compact the Raft log to %d, its snapshot is at %d: %w", index, s.snapIndex(), raft.ErrUnavailable)
	}
	// Entries are in segments in the order of their indexes: one that was written anew took those behind it along.
	m := mark{index: index, term: s.termOf(index), segment: w.current.number}
	if index < s.last() {
		m.segment = uint64(s.metas[index-s.mark.index].segment)
	}
	frees := m.segment > s.mark.segment
	if _, err := w.write(&batch{mark: &m}, frees, w.o.withReserve()); err != nil {
		return err
	}
	w.mu.Lock()
	s.compact(m)
	w.mu.Unlock()
	if frees {
		w.dropBefore(m.segment)
	}
	return nil
}

// Install replaces everything by a snapshot that came from another member: afterwards there are no entries and FirstIndex is the
// snapshot's index+1. hs is the hard state from then on; nil, or an empty one, leaves it as it is, but for the commit index. After a crash either all or nothing of it was done.
//
// Errors: as Save's; raft.ErrSnapOutOfDate if the index is below what is compacted, or below the snapshot's.
func (w *WAL) Install(hs *raftpb.HardState, snap *raftpb.Snapshot) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	s, index := &w.state, snap.GetMetadata().GetIndex()
	if index == 0 || index < s.snapIndex() {
		return fmt.Errorf("install snapshot %d after %d: %w", index, s.snapIndex(), raft.ErrSnapOutOfDate)
	}
	if raft.IsEmptyHardState(hs) {
		hs = s.hard
	}
	snap = cloneSnapshot(snap)
	hard := withCommit(cloneHard(hs), snap)
	if hard.GetCommit() > index {
		return fmt.Errorf("install snapshot %d: commit index %d is above it", index, hard.GetCommit())
	}
	if err := s.follows(hard); err != nil {
		return err
	}
	next := w.current.number + 1
	m := mark{index: index, term: snap.GetMetadata().GetTerm(), segment: next}
	im, err := newImage(next, w.seq, &batch{id: &s.id, hard: hard, snap: snap, mark: &m}, nil)
	if err != nil {
		return err
	}
	// What is pending in the old segment needs no sync: once the new one is there, the old ones are not read.
	if err := w.rotate(im); err != nil {
		return err
	}
	w.mu.Lock()
	s.reset(hard, snap, m)
	w.mu.Unlock()
	w.dropBefore(next)
	return nil
}

var _ raft.Storage = (*WAL)(nil)
