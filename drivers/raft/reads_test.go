package raft

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// TestReadOfAHungMember: a read is refused after its time, also if the member's loop is not there even to be asked.
func TestReadOfAHungMember(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	c.put(10)
	_, l := c.leader(0)
	n := l.node.Load()
	hung := make(chan struct{})
	hang := func() { <-hung }
	defer close(hung)
	n.work <- hang
	for full := false; !full; {
		select {
		case n.work <- hang:
		default:
			full = len(n.work) == cap(n.work)
		}
	}
	l.opts.Timeout = time.Millisecond
	if _, err := l.ReadIndex(context.Background()); !errors.Is(err, drivers.ErrNoQuorum) {
		t.Error(err)
	}
}
