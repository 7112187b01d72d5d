package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keelson-io/keelson/drivers"
)

// scrubSQL moves the mark to $2 and removes the rows at $1, unless the fence is another one than $3, the log does not go on
// after $2, it has another history than the one in which batch $5 closed at position $4 (what stands at $1 may live there), or the
// timeline is another one than $6. All by the primary key. It gives whether it did, and the fence, the end and the timeline as found.
const scrubSQL = `WITH mark AS (
	UPDATE {schema}.head SET scrubbed = greatest(scrubbed, $2) WHERE id = 1 AND fence = $3
	AND $2 < (SELECT position FROM {schema}.log ORDER BY position DESC LIMIT 1)
	AND ($4 = 0 OR $4 <= scrubbed OR EXISTS (SELECT FROM {schema}.log WHERE position = $4 AND batch = $5))
	AND $6 = {timeline} RETURNING 1
), gone AS (
	DELETE FROM {schema}.log WHERE position = ANY ($1) AND EXISTS (SELECT FROM mark) RETURNING 1
)
SELECT (SELECT count(*) FROM mark), (SELECT count(*) FROM gone), (SELECT fence FROM {schema}.head WHERE id = 1),
	(SELECT position FROM {schema}.log ORDER BY position DESC LIMIT 1), {timeline}`

// Scrub implements drivers.Log. Appends wait for the head row's lock meanwhile.
func (l *Log) Scrub(ctx context.Context, positions []int64) error {
	return l.scrubWhere(ctx, positions, func() (string, error) { return "", nil })
}

// ScrubIn implements drivers.Shared.
func (l *Log) ScrubIn(ctx context.Context, epoch uint64, positions []int64) error {
	return l.scrubWhere(ctx, positions, func() (string, error) { return l.epochs.timeline(epoch) })
}

// scrubWhere scrubs on the timeline that where gives, or on any if that is "". It is asked before every try.
func (l *Log) scrubWhere(ctx context.Context, positions []int64, where func() (string, error)) error {
	if len(positions) == 0 {
		return l.usable(ctx)
	}
	for i, p := range positions {
		if p < 1 || i > 0 && p <= positions[i-1] {
			return fmt.Errorf("scrub: %w: position %d does not ascend from 1", errRefused, p)
		}
	}
	if err := l.begin(ctx); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	defer l.end()
	if err := l.scrub(ctx, positions, where); err != nil {
		return fmt.Errorf("scrub: %w", classify(err))
	}
	return nil
}

func (l *Log) scrub(ctx context.Context, positions []int64, where func() (string, error)) error {
	for again := l.tries(); ; {
		if err := l.writable(ctx); err != nil {
			return err
		}
		c, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		err = l.with(ctx, c, func(ctx context.Context, c *pgconn.PgConn) error {
			timeline, err := where()
			if err != nil {
				return err
			}
			return l.scrubOnce(ctx, c, positions, timeline)
		})
		switch {
		case errors.Is(err, errFence):
			continue
		case err == nil, errors.Is(err, drivers.ErrUncertain), errors.Is(err, errRefused), !again.again(ctx, err):
			return err
		}
	}
}

// errFence: the fence was another one than was known. Nothing was done.
var errFence = errors.New("the fence was raised")

func (l *Log) scrubOnce(ctx context.Context, c *pgconn.PgConn, positions []int64, timeline string) error {
	highest, fence := positions[len(positions)-1], l.fence.Load()
	known, _ := l.seen.snapshot()
	var done, found, end int64
	var on string
	sql := l.sql.scrub
	if timeline != "" {
		sql = l.sql.scrubOn
	}
	takeWarning(c)
	_, err := pipeline(ctx, c, []statement{
		{sql: beginSQL}, {sql: l.sql.tune},
		{sql, []param{int8ArrayParam(positions), int8Param(highest), int8Param(fence), int8Param(known.Position), uuidParam(known.Batch), textParam(timeline)}},
		{sql: commitSQL},
	}, func(i int, row [][]byte) error {
		if i != 2 {
			return nil
		}
		cols := columns{row: row}
		done, _, found, end, on = cols.int8(), cols.int8(), cols.int8(), cols.int8(), string(cols.bytes())
		return cols.err("head")
	})
	switch {
	case err != nil && aborted(err):
		return err
	case err != nil:
		return l.doubt(err)
	case done == 1:
		if w := takeWarning(c); w != "" {
			return l.doubt(fmt.Errorf("the database warns: %s", w))
		}
		l.seen.scrubbedTo(highest)
		return nil
	case on != timeline:
		l.epochs.note(on)
		return fmt.Errorf("%w: the database's timeline is %s, and was %s", drivers.ErrEpoch, on, timeline)
	case highest >= end:
		return fmt.Errorf("%w: position %d is not below the log's last, %d", errRefused, highest, end)
	case found == fence:
		return fmt.Errorf("%w: nothing was scrubbed", drivers.ErrDiverged)
	}
	l.fence.Store(found)
	return errFence
}

// scrubbedTo takes note of the mark.
func (s *seen) scrubbedTo(mark int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mark > s.scrubbed {
		s.scrubbed = mark
		s.wakeLocked()
	}
}
