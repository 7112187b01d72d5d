package backup

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule says when backups are due.
type Schedule struct {
	spec cron.Schedule
	zone *time.Location // of a schedule that is about a clock's hands; nil for one of intervals
}

// ParseSchedule reads a schedule as crontab(5) has it, of five fields, or @hourly, @daily, @weekly, @monthly, @yearly, or "@every 6h". It is about the local time of this
// machine, unless it begins with CRON_TZ=Zone/Name.
func ParseSchedule(text string) (Schedule, error) {
	zone := time.Local
	rest := text
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		name, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		name, spec, ok := strings.Cut(name, " ")
		if !ok {
			return Schedule{}, fmt.Errorf("schedule %q: there is a time zone and nothing else", text)
		}
		loaded, err := time.LoadLocation(name)
		if err != nil {
			return Schedule{}, fmt.Errorf("schedule %q: %w", text, err)
		}
		zone, rest = loaded, strings.TrimSpace(spec)
		break
	}
	if every, ok := strings.CutPrefix(rest, "@every "); ok {
		// The library makes a second of what is shorter.
		if d, err := time.ParseDuration(every); err == nil && d < time.Second {
			return Schedule{}, fmt.Errorf("schedule %q: less than a second", text)
		}
	}
	if strings.Contains(rest, "TZ=") {
		return Schedule{}, fmt.Errorf("schedule %q: more than one time zone", text)
	}
	spec, err := cron.ParseStandard(rest)
	if err != nil {
		return Schedule{}, fmt.Errorf("schedule %q: %w", text, err)
	}
	s := Schedule{spec: spec}
	if _, ok := spec.(*cron.SpecSchedule); ok {
		s.zone = zone
	}
	if s.Next(time.Now()).IsZero() {
		return Schedule{}, fmt.Errorf("schedule %q: %w", text, errNever)
	}
	return s, nil
}

var errNever = errors.New("it never comes")

// Next gives the next due time after t.
//
// An hour that a zone leaves out once a year is no reason to leave out what is due in it: that comes as much earlier as is left out. In an hour that comes
// twice it may come twice.
func (s Schedule) Next(t time.Time) time.Time {
	if s.zone == nil {
		return s.spec.Next(t.Round(0))
	}
	t = t.Round(0).In(s.zone)
	next := s.spec.Next(t)
	// The same by the clock's hands alone, in a zone that leaves nothing out.
	hands := onHands(t)
	for range 2 {
		if hands = s.spec.Next(hands); hands.IsZero() {
			break
		}
		there := time.Date(hands.Year(), hands.Month(), hands.Day(), hands.Hour(), hands.Minute(), hands.Second(), 0, s.zone)
		// Where there are no such hands, Date may give the time before or the one after.
		if late := onHands(there).Sub(hands); late > 0 {
			there = there.Add(-late)
		}
		if there.After(t) {
			if next.IsZero() || there.Before(next) {
				next = there
			}
			break
		}
	}
	return next
}

// onHands gives what a clock shows at t where t is, as a time in a zone that leaves nothing out.
func onHands(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}
