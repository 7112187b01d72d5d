package backup

import (
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"
)

// TestRoom: what is needed on one disk is needed together.
func TestRoom(t *testing.T) {
	disks := map[string]disk{"snapshots": {1, 100}, "store": {1, 100}, "away": {2, 50}}
	gone := errors.New("gone")
	of := func(dir string) (disk, error) {
		d, ok := disks[dir]
		if !ok {
			return d, gone
		}
		return d, nil
	}
	for _, c := range []struct {
		needs []Need
		want  error
	}{
		{nil, nil},
		{[]Need{{"snapshots", 100}}, nil},
		{[]Need{{"snapshots", 101}}, ErrNoRoom},
		{[]Need{{"snapshots", 50}, {"store", 50}}, nil},
		{[]Need{{"snapshots", 50}, {"store", 51}}, ErrNoRoom},
		{[]Need{{"snapshots", 50}, {"away", 50}, {"store", 51}}, ErrNoRoom},
		{[]Need{{"snapshots", 100}, {"away", 50}}, nil},
		{[]Need{{"snapshots", 100}, {"away", 51}}, ErrNoRoom},
		{[]Need{{"nowhere", 1}}, gone},
	} {
		if err := room(c.needs, of); !errors.Is(err, c.want) {
			t.Errorf("%v: %v", c.needs, err)
		}
	}
}

// TestPlaces: a backup needs its room beside the snapshot's, and leaves as much on the store's disk, but needs nothing of that where it is on another one.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		name                      string
		snapshots, backups, store uint64 // their disks; 0: there is none
		enough, less, lessToo     map[uint64]float64
	}{
		{"all on one", 1, 1, 1, map[uint64]float64{1: 200}, map[uint64]float64{1: 199}, nil},
		{"a bucket", 1, 0, 1, map[uint64]float64{1: 100}, map[uint64]float64{1: 99}, nil},
		{"backups elsewhere", 1, 2, 1, map[uint64]float64{1: 100, 2: 100}, map[uint64]float64{1: 99, 2: 100}, map[uint64]float64{1: 100, 2: 99}},
		{"all elsewhere", 2, 3, 1, map[uint64]float64{1: 0, 2: 100, 3: 100}, map[uint64]float64{1: 1000, 2: 99, 3: 100}, map[uint64]float64{1: 1000, 2: 100, 3: 99}},
		{"snapshots elsewhere", 2, 1, 1, map[uint64]float64{1: 200, 2: 100}, map[uint64]float64{1: 199, 2: 100}, map[uint64]float64{1: 200, 2: 99}},
		{"the store elsewhere", 2, 2, 1, map[uint64]float64{1: 0, 2: 200}, map[uint64]float64{1: 1000, 2: 199}, nil},
		{"no store here", 2, 2, 0, map[uint64]float64{2: 200}, map[uint64]float64{2: 199}, nil},
	} {
		p := Places{Snapshots: "snapshots"}
		disks := map[string]uint64{"snapshots": c.snapshots, "backups": c.backups, "store": c.store}
		if c.backups > 0 {
			p.Backups = "backups"
		}
		if c.store > 0 {
			p.Store = "store"
		}
		for _, try := range []struct {
			free map[uint64]float64
			want error
		}{{c.enough, nil}, {c.less, ErrNoRoom}, {c.lessToo, ErrNoRoom}} {
			err := p.room(100, func(dir string) (disk, error) { return disk{disks[dir], try.free[disks[dir]]}, nil })
			if try.free != nil && !errors.Is(err, try.want) {
				t.Errorf("%s, with %v: %v", c.name, try.free, err)
			}
		}
	}
}

// TestDirNoRoom: what there is no room for is not begun.
func TestDirNoRoom(t *testing.T) {
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	read := false
	r := io.MultiReader(reading(func() error { read = true; return io.EOF }), strings.NewReader("content"))
	b := Backup{Cluster: 7, Time: at("2026-11-26T02:00:00Z"), Revision: 42, Size: math.MaxInt64}
	if err := d.Put(t.Context(), b, r); !errors.Is(err, ErrNoRoom) || read {
		t.Errorf("%v, read %v", err, read)
	}
	if got := within(t, d.path); len(got) > 0 {
		t.Errorf("there are %q", got)
	}
}

// TestRoomOfOneDisk asks the system.
func TestRoomOfOneDisk(t *testing.T) {
	dir := t.TempDir()
	d, err := diskOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	below := dir + "/below"
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	// Others take and free some meanwhile.
	part := int64(d.free/2) + 1<<40
	if err := Room(Need{dir, part}, Need{below, part}); !errors.Is(err, ErrNoRoom) {
		t.Errorf("%v", err)
	}
	if err := Room(Need{dir, 1}, Need{below, 1}); err != nil {
		t.Errorf("%v", err)
	}
}
