package ctl

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"syscall"
)

// output collects what a command writes, and tells when there is more.
type output struct {
	changed chan struct{} // has an element after a write that nobody saw yet

	mu  sync.Mutex
	buf []byte
}

func newOutput() *output { return &output{changed: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	o.buf = append(o.buf, p...)
	o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf)
}

// interrupt asks a command that stays to end. It may have ended by itself.
func interrupt(p *os.Process) error {
	if err := p.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
