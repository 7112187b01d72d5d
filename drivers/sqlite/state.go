package sqlite

import (
	"errors"
	"fmt"
	"io"

	"github.com/keelson-io/keelson/drivers"
)

// state is where the log ends and how far it is scrubbed.
type state struct {
	markedEnd
	scrubbed int64
}

// markedEnd is an end with the mark of the batch there.
type markedEnd struct {
	drivers.End
	mark Mark
}

func (s *state) bounds() drivers.Bounds { return drivers.Bounds{End: s.End, Scrubbed: s.scrubbed} }

// readState reads where the log ends and how far it is scrubbed.
func (l *Log) readState(c *conn) error {
	var s state
	var err error
	if s.scrubbed, err = c.getInt("SELECT scrubbed FROM head WHERE id = 1"); err != nil {
		return err
	}
	if s.markedEnd, err = readEnd(c); err != nil {
		return err
	}
	if s.scrubbed > 0 && s.scrubbed >= s.Position {
		return fmt.Errorf("%w: it is scrubbed up to %d and ends at %d", drivers.ErrCorrupt, s.scrubbed, s.Position)
	}
	if l.writer != nil {
		if l.writer.changes, err = c.getInt("SELECT changes FROM head WHERE id = 1"); err != nil {
			return err
		}
	}
	l.state.Store(&s)
	return nil
}

// readEnd reads the last row by the primary key.
func readEnd(c *conn) (markedEnd, error) {
	row, err := c.get("SELECT position, batch FROM log ORDER BY position DESC LIMIT 1", 2)
	if errors.Is(err, io.EOF) {
		return markedEnd{}, nil
	}
	if err != nil {
		return markedEnd{}, err
	}
	position, _ := row[0].(int64)
	last, err := decodeClosing(row[1])
	if err != nil {
		return markedEnd{}, fmt.Errorf("position %d, the log's last: %w", position, err)
	}
	return markedEnd{End: drivers.End{Position: position, Batch: last.id}, mark: last.mark}, nil
}

// LastMark gives the mark of the log's last row, zero if that has none or the log is empty, and the
// end for which it is the mark. After an append whose outcome is unknown it is as before until ReadIndex has succeeded.
func (l *Log) LastMark() (drivers.End, Mark) {
	s := l.state.Load()
	return s.End, s.mark
}
