package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// model is what a log must be: slices in memory, never changed but replaced.
type model struct {
	id                  Identity
	term, vote, commit  uint64
	snap, snapTerm      uint64
	snapData            string
	compacted, compTerm uint64
	entries             []modelEntry // after compacted
}

type modelEntry struct {
	term uint64
	data string
}

func (m model) last() uint64 { return m.compacted + uint64(len(m.entries)) }

func (m model) termOf(i uint64) uint64 {
	if i == m.compacted {
		return m.compTerm
	}
	return m.entries[i-m.compacted-1].term
}

func (m model) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "id %d/%d hard %d %d %d snap %d %d %q compacted %d %d:", m.id.Cluster, m.id.Member, m.term, m.vote, m.commit, m.snap, m.snapTerm, m.snapData, m.compacted, m.compTerm)
	for _, e := range m.entries {
		fmt.Fprintf(&b, " %d:%d:%.8s", e.term, len(e.data), e.data)
	}
	return b.String()
}

// observe reads a log into a model, by raft.Storage only.
func observe(w *WAL) (model, error) {
	m := model{id: w.Identity()}
	hard, conf, err := w.InitialState()
	if err != nil {
		return m, err
	}
	m.term, m.vote, m.commit = hard.GetTerm(), hard.GetVote(), hard.GetCommit()
	snap, err := w.Snapshot()
	if err != nil {
		return m, err
	}
	m.snap, m.snapTerm, m.snapData = snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm(), string(snap.GetData())
	if m.snap > 0 && (len(conf.GetVoters()) != 1 || conf.GetVoters()[0] != m.snap) {
		return m, fmt.Errorf("conf state %v of snapshot %d", conf, m.snap)
	}
	first, _ := w.FirstIndex()
	last, _ := w.LastIndex()
	m.compacted = first - 1
	if m.compTerm, err = w.Term(first - 1); err != nil {
		return m, err
	}
	entries, err := w.Entries(first, last+1, 1<<62)
	if err != nil {
		return m, err
	}
	if uint64(len(entries)) != last+1-first {
		return m, fmt.Errorf("%d entries from %d to %d", len(entries), first, last)
	}
	for i, e := range entries {
		term, err := w.Term(first + uint64(i))
		if err != nil || term != e.GetTerm() || e.GetIndex() != first+uint64(i) {
			return m, fmt.Errorf("entry %d: index %d term %d, Term says %d, %v", first+uint64(i), e.GetIndex(), e.GetTerm(), term, err)
		}
		m.entries = append(m.entries, modelEntry{e.GetTerm(), string(e.GetData())})
	}
	return m, nil
}

// action is something to do to a log.
type action struct {
	name  string
	after model // how the log is then
	sync  bool  // it is durable when it returns
	do    func(w *WAL) error
}

func snapshotOf(index, term uint64, data string) *raftpb.Snapshot {
	if index == 0 {
		return nil
	}
	conf := &raftpb.ConfState{Voters: []uint64{index}}
	return &raftpb.Snapshot{Data: []byte(data), Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(term), ConfState: conf}}
}

func hardOf(m model) *raftpb.HardState {
	return &raftpb.HardState{Term: new(m.term), Vote: new(m.vote), Commit: new(m.commit)}
}

// actor makes random actions that raft could take.
type actor struct {
	r       *rand.Rand
	maxData int
	n       int
}

func (a *actor) data() string {
	a.n++
	n := a.r.IntN(60)
	if a.r.IntN(6) == 0 {
		n = a.r.IntN(a.maxData)
	}
	return fmt.Sprintf("%06d", a.n) + strings.Repeat("x", n)
}

func (a *actor) next(m model) action {
	switch p := a.r.IntN(100); {
	case p < 70:
		return a.save(m)
	case p < 82 && m.snap < m.last():
		return a.snapshot(m)
	case p < 95 && m.compacted < m.snap:
		return a.compact(m)
	case p >= 97:
		return a.install(m)
	}
	return a.save(m)
}

func (a *actor) save(m model) action {
	var hard *raftpb.HardState
	var entries []*raftpb.Entry
	what := a.r.IntN(10)
	if what < 2 {
		m.term, m.vote = m.term+1, uint64(a.r.IntN(3))
	}
	if what >= 1 && what < 9 {
		from := m.last() + 1
		if a.r.IntN(4) == 0 {
			from = max(m.snap, m.commit) + 1 + uint64(a.r.IntN(int(m.last()-max(m.snap, m.commit))+1))
		}
		m.entries = append([]modelEntry(nil), m.entries[:from-m.compacted-1]...)
		term := max(m.term, 1)
		for range 1 + a.r.IntN(4) {
			e := modelEntry{term, a.data()}
			entries = append(entries, &raftpb.Entry{Term: new(term), Index: new(m.last() + 1), Data: []byte(e.data)})
			m.entries = append(m.entries, e)
		}
		m.term = term
	}
	if a.r.IntN(2) == 0 {
		m.commit += uint64(a.r.IntN(int(m.last()-m.commit) + 1))
	}
	hard = hardOf(m)
	sync := a.r.IntN(3) > 0
	return action{fmt.Sprintf("save %d entries, sync %v", len(entries), sync), m, sync, func(w *WAL) error { return w.Save(hard, entries, sync) }}
}

func (a *actor) snapshot(m model) action {
	m.snap += 1 + uint64(a.r.IntN(int(m.last()-m.snap)))
	m.snapTerm, m.snapData = m.termOf(m.snap), a.data()
	m.commit = max(m.commit, m.snap)
	snap := snapshotOf(m.snap, m.snapTerm, m.snapData)
	return action{"snapshot", m, true, func(w *WAL) error { return w.SetSnapshot(snap) }}
}

func (a *actor) compact(m model) action {
	to := m.compacted + 1 + uint64(a.r.IntN(int(m.snap-m.compacted)))
	m.compTerm = m.termOf(to)
	m.entries = m.entries[to-m.compacted:]
	m.compacted = to
	return action{"compact", m, false, func(w *WAL) error { return w.Compact(to) }}
}

func (a *actor) install(m model) action {
	m.snap = m.last() + 1 + uint64(a.r.IntN(5))
	m.term++
	m.vote = 0
	m.snapTerm, m.snapData, m.commit = m.term, a.data(), m.snap
	m.compacted, m.compTerm, m.entries = m.snap, m.snapTerm, nil
	hard, snap := hardOf(m), snapshotOf(m.snap, m.snapTerm, m.snapData)
	return action{"install", m, true, func(w *WAL) error { return w.Install(hard, snap) }}
}

// created is how a log is that was made with this snapshot.
func created(id Identity, index, term uint64, data string) model {
	m := model{id: id, snap: index, compacted: index, commit: index}
	if index > 0 {
		m.term, m.snapTerm, m.compTerm, m.snapData = term, term, term, data
	}
	return m
}

// checkContract holds Entries against raft's own storage, for random arguments.
func checkContract(r *rand.Rand, w *WAL, m model) error {
	lo := m.compacted + uint64(r.IntN(len(m.entries)+2))
	hi := lo + uint64(r.IntN(int(m.last()+2-min(lo, m.last()+2))+1))
	maxSize := uint64(r.IntN(500))
	got, err := w.Entries(lo, hi, maxSize)
	switch {
	case lo <= m.compacted:
		if !errors.Is(err, raft.ErrCompacted) {
			return fmt.Errorf("entries %d to %d of %d: %v", lo, hi, m.compacted, err)
		}
		return nil
	case hi > m.last()+1:
		if !errors.Is(err, raft.ErrUnavailable) {
			return fmt.Errorf("entries %d to %d, last %d: %v", lo, hi, m.last(), err)
		}
		return nil
	case err != nil || lo == hi:
		return err
	}
	ms := raft.NewMemoryStorage()
	must(ms.ApplySnapshot(snapshotOf(max(m.compacted, 1), m.compTerm, "")))
	shift := max(m.compacted, 1) - m.compacted
	var all []*raftpb.Entry
	for i, e := range m.entries {
		all = append(all, &raftpb.Entry{Term: new(e.term), Index: new(m.compacted + uint64(i) + 1 + shift), Data: []byte(e.data)})
	}
	must(ms.Append(all))
	want, err := ms.Entries(lo+shift, hi+shift, maxSize)
	if err != nil || len(want) != len(got) {
		return fmt.Errorf("entries %d to %d of at most %d bytes: %d, raft's storage gives %d, %v", lo, hi, maxSize, len(got), len(want), err)
	}
	for i, e := range got {
		if string(e.GetData()) != string(want[i].GetData()) || e.GetIndex() != lo+uint64(i) || e.GetTerm() != want[i].GetTerm() {
			return fmt.Errorf("entry %d is not the one that was saved", lo+uint64(i))
		}
	}
	return nil
}
