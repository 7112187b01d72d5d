package peer

import (
	"context"
	"errors"
	"testing"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// TestGiveUp: who waits for an answer that is given up hears of it at once, and the connection serves the next call.
func TestGiveUp(t *testing.T) {
	asked, release := make(chan string, 2), make(chan struct{})
	m := start(t, memberOptions{answering: func(c *peerpb.Call) {
		asked <- c.GetMethod()
		if c.GetMethod() == "slow" {
			<-release
		}
	}})
	defer close(release)
	n, _ := network(t, nil, m.url)
	reach(t, n, m, 1)
	lost := make(chan error, 1)
	go func() {
		_, err := n.Forward(context.Background(), other, "slow", nil)
		lost <- err
	}()
	await(t, asked, "the call")
	n.GiveUp(other)
	if err := await(t, lost, "the end of the call"); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	n.GiveUp(self) // there is no connection to it
	if a, err := n.Forward(t.Context(), other, "fast", nil); err != nil || string(a.GetResponse()) != "fast:" {
		t.Errorf("the next call: %v, %v", a, err)
	}
}
