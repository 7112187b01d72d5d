package watch

import (
	"testing"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestResponses: what is due is divided into responses of some size, between revisions alone.
func TestResponses(t *testing.T) {
	events := func(sizes ...int) (all []*Event) {
		for i, size := range sizes {
			e := &Event{Event: new(mvcc.Event)}
			e.Value = make([]byte, size)
			e.Main = int64(i/2 + 2) // two of each revision
			all = append(all, e)
		}
		return all
	}
	const big = responseBytes + 1
	for _, c := range []struct {
		due  []*Event
		want int
	}{
		{events(1), 1},
		{events(1, 1, 1, 1), 4},
		{events(big, 1, 1, 1), 2},
		{events(1, big, 1, 1), 2},
		{events(1, 1, big, big), 4},
		{events(big, big), 2},
	} {
		if got := responseEvents(c.due); got != c.want {
			t.Errorf("of %d events the first response has %d, want %d", len(c.due), got, c.want)
		}
	}
}
