package sqllog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestStreamKeepsNobodyWaiting: a RangeStream whose client does not read does not
// hold up what a compaction frees, and is ended by it.
func TestStreamKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, memory.NewStore())
		for i := range 100 {
			s.must(put(fmt.Sprintf("k%02d", i), "old"))
		}
		chunks := 0
		err := s.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}, 100, func(*pb.RangeResponse) error {
			if chunks++; chunks > 1 {
				return nil
			}
			for i := range 100 {
				s.must(put(fmt.Sprintf("k%02d", i), "new"))
			}
			s.must(&pb.CompactionRequest{Revision: s.Index().Rev})
			begun := time.Now() // of the bubble's clock, which moves only when everybody waits
			removed, err := s.Prune(t.Context(), func(ctx context.Context) error { return ctx.Err() })
			if err != nil || removed < 100 {
				t.Errorf("pruning beside a stream that is not read removes %d entries, %v, want 100", removed, err)
			}
			if waited := time.Since(begun); waited > 0 {
				t.Errorf("pruning waits %s for a stream that is not read", waited)
			}
			return nil
		})
		if !errors.Is(err, mvcc.ErrCompacted) || chunks != 1 {
			t.Errorf("a stream that was compacted away ends with %v after %d chunks", err, chunks)
		}
		s.stop()
	})
}
