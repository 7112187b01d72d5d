package wal

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// TestRaft runs a Raft node of one voter on the log, and starts it again and again: raft accepts what it finds.
func TestRaft(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	o := Options{Dir: filepath.Join(t.TempDir(), "log"), SegmentBytes: 2048, CacheBytes: 300}
	conf := &raftpb.ConfState{Voters: []uint64{1}}
	first := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: conf}}
	must(Create(o, Identity{1, 1, 0}, first))
	applied := uint64(1)
	for range 25 {
		w, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		node, err := raft.NewRawNode(&raft.Config{ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: w, Applied: applied, MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 16})
		if err != nil {
			t.Fatal(err)
		}
		must(node.Campaign())
		for n := 0; n < 30 || node.HasReady(); n++ {
			if n < 30 {
				_ = node.Propose(make([]byte, r.IntN(200))) // none leads at first
			}
			if !node.HasReady() {
				continue
			}
			rd := node.Ready()
			must(w.Save(rd.HardState, rd.Entries, rd.MustSync))
			for _, e := range rd.CommittedEntries {
				if e.GetIndex() != applied+1 {
					t.Fatalf("entry %d after %d", e.GetIndex(), applied)
				}
				applied = e.GetIndex()
			}
			node.Advance(rd)
			if n%7 == 6 {
				term, err := w.Term(applied)
				must(err)
				must(w.SetSnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(applied), Term: new(term), ConfState: conf}}))
				must(w.Compact(applied - uint64(r.IntN(3))))
			}
		}
		must(w.Close())
	}
	if applied < 500 {
		t.Errorf("just %d entries", applied)
	}
}
