package raft

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3"
)

// TestNoMarker: a leader whose disk fails when a member needs a copy goes on without giving it one.
func TestNoMarker(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	_, l := c.leader(0)
	if err := l.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := l.node.Load()
	var err error
	derr := n.do(t.Context(), func() {
		n.confIndex = n.applied.Load()
		if err = n.wal.Close(); err == nil {
			_, err = storage{n.wal, n}.Snapshot()
		}
	})
	if derr != nil || !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Error(err, derr)
	}
}
