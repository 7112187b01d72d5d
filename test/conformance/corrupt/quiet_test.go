package corrupt

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// TestQuiet: members that are written to, compacted and killed all the time are compared all the time, and nothing is found.
func TestQuiet(t *testing.T) {
	c := newCluster(t, "--corrupt-check-time=100ms", "--feature-gates=CompactHashCheck=true,InitialCorruptCheck=true", "--compact-hash-check-time=100ms")
	for round := range *rounds {
		m := c.members[round%len(c.members)]
		var load sync.WaitGroup
		for i, o := range c.but(m) {
			load.Go(func() { c.load(o, fmt.Sprintf("%d-%d", round, i)) })
		}
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := m.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		load.Wait()
	}
	compared := 0
	for _, m := range c.members {
		c.put(m, "end", fmt.Sprint(m.id), c.members...)
		c.alarmed(m)
		log, err := os.ReadFile(m.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "compared the members' databases") && strings.Contains(line, `"members":3`) {
				compared++
			}
			if strings.Contains(line, "CORRUPT") {
				t.Error(line)
			}
		}
	}
	t.Logf("all three databases were compared %d times", compared)
	if compared == 0 {
		t.Error("they were not compared")
	}
}

// load puts, deletes and compacts by a member. What fails while there is no leader is passed over.
func (c *cluster) load(m *member, name string) {
	ctx, cancel := context.WithTimeout(c.t.Context(), soon)
	defer cancel()
	for i := range 300 {
		key := fmt.Appendf(nil, "%s/%d", name, i%20)
		put, err := m.Put(ctx, &pb.PutRequest{Key: key, Value: fmt.Append(nil, i)}, grpc.WaitForReady(true))
		if err != nil {
			continue
		}
		if i%7 == 0 {
			_, _ = m.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
		}
		if i%25 == 0 {
			_, _ = m.Compact(ctx, &pb.CompactionRequest{Revision: put.Header.Revision - 5, Physical: i%50 == 0})
		}
	}
}
