package sqlite

import (
	"context"
	"errors"
	"fmt"
)

// Scrub implements drivers.Log. The rows go, and the mark moves, in one transaction.
func (l *Log) Scrub(ctx context.Context, positions []int64) error {
	if len(positions) == 0 {
		return l.usable(ctx)
	}
	if err := ascending(positions); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	if err := l.lockWriter(ctx); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	defer l.unlockWriter()
	if err := l.writable(); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	highest := positions[len(positions)-1]
	if end := l.state.Load().Position; highest >= end {
		return fmt.Errorf("scrub: position %d is not below the log's last, %d", highest, end)
	}
	if err := l.writer.delete(positions); err != nil {
		return fmt.Errorf("scrub: %w", classify(errors.Join(err, l.abandon())))
	}
	before := l.state.Load()
	now := *before
	now.scrubbed = max(now.scrubbed, highest)
	// Before the COMMIT, or a reader could see holes above the mark that ReadIndex gives.
	l.state.Store(&now)
	if err := l.commitScrub(); err != nil {
		if !l.unsettled.Load() {
			l.state.Store(before)
		}
		return fmt.Errorf("scrub: %w", classify(err))
	}
	l.wake.All()
	l.checkpointer.grew()
	l.checkpointer.freed()
	return nil
}

// commitScrub commits a transaction that has changed the head row.
func (l *Log) commitScrub() error {
	before := l.writer.changes
	err := l.commit(func() (bool, error) {
		now, err := l.writer.conn.getInt("SELECT changes FROM head WHERE id = 1")
		return now > before, err
	})
	if err == nil {
		l.writer.changes = max(l.writer.changes, before+1)
	}
	return err
}

func ascending(positions []int64) error {
	for i, p := range positions {
		if p < 1 || i > 0 && p <= positions[i-1] {
			return fmt.Errorf("position %d does not ascend from 1", p)
		}
	}
	return nil
}

// delete begins a transaction, deletes the rows run by run and moves the mark.
func (w *writer) delete(positions []int64) error {
	if err := w.beginClean(); err != nil {
		return err
	}
	for i := 0; i < len(positions); {
		n := 1
		for i+n < len(positions) && positions[i+n] == positions[i]+int64(n) {
			n++
		}
		var err error
		if n == 1 {
			err = w.deleteOne.run(positions[i])
		} else {
			err = w.deleteRange.run(positions[i], positions[i+n-1])
		}
		if err != nil {
			return err
		}
		i += n
	}
	return w.mark.run(positions[len(positions)-1])
}
