package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/keelson-io/keelson/server/history/historypb"
)

// momentUsage says how a moment is written.
const momentUsage = "a revision, a time (2026-11-26T18:00:00Z, or 2026-11-26 18:00:00 by this machine's time zone), or how long ago (2h)"

// parseMoment reads a revision, a time or a duration back from now.
func parseMoment(text string, now time.Time) (*historypb.Moment, error) {
	if rev, err := strconv.ParseInt(text, 10, 64); err == nil && rev > 0 {
		return &historypb.Moment{At: &historypb.Moment_Revision{Revision: rev}}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago > 0 {
		return at(now.Add(-ago)), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return at(t), nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at(t), nil
		}
	}
	return nil, fmt.Errorf("%q is not a moment: %s", text, momentUsage)
}

func at(t time.Time) *historypb.Moment {
	return &historypb.Moment{At: &historypb.Moment_UnixMs{UnixMs: t.UnixMilli()}}
}

// momentFlag is a flag that is a moment.
type momentFlag struct {
	to  **historypb.Moment
	now func() time.Time
}

// isAgo tells whether a moment is given by how long ago it was: it is another one whenever it is asked for.
func isAgo(text string) bool {
	_, err := time.ParseDuration(text)
	return err == nil
}

func (m momentFlag) String() string { return "" }

func (m momentFlag) Set(text string) (err error) {
	*m.to, err = parseMoment(text, m.now())
	return err
}

// prefixes is a flag that may be given more than once.
type prefixes []string

func (p *prefixes) String() string { return "" }

func (p *prefixes) Set(prefix string) error {
	if prefix == "" {
		return fmt.Errorf("it must not be empty")
	}
	*p = append(*p, prefix)
	return nil
}

func (p prefixes) ranges() (all []*historypb.Range) {
	for _, prefix := range p {
		all = append(all, prefixRange(prefix))
	}
	return all
}

// prefixRange gives the range of all keys that begin so.
func prefixRange(prefix string) *historypb.Range {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return &historypb.Range{Key: []byte(prefix), RangeEnd: end[:i+1]}
		}
	}
	// There is no key behind them.
	if prefix == "" {
		prefix = "\x00"
	}
	return &historypb.Range{Key: []byte(prefix), RangeEnd: []byte{0}}
}

// stamp writes a time of the log down.
func stamp(ms int64) string {
	if ms == 0 {
		return "time unknown"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// compactedAt writes a compact revision down.
func compactedAt(rev int64) string {
	if rev <= 0 {
		return "never compacted"
	}
	return fmt.Sprintf("compact revision %d", rev)
}
