package raft

import (
	"slices"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// TestHashes: members have the same hashes at the positions that they share, and one that took in another command has not.
func TestHashes(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	var end drivers.End
	for range 20 {
		end = c.put(10)
	}
	for id := uint64(1); id <= 3; id++ {
		c.same(1, id, end)
	}
	id, leader := c.leader(0)
	hashes := leader.Hashes(8)
	if n := len(hashes); n > 8 || n < 4 || hashes[n-1].Position != end.Position {
		t.Fatalf("hashes %v, the log ends at %d", hashes, end.Position)
	}
	positions := make([]int64, len(hashes))
	for i, h := range hashes {
		positions[i] = h.Position
	}
	other := c.log(id%3 + 1)
	if got := other.HashesAt(positions); !slices.Equal(got, hashes) {
		t.Errorf("a follower has %v, the leader %v", got, hashes)
	}
	if got := other.HashesAt([]int64{end.Position - 1, end.Position + 1, 0}); !slices.Equal(got, []Hash{{Position: end.Position - 1}}) {
		t.Errorf("where no command ends, and outside of the tail: %v", got)
	}

	alter(other)
	end = c.put(10)
	for id := uint64(1); id <= 3; id++ {
		c.same(1, id, end)
	}
	at := []int64{end.Position}
	if a, b := leader.HashesAt(at), other.HashesAt(at); len(a) != 1 || len(b) != 1 || a[0] == b[0] {
		t.Errorf("a member whose log is another one has %v, the leader %v", b, a)
	}
}

// alter makes a member's hash another one, as if it had taken in another command.
func alter(l *Log) {
	l.tail.mu.Lock()
	defer l.tail.mu.Unlock()
	l.tail.chain++
}

// TestHashesKept: the hash goes on from the file after a start.
func TestHashesKept(t *testing.T) {
	c := newCluster(t)
	c.found(3)
	var end drivers.End
	for range 5 {
		end = c.put(10)
	}
	c.same(1, 2, end)
	c.same(1, 3, end)
	at := []int64{end.Position}
	want := c.log(1).HashesAt(at)
	c.close(2)
	c.open(2)
	c.same(1, 2, end)
	if got := c.log(2).HashesAt(at); len(want) != 1 || !slices.Equal(got, want) {
		t.Errorf("after a start %v, before %v", got, want)
	}
}
