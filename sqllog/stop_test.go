package sqllog

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

func TestStop(t *testing.T) { bothWays(t, testStop) }

func testStop(t *testing.T, start starter) {
	mem := memory.NewStore()
	s := start(t, mem)
	hold, entered := make(chan struct{}), make(chan struct{})
	s.log.Inject(memory.OpAppend, memory.Fault{Entered: entered, Hold: hold})
	first := make(chan error, 1)
	go func() { _, err := s.do(put("first", "x")); first <- err }()
	<-entered
	rest := make(chan error, 20)
	for i := range 20 {
		go func() { _, err := s.do(put(fmt.Sprint(i), "x")); rest <- err }()
	}
	stopped := make(chan struct{})
	go func() { s.stop(); close(stopped) }()
	close(hold)
	<-stopped
	if err := <-first; err != nil {
		t.Errorf("the batch in hand when stopping: %v", err)
	}
	acknowledged := 1
	for range 20 {
		switch err := <-rest; {
		case err == nil:
			acknowledged++
		case !errors.Is(err, ErrStopped):
			t.Error(err)
		}
	}
	if _, err := s.do(put("late", "x")); !errors.Is(err, ErrStopped) {
		t.Errorf("after the stop: %v", err)
	}
	again := start(t, mem)
	if got := int(again.Index().Keys()); got < acknowledged {
		t.Errorf("%d writes were acknowledged, %d are there", acknowledged, got)
	}
}

// TestStopInDoubt: a store that stops does not wait for what a log without a quorum would say about an append.
func TestStopInDoubt(t *testing.T) { bothWays(t, testStopInDoubt) }

func testStopInDoubt(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	s.must(put("k", "old"))
	asked := make(chan struct{})
	s.log.Inject(memory.OpAppend, memory.Fault{Err: drivers.ErrUncertain, Before: func() {
		s.log.Inject(memory.OpReadIndex, memory.Fault{Entered: asked, Hold: make(chan struct{})})
	}})
	wrote := make(chan error, 1)
	go func() { _, err := s.do(put("k", "new")); wrote <- err }()
	<-asked
	s.stop()
	if err := <-wrote; !errors.Is(err, drivers.ErrUncertain) && !errors.Is(err, ErrStopped) {
		t.Errorf("a write of which it is not known whether it was done: %v", err)
	}
}

// TestStopIsNoFailure: what waits for the loop when the store stops does not make the log look broken.
func TestStopIsNoFailure(t *testing.T) { bothWays(t, testStopIsNoFailure) }

func testStopIsNoFailure(t *testing.T, start starter) {
	for range 20 {
		s := start(t, memory.NewStore())
		hold, entered := make(chan struct{}), make(chan struct{})
		s.log.Inject(memory.OpAppend, memory.Fault{Entered: entered, Hold: hold})
		wrote := make(chan error, 1)
		go func() { _, err := s.do(put("k", "1")); wrote <- err }()
		<-entered
		edited := make(chan error, 4)
		for range cap(edited) {
			go func() { edited <- s.edit(t.Context(), edit{fn: func(*mvcc.Builder) {}}) }()
		}
		stopped := make(chan struct{})
		go func() { defer close(stopped); s.stop() }()
		runtime.Gosched()
		close(hold)
		<-stopped
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		for range cap(edited) {
			if err := <-edited; err != nil && !errors.Is(err, ErrStopped) {
				t.Errorf("an edit: %v", err)
			}
		}
		if err := s.Failure(); err != nil {
			t.Fatalf("the failure is %v", err)
		}
	}
}
