package server

import (
	"slices"
	"sync"
	"testing"

	"github.com/keelson-io/keelson/server/config"
)

// TestReadyIsListed: a member that is ready is in the list of members with its client URLs, as in etcd.
func TestReadyIsListed(t *testing.T) {
	m := newMembers(t, 3)
	var ready sync.WaitGroup
	for i := range m.names {
		n, err := m.open(t, i, config.ClusterStateNew)
		if err != nil {
			t.Fatal(err)
		}
		run(t, n)
		ready.Go(func() {
			for n.LinearizableRead(t.Context()) != nil {
				if t.Context().Err() != nil {
					return
				}
			}
			id, _ := n.clustered()
			if self := n.store.Index().MemberByID(id.Member); self == nil || !slices.Equal(self.ClientURLs, []string{m.clients[i]}) {
				t.Errorf("%s is ready, and is listed as %v", m.names[i], self)
			}
		})
	}
	ready.Wait()
}
