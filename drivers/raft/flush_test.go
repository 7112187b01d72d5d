package raft

import (
	"errors"
	"testing"

	"github.com/keelson-io/keelson/drivers"
)

// TestNoFile: while a copy is not in place, what is to go to the file waits.
func TestNoFile(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	_, l := c.leader(0)
	l.fileMu.Lock()
	file := l.file
	l.file = nil
	l.fileMu.Unlock()
	b := newBatch(1, 10)
	if err := l.Append(t.Context(), drivers.End{}, b); err != nil {
		t.Error(err)
	}
	if err := l.flush(t.Context()); !errors.Is(err, drivers.ErrClosed) {
		t.Error(err)
	}
	l.fileMu.Lock()
	l.file = file
	l.fileMu.Unlock()
	if err := l.flush(t.Context()); err != nil || l.tail.pending() > 0 {
		t.Errorf("%v, %d bytes wait", err, l.tail.pending())
	}
}

// TestFlushAfterDoubt: a transaction has landed of which that could not be found out. What came meanwhile goes to the file all the same.
func TestFlushAfterDoubt(t *testing.T) {
	c := newCluster(t)
	c.found(1)
	_, l := c.leader(0)
	l.flushing.Lock()
	c.put(10)
	first, _ := l.tail.unflushed(flushBytes)
	err := l.file.AppendAll(t.Context(), first[0].after, marked(first))
	end := c.put(10)
	l.flushing.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.flush(t.Context()); err != nil {
		t.Error(err)
	}
	if got, _ := l.fileEnd(); got != end {
		t.Errorf("the file ends at %v, want %v", got, end)
	}
}
