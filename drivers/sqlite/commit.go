package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
)

// pendingWrite is a transaction whose COMMIT failed in a way that says not enough.
type pendingWrite struct {
	// visible looks for its changes; nil if they change nothing that can be read. The first answer stands: this
	// process sees a transaction from its COMMIT on or not at all.
	visible func() (bool, error)
	known   bool
	in      bool
}

// commit commits the writer's transaction. If that fails it finds out what
// became of it, by visible; nil means that it is durable, errors other than
// ErrUncertain that it is not and never will be. DESIGN.md, "A COMMIT that
// failed", has the reasoning.
func (l *Log) commit(visible func() (bool, error)) error {
	err := l.writer.commit.run()
	if err == nil && !l.writer.conn.c.AutoCommit() {
		err = errors.New("the COMMIT has not ended the transaction")
	}
	if err == nil {
		return nil
	}
	l.writer.pending = &pendingWrite{visible: visible}
	l.unsettled.Store(true)
	in, serr := l.settleLocked()
	switch {
	case serr != nil:
		return fmt.Errorf("%w: %w", drivers.ErrUncertain, errors.Join(err, serr))
	case in:
		return nil
	}
	return err
}

// settle finds out what became of the COMMIT that failed.
func (l *Log) settle(ctx context.Context) error {
	if err := l.lockWriter(ctx); err != nil {
		return err
	}
	defer l.unlockWriter()
	if !l.unsettled.Load() {
		return nil
	}
	_, err := l.settleLocked()
	return err
}

// settleLocked reports whether the pending transaction is in the log, for good, and publishes
// how the log is now. If its changes are not to be seen, what it may have left in the
// write-ahead log is destroyed, so that no recovery can find them.
func (l *Log) settleLocked() (in bool, err error) {
	w, p := l.writer, l.writer.pending
	if err := l.abandon(); err != nil {
		return false, err
	}
	if !p.known && p.visible != nil {
		if p.in, err = p.visible(); err != nil {
			return false, err
		}
	}
	p.known = true
	if err := l.checkpointer.destroyTail(); err != nil {
		return false, err
	}
	if err := l.readState(w.conn); err != nil {
		return false, err
	}
	w.pending = nil
	l.unsettled.Store(false)
	l.wake.All()
	return p.in, nil
}
