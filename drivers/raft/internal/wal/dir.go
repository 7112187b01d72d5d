package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
)

// The names beside a log's directory (W10).
const (
	newSuffix = ".new" // in the making: never a log
	oldSuffix = ".old" // the log, if there is none by its name; garbage otherwise
)

// Exists tells whether there is a log at dir. One that is half made is none; where one was half
// replaced there is one.
func Exists(dir string) (bool, error) { return exists(osFS{}, dir) }

func exists(fsys fsys, dir string) (bool, error) {
	for _, path := range []string{dir, dir + oldSuffix} {
		if there, err := fsys.exists(path); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// Create makes a new log, which begins after snap; a snapshot of index zero, or nil, means an empty log. It is durable and whole or not there
// at all, also after an error or a crash. It fails if there is a log already.
//
// The first hard state is the snapshot's term, no vote, and all of the snapshot committed.
func Create(o Options, id Identity, snap *raftpb.Snapshot) error {
	o = o.withDefaults()
	there, err := exists(o.fs, o.Dir)
	if err != nil {
		return err
	}
	if there {
		return fmt.Errorf("make a Raft log in %s: %w", o.Dir, fs.ErrExist)
	}
	if err := build(o, id, snap); err != nil {
		return err
	}
	if err := moveDir(o.fs, o.Dir+newSuffix, o.Dir); err != nil {
		err = errors.Join(fmt.Errorf("name the new Raft log: %w", classify(err)), undo(o.fs, o.Dir, o.Dir+newSuffix))
		removeLeftover(o, o.Dir+newSuffix)
		return err
	}
	return nil
}

// Replace makes a new log as Create does, in the place of the one that is there. After a crash at any moment, and after an error, the old one
// or the new one is there, whole. The old one must not be open.
func Replace(o Options, id Identity, snap *raftpb.Snapshot) error {
	o = o.withDefaults()
	if err := settleNames(o); err != nil {
		return err
	}
	if err := build(o, id, snap); err != nil {
		return err
	}
	before, after := o.Dir+oldSuffix, o.Dir+newSuffix
	if err := removeAll(o.fs, before); err != nil {
		return fmt.Errorf("remove the Raft log before the last: %w", classify(err))
	}
	if err := moveDir(o.fs, o.Dir, before); err != nil {
		return errors.Join(fmt.Errorf("move the old Raft log away: %w", classify(err)), undo(o.fs, before, o.Dir))
	}
	if err := moveDir(o.fs, after, o.Dir); err != nil {
		err = fmt.Errorf("name the new Raft log: %w", classify(err))
		return errors.Join(err, undo(o.fs, o.Dir, after), undo(o.fs, before, o.Dir))
	}
	removeLeftover(o, before)
	return nil
}

// Remove takes away a log of which nothing is needed. It is not open. After a crash it is there, whole, or not at all.
func Remove(o Options) error {
	o = o.withDefaults()
	gone := o.Dir + newSuffix
	if err := removeAll(o.fs, gone); err != nil {
		return fmt.Errorf("remove a Raft log that was not finished: %w", classify(err))
	}
	if err := moveDir(o.fs, o.Dir, gone); err != nil {
		return fmt.Errorf("move the Raft log away: %w", classify(err))
	}
	removeLeftover(o, gone)
	return nil
}

// build makes a whole log beside the directory, durably.
func build(o Options, id Identity, snap *raftpb.Snapshot) error {
	dir := o.Dir + newSuffix
	if err := removeAll(o.fs, dir); err != nil {
		return fmt.Errorf("remove a Raft log that was not finished: %w", classify(err))
	}
	index := snap.GetMetadata().GetIndex()
	head := &batch{id: &id, mark: &mark{index: index, term: snap.GetMetadata().GetTerm(), segment: 1}}
	if snap != nil {
		head.snap = cloneSnapshot(snap)
	}
	head.hard = withCommit(nil, snap)
	im, err := newImage(1, 1, head, nil)
	if err != nil {
		return err
	}
	if err = o.fs.mkdir(dir); err == nil {
		var s *segment
		if s, err = im.make(o.fs, dir, max(o.withReserve(), im.born)); err == nil {
			err = s.release()
		}
	}
	if err != nil {
		removeLeftover(o, dir)
		return fmt.Errorf("make a Raft log: %w", classify(err))
	}
	return nil
}

// moveDir renames a directory, durably.
func moveDir(fsys fsys, from, to string) error {
	if err := fsys.rename(from, to); err != nil {
		return err
	}
	return fsys.syncDir(filepath.Dir(to))
}

// undo renames a directory back if it was renamed. What stands then is whole whether or not this is durable, and Open makes it so.
func undo(fsys fsys, from, to string) error {
	renamed, err := fsys.exists(from)
	if err != nil || !renamed {
		return err
	}
	if there, err := fsys.exists(to); err != nil || there {
		return err
	}
	return moveDir(fsys, from, to)
}

// settleNames gives a log that was moved away its name back, makes durable what has the name, and removes what is left beside it.
func settleNames(o Options) error {
	there, err := o.fs.exists(o.Dir)
	if err != nil {
		return err
	}
	if !there {
		if moved, err := o.fs.exists(o.Dir + oldSuffix); err != nil {
			return err
		} else if !moved {
			return fmt.Errorf("no Raft log in %s: %w", o.Dir, fs.ErrNotExist)
		}
		if err := o.fs.rename(o.Dir+oldSuffix, o.Dir); err != nil {
			return fmt.Errorf("put the Raft log back: %w", classify(err))
		}
	}
	if err := o.fs.syncDir(filepath.Dir(o.Dir)); err != nil {
		return fmt.Errorf("sync the directory of the Raft log's: %w", classify(err))
	}
	removeLeftover(o, o.Dir+oldSuffix)
	removeLeftover(o, o.Dir+newSuffix)
	return nil
}

// removeLeftover deletes a directory that does not count. If it fails the next Open tries again.
func removeLeftover(o Options, dir string) {
	if err := removeAll(o.fs, dir); err != nil {
		o.Logger.Warn("deleting what is left of a Raft log", "dir", dir, "error", err)
	}
}
