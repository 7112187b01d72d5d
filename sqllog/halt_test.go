package sqllog

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
)

var _ drivers.Replica = (*halting)(nil)

// halting is a replica that stands still when it is told to.
type halting struct {
	drivers.Followed
	halted atomic.Pointer[chan struct{}]
}

func (h *halting) Known() drivers.Bounds {
	b, _ := h.ReadIndex(context.Background())
	return b
}

func (h *halting) Halted() <-chan struct{} { return *h.halted.Load() }

func (h *halting) goOn() { h.halted.Store(new(make(chan struct{}))) }

// TestHalted: of a server that stands still, who waits hears at once that it is not known what becomes of a request, or that nothing does if it is not under way. When the
// server goes on it has done what it had taken.
func TestHalted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h *halting
		s := start(t, memory.NewStore(), func(o *Options) {
			h = &halting{Followed: o.Log.(drivers.Followed)}
			h.goOn()
			o.Log, o.MaxWaiting = h, 1
		})
		hold, entered := make(chan struct{}), make(chan struct{})
		s.log.Inject(memory.OpAppend, memory.Fault{Entered: entered, Hold: hold})
		ask := func(key string) <-chan error {
			answer := make(chan error, 1)
			go func() { _, err := s.do(put(key, "1")); answer <- err }()
			synctest.Wait()
			return answer
		}
		taken := ask("taken")
		<-entered
		waits := ask("waits")
		refused := ask("refused") // there is no room for it
		arrives := make(chan error, 1)
		go func() { arrives <- s.Await(t.Context(), 100) }()
		synctest.Wait()
		close(*h.halted.Load())
		for name, test := range map[string]struct {
			answer <-chan error
			want   error
		}{
			"in hand": {taken, ErrHalted}, "taken": {waits, ErrHalted}, "not taken": {refused, drivers.ErrNotLeader}, "new": {ask("new"), drivers.ErrNotLeader},
			"waits for the index": {arrives, ErrHalted},
		} {
			if err := <-test.answer; !errors.Is(err, test.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Failure(); err != nil {
			t.Errorf("for the health checks it is a failure of the storage: %v", err)
		}
		h.goOn()
		close(hold)
		s.must(put("after", "1"))
		for key, want := range map[string]string{"taken": "1", "waits": "1", "refused": "", "new": ""} {
			if got := s.get(key); got != want {
				t.Errorf("%s is %q", key, got)
			}
		}
		s.checkPublished()
		s.stop()
	})
}
