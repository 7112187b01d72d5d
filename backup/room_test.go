package backup

import (
	"cmp"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// TestPlaces: a backup needs its room beside the snapshot's, and where one of them is on the store's disk something stays free there for the store, also while both are there; where none is, nothing of
// that disk is needed.
func TestPlaces(t *testing.T) {
	type free map[uint64]float64
	const most = math.MaxInt64
	for _, size := range []int64{100, 8 << 30} {
		one, left := float64(size), float64(max(256<<20, size/4))
		for _, c := range []struct {
			name                      string
			snapshots, backups, store uint64 // their disks; 0: there is none
			needs                     free
			wal                       uint64 // if it is not the store's
		}{
			{"all on one", 1, 1, 1, free{1: 2*one + left}, 0},
			{"a bucket", 1, 0, 1, free{1: one + left}, 0},
			{"backups elsewhere", 1, 2, 1, free{1: one + left, 2: one}, 0},
			{"all elsewhere", 2, 3, 1, free{1: 0, 2: one, 3: one}, 0},
			{"snapshots elsewhere", 2, 1, 1, free{1: one + left, 2: one}, 0},
			{"the store elsewhere", 2, 2, 1, free{1: 0, 2: 2 * one}, 0},
			{"no store here", 2, 2, 0, free{2: 2 * one}, 0},
			{"the write-ahead log elsewhere", 2, 2, 1, free{1: 0, 2: 2*one + left}, 2},
			{"backups beside it", 1, 2, 1, free{1: one + left, 2: one + left}, 2},
			{"nothing but a snapshot", 2, 0, 0, free{2: one}, 0},
		} {
			p := Places{Snapshots: "snapshots"}
			disks := map[string]uint64{"snapshots": c.snapshots, "backups": c.backups, "store": c.store, "wal": cmp.Or(c.wal, c.store)}
			if c.backups > 0 {
				p.Backups = "backups"
			}
			if c.store > 0 {
				p.Stores = []string{"store", "wal"}
			}
			try := func(have free) error {
				return p.room(size, func(dir string) (disk, error) { return disk{disks[dir], have[disks[dir]]}, nil })
			}
			if err := try(c.needs); err != nil {
				t.Errorf("%s, %d bytes, with %v: %v", c.name, size, c.needs, err)
			}
			for id, need := range c.needs {
				if need == 0 {
					continue
				}
				less := free{1: most, 2: most, 3: most}
				less[id] = need - 1
				if err := try(less); !errors.Is(err, ErrNoRoom) {
					t.Errorf("%s, %d bytes, with %v: %v", c.name, size, less, err)
				}
			}
		}
	}
}

// TestUnit: blocks are counted in fragments, which a file system may be without.
func TestUnit(t *testing.T) {
	for _, c := range []struct{ fragment, block, want int64 }{{4096, 1 << 20, 4096}, {0, 512, 512}} {
		if got := unit(&unix.Statfs_t{Frsize: c.fragment, Bsize: c.block}); got != c.want {
			t.Errorf("%+v: %d", c, got)
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
