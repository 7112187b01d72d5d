package raft

import (
	"errors"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// TestGrowFails: a server that could not grow is alone, and can try again.
func TestGrowFails(t *testing.T) {
	c := newCluster(t)
	l := c.open(1)
	id := Identity{Cluster: 7, Member: 1}
	b := newBatch(1, 10)
	err := l.Grow(t.Context(), id, func(Identity) (Network, error) { return nil, errSeen })
	if !errors.Is(err, errSeen) {
		t.Fatal(err)
	}
	if there, err := Clustered(c.options(1).Dir); there || err != nil {
		t.Fatalf("there is a Raft log: %v", err)
	}
	if err := l.Append(t.Context(), drivers.End{}, b); err != nil {
		t.Fatal(err)
	}
	net, stop := c.network(l)
	t.Cleanup(stop)
	if err := l.Grow(t.Context(), id, net); err != nil {
		t.Fatal(err)
	}
	c.put(10)
}

// TestLeaderWhileGrowing: who has asked a server that is alone hears that it is so no more, however close the two are.
func TestLeaderWhileGrowing(t *testing.T) {
	for range 5000 {
		l, grown := new(Log), make(chan struct{})
		go func() {
			defer close(grown)
			l.node.Store(new(node))
			l.grown.All()
		}()
		_, _, alone, changed := l.Leader()
		<-grown
		if !alone {
			continue
		}
		select {
		case <-changed:
		default:
			t.Fatal("it is not told")
		}
	}
}
