package backup

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoRoom means that there is no room for a backup, or for the snapshot that it is made of.
var ErrNoRoom = errors.New("backup: there is no room")

// Need is room that there has to be where a directory is, which is there.
type Need struct {
	Dir   string
	Bytes int64
}

// Room sees that there is as much free as is needed: on a file system that several directories are on, as much as all of them together need.
func Room(needs ...Need) error { return room(needs, diskOf) }

// disk is a file system, and how much of it is free.
type disk struct {
	id   uint64
	free float64
}

func room(needs []Need, of func(dir string) (disk, error)) error {
	all := map[uint64]float64{}
	for _, n := range needs {
		d, err := of(n.Dir)
		if err != nil {
			return err
		}
		if all[d.id] += float64(n.Bytes); all[d.id] > d.free {
			return fmt.Errorf("%w: %.0f bytes are needed on the file system of %s, and %.0f are free", ErrNoRoom, all[d.id], n.Dir, d.free)
		}
	}
	return nil
}

// Places are the directories of a server that makes backups.
type Places struct {
	// Snapshots is where the snapshot is made, and Backups where its backup is kept, or empty. They are there.
	Snapshots, Backups string
	// Stores are the directories that the store writes to, which are there.
	Stores []string
}

// Room sees that there is room for a snapshot of so many bytes and for its backup, also where they are on one disk, and, where one of them is on the store's, for what the store writes while they are there.
func (p Places) Room(snapshot int64) error { return p.room(snapshot, diskOf) }

// marginAtLeast is for a store that is small, and written to all the same: its write-ahead log, and Raft's, take so much in the time of a backup.
const marginAtLeast = 256 << 20

// margin is what stays free of the store's disk beside a snapshot and its backup, for what is written meanwhile: the larger they are the longer they take. A quarter of one is, at 100 MB/s for each of
// the four times that it is written or read, what a store appends at 6 MB/s; asking for much more would do without backups where there is room.
func margin(snapshot int64) int64 { return max(snapshot/4, marginAtLeast) }

func (p Places) room(snapshot int64, of func(dir string) (disk, error)) error {
	needs := []Need{{p.Snapshots, snapshot}}
	if p.Backups != "" {
		needs = append(needs, Need{p.Backups, snapshot})
	}
	taken := map[uint64]bool{} // of these disks
	for _, n := range needs {
		d, err := of(n.Dir)
		if err != nil {
			return err
		}
		taken[d.id] = true
	}
	for _, dir := range p.Stores {
		d, err := of(dir)
		if err != nil {
			return err
		}
		if taken[d.id] {
			needs, taken[d.id] = append(needs, Need{dir, margin(snapshot)}), false
		}
	}
	return room(needs, of)
}

func diskOf(dir string) (disk, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return disk{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return disk{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	// Counts are far below what overflows here, but on file systems that know no end.
	d := disk{free: float64(fs.Bavail) * float64(unit(&fs))}
	if fs.Blocks == 0 {
		d.free = math.Inf(1) // it does not tell
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		d.id = uint64(stat.Dev)
	}
	return d, nil
}

// unit is what a file system counts its blocks in. Bsize is what it likes to be asked for at once, over NFS as much as a mebibyte.
func unit(fs *unix.Statfs_t) int64 { return cmp.Or(fs.Frsize, fs.Bsize) }
