package sqllog

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/memory"
)

func TestSlowAppend(t *testing.T) { bothWays(t, testSlowAppend) }

func testSlowAppend(t *testing.T, start starter) {
	// In the bubble nothing takes time but what is held, whatever else this machine has to do.
	synctest.Test(t, func(t *testing.T) {
		s := start(t, memory.NewStore(), func(o *Options) { o.Timeout = 20 * time.Millisecond })
		hold, entered := make(chan struct{}), make(chan struct{})
		s.log.Inject(memory.OpAppend, memory.Fault{Entered: entered, Hold: hold})
		errs := make(chan error, 11)
		go func() { _, err := s.do(put("first", "1")); errs <- err }()
		<-entered
		for i := range 10 {
			go func() { _, err := s.do(put(fmt.Sprint("waiting", i), "1")); errs <- err }()
		}
		for range 11 {
			if err := <-errs; !errors.Is(err, ErrTimeout) {
				t.Errorf("%v", err)
			}
		}
		if _, got, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("first"), Serializable: true}); err != nil || len(got) != 0 {
			t.Errorf("reads meanwhile: %v, %v", got, err)
		}
		if err := s.Failure(); !errors.Is(err, ErrTimeout) {
			t.Errorf("for the health checks, meanwhile: %v", err)
		}
		if err := s.Probe(t.Context()); !errors.Is(err, ErrTimeout) {
			t.Errorf("a probe meanwhile: %v", err)
		}
		close(hold)
		// Those who come before the loop has gone on are told the same.
		for {
			if _, err := s.do(put("after", "1")); !errors.Is(err, ErrTimeout) {
				break
			}
		}
		if got := s.get("first") + s.get("waiting9") + s.get("after"); got != "111" {
			t.Errorf("after the slow append: %q", got)
		}
		if err := s.Probe(t.Context()); err != nil || s.Failure() != nil {
			t.Errorf("for the health checks, after it: %v, %v", err, s.Failure())
		}
		s.checkPublished()
		s.stop()
	})
}

// TestAppendAsLongAsTheTimeout: the timer and the end of the batch may come together, again and again.
func TestAppendAsLongAsTheTimeout(t *testing.T) {
	s := &Store{opts: Options{Timeout: time.Microsecond, Logger: slog.New(slog.DiscardHandler)}}
	s.stalled.Store(&stall{make(chan struct{})})
	for range 20_000 {
		before := s.stalled.Load()
		s.bounded(func() { time.Sleep(time.Microsecond) })
		select {
		case <-before.c:
		default:
			continue
		}
		select {
		case <-s.stalled.Load().c:
			t.Fatal("callers of the next batch are let go")
		default:
		}
	}
}
