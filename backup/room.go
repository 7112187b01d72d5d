package backup

import (
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
	// Snapshots is where the snapshot is made, Backups where its backup is kept, or empty, and Store where the store is, or empty. They are there.
	Snapshots, Backups, Store string
}

// Room sees that there is room to back up a store that has so many bytes in use, also where the snapshot and the backup are on one disk. On the store's disk as much stays free when the backup is there: the room
// of a snapshot that was made on it, and otherwise as much again.
func (p Places) Room(inUse int64) error { return p.room(inUse, diskOf) }

func (p Places) room(inUse int64, of func(dir string) (disk, error)) error {
	needs := []Need{{p.Snapshots, inUse}}
	if p.Backups != "" {
		needs = append(needs, Need{p.Backups, inUse})
	}
	if p.Backups != "" && p.Store != "" {
		var ids [3]uint64
		for i, dir := range []string{p.Snapshots, p.Backups, p.Store} {
			d, err := of(dir)
			if err != nil {
				return err
			}
			ids[i] = d.id
		}
		if ids[1] == ids[2] && ids[0] != ids[2] {
			needs = append(needs, Need{p.Store, inUse})
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
	// Block sizes and counts are far below what overflows here, but on file systems that know no end.
	d := disk{free: float64(fs.Bavail) * float64(fs.Bsize)}
	if fs.Blocks == 0 {
		d.free = math.Inf(1) // it does not tell
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		d.id = uint64(stat.Dev)
	}
	return d, nil
}
