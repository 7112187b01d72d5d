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
