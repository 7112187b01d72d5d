package backup

import (
	"slices"
	"testing"
	"time"
)

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestName(t *testing.T) {
	b := Backup{Cluster: 0xabc, Time: at("2026-11-26T02:00:00.12Z"), Revision: 1234567}
	want := "keelson-0000000000000abc-20261126T020000.120Z-1234567.db"
	if got := b.Name(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, ok := Parse(want); !ok || got != b {
		t.Errorf("%+v, %v", got, ok)
	}
	b.Time = b.Time.In(time.FixedZone("there", 3600))
	if got := b.Name(); got != want {
		t.Errorf("in another zone: %s", got)
	}
}

func TestForeignNames(t *testing.T) {
	for _, name := range []string{
		"", "keelson", "snapshot.db",
		"keelson-0000000000000abc-20261126T020000.120Z-1234567",
		"keelson-0000000000000abc-20261126T020000.120Z-1234567.db.1.part",
		"keelson-0000000000000ABC-20261126T020000.120Z-1234567.db",
		"keelson-abc-20261126T020000.120Z-1234567.db",
		"keelson-0000000000000abc-20261126T020000Z-1234567.db",
		"keelson-0000000000000abc-20261326T020000.120Z-1234567.db",
		"keelson-0000000000000abc-20261126T020000.120Z-01.db",
		"keelson-0000000000000abc-20261126T020000.120Z--1.db",
		"keelson-0000000000000abc-20261126T020000.120Z-9999999999999999999.db",
		"akeelson-0000000000000abc-20261126T020000.120Z-1.db",
		"keelson-0000000000000abc-20261126T020000.120Z-1.db\n",
	} {
		if b, ok := Parse(name); ok {
			t.Errorf("%q is taken for %+v", name, b)
		}
	}
}

// TestNamesSort: by time, whatever the revision and the clock's zone.
func TestNamesSort(t *testing.T) {
	start := at("2026-12-31T23:59:58.999Z")
	var names []string
	for i := range 20 {
		b := Backup{Cluster: 7, Time: start.Add(time.Duration(i) * 137 * time.Millisecond), Revision: int64(10_000 >> i)}
		names = append(names, b.Name())
	}
	if !slices.IsSorted(names) {
		t.Errorf("%q", names)
	}
}
