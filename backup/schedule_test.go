package backup

import (
	"strings"
	"testing"
	"time"
)

func TestScheduleNext(t *testing.T) {
	for _, c := range []struct{ spec, from, next string }{
		{"CRON_TZ=UTC 0 2 * * *", "2026-11-26T01:59:59Z", "2026-11-26T02:00:00Z"},
		{"CRON_TZ=UTC 0 2 * * *", "2026-11-26T02:00:00Z", "2026-11-27T02:00:00Z"},
		{"TZ=UTC */15 * * * *", "2026-11-26T02:00:00.5Z", "2026-11-26T02:15:00Z"},
		{"CRON_TZ=UTC @daily", "2026-11-26T02:00:00Z", "2026-11-27T00:00:00Z"},
		{"CRON_TZ=UTC 0 0 29 2 *", "2026-11-26T02:00:00Z", "2028-02-29T00:00:00Z"},
		{"@every 6h", "2026-11-26T02:00:00Z", "2026-11-26T08:00:00Z"},
		{"@every 3s", "2026-11-26T02:00:00.5Z", "2026-11-26T02:00:03Z"},
		{"CRON_TZ=Europe/Berlin 30 14 * * 1", "2026-11-26T02:00:00Z", "2026-11-30T13:30:00Z"},
		// The hour from 2 to 3 is left out on this day: what is due in it comes an hour earlier, at 1:30, and once.
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-07T12:00:00Z", "2026-03-08T06:30:00Z"},
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-08T06:29:59Z", "2026-03-08T06:30:00Z"},
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-08T06:30:00Z", "2026-03-09T06:30:00Z"},
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-08T07:15:00Z", "2026-03-09T06:30:00Z"},
		{"CRON_TZ=America/New_York 0 * * * *", "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"},
		// The hour from 1 to 2 comes twice on this one.
		{"CRON_TZ=America/New_York 0 3 * * *", "2026-10-31T12:00:00Z", "2026-11-01T08:00:00Z"},
		{"CRON_TZ=America/New_York 0 * * * *", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"},
	} {
		s, err := ParseSchedule(c.spec)
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		if got := s.Next(at(c.from)); !got.Equal(at(c.next)) {
			t.Errorf("%s after %s: %s, want %s", c.spec, c.from, got.UTC(), c.next)
		}
	}
}

// TestScheduleGoesOn: whatever the zone does, the next time is a later one, and no day is without.
func TestScheduleGoesOn(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia"} {
		for _, hands := range []string{"0 0 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *", "59 23 * * *"} {
			s, err := ParseSchedule("CRON_TZ=" + zone + " " + hands)
			if err != nil {
				t.Fatal(err)
			}
			last := at("2009-01-01T00:00:00Z")
			for range 3 * 366 {
				next := s.Next(last)
				if d := next.Sub(last); d <= 0 || d > 26*time.Hour && last.Year() > 2008 && zone != "Pacific/Apia" {
					t.Fatalf("%s %s: %s comes after %s", zone, hands, next, last)
				}
				last = next
			}
		}
	}
}

// TestScheduleLocal: without a zone it is this machine's clock.
func TestScheduleLocal(t *testing.T) {
	s, err := ParseSchedule("0 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	if next := s.Next(time.Now().UTC()).Local(); next.Hour() != 2 || next.Minute() != 0 {
		t.Errorf("next: %v", next)
	}
}

func TestScheduleRefused(t *testing.T) {
	for _, text := range []string{
		"", " ", "daily", "@nightly", "0 2 * *", "0 2 * * * *", "60 * * * *", "* 24 * * *", "*/0 * * * *", "5-1 * * * *", "0 0 30 2 *",
		"@every", "@every x", "@every 0s", "@every -5m", "@every 999ms", "TZ=", "TZ=UTC", "CRON_TZ=UTC", "CRON_TZ=Nowhere/Else 0 2 * * *", "CRON_TZ=UTC TZ=",
		"CRON_TZ=UTC CRON_TZ=UTC 0 2 * * *", "CRON_TZ= ",
	} {
		if _, err := ParseSchedule(text); err == nil || !strings.Contains(err.Error(), "schedule") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

func FuzzSchedule(f *testing.F) {
	for _, text := range []string{"0 2 * * *", "@every 6h", "CRON_TZ=UTC */5 1-3,7 * JAN-MAR MON", "TZ=", "@yearly"} {
		f.Add(text)
	}
	now := at("2026-11-26T02:00:00Z")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSchedule(text)
		if err != nil {
			return
		}
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Errorf("%q: %s comes after %s", text, next, now)
		}
	})
}
