package raft

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers/raft/internal/wal"
)

// storage is what Raft reads of its log. It is used by the loop alone.
type storage struct {
	*wal.WAL
	node *node
}

// Snapshot gives the marker, one that has the newest configuration: a member that has just been added refuses one that it is not in. Raft
// asks for it again later if there is none now, also because of the disk; it would end the process for any other error.
func (s storage) Snapshot() (*raftpb.Snapshot, error) {
	snap, err := s.WAL.Snapshot()
	if err != nil || snap.GetMetadata().GetIndex() >= s.node.confIndex {
		return snap, err
	}
	switch index, err := s.node.mark(); {
	case err != nil:
		s.node.logger.Error("a member waits for a copy of the database, and where it is to begin cannot be recorded, trying again", "error", err)
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	case index == 0:
		s.node.log.hasten()
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s.WAL.Snapshot()
}
