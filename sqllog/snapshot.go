package sqllog

import (
	"context"
	"errors"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// snapshotAttempts is how often a snapshot begins anew when a compaction, or another file of the log, came in between.
const snapshotAttempts = 5

// Snapshot gives everything that this server has, as of one moment after the call came, as an etcd has it in its database file: the rows of the
// key bucket to the function that begin gives, in the order of their revisions, each valid during the call, and in the end all that is no key. Reads and writes
// go on; what was compacted is scrubbed later. Memory is bounded. If the state is lost to a compaction on the way, begin is called once
// more, and what came before counts for nothing. Like etcd's it needs no leader and no majority.
func (s *Store) Snapshot(ctx context.Context, begin func() (func(*mvcc.Row) error, error)) (*mvcc.Index, error) {
	if err := s.refused(); err != nil {
		return nil, err
	}
	if s.followed == nil {
		// What scrubs a log that has no Load of its own is this server.
		select {
		case s.pruning <- struct{}{}:
			defer func() { <-s.pruning }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for range snapshotAttempts {
		row, err := begin()
		if err != nil {
			return nil, err
		}
		state, err := s.dump(ctx, row)
		if !errors.Is(err, errLostState) {
			return state, err
		}
	}
	return nil, fmt.Errorf("%w: snapshot: %w", ErrStorage, errLostState)
}

// errLostState says that a snapshot must begin anew.
var errLostState = errors.New("the log was compacted, or replaced, while it was read")

func (s *Store) dump(ctx context.Context, row func(*mvcc.Row) error) (*mvcc.Index, error) {
	var d *mvcc.Dump
	var ended error
	begin := func() error {
		// The entries are those of a moment before this one, so an index of now has taken in all of them.
		if d == nil {
			if ended = s.current(ctx); ended == nil {
				d = mvcc.NewDump(s.index.Load())
			}
		}
		return ended
	}
	_, err := s.scanAll(ctx, true, func(entries []drivers.Entry) error {
		if err := begin(); err != nil {
			return err
		}
		for i := range entries {
			if err := d.Add(&entries[i], func(r *mvcc.Row) error { ended = row(r); return ended }); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case ended != nil:
		return nil, ended
	case errors.Is(err, drivers.ErrEpoch):
		return nil, fmt.Errorf("%w: %w", errLostState, err)
	case err != nil:
		return nil, fmt.Errorf("%w: snapshot: %w", ErrStorage, err)
	}
	if err := begin(); err != nil { // of an empty log
		return nil, err
	}
	state, ok := d.State()
	if !ok {
		return nil, errLostState
	}
	return state, nil
}
