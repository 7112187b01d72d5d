package faultfs

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// Disk is a hook that knows what a loss of power would leave of the files in
// a directory: what was synced, and of what was written since then any sectors. A sync that is
// made to fail is as it is on Linux: what was not written then counts as clean, and a
// later sync that succeeds says nothing about it.
type Disk struct {
	// Fail decides about each operation, nil lets all be done. It runs with
	// the disk locked.
	Fail func(op Op) Verdict

	mu    sync.Mutex
	files map[string]*file
}

var _ Hook = (*Disk)(nil)

type file struct {
	durable []byte
	// dirty has the sectors that may differ from durable; false for those
	// that a failed sync has given up.
	dirty map[int64]bool
}

// at gives the state of a file, which is all durable when it is first asked for.
func (d *Disk) at(path string) *file {
	if d.files == nil {
		d.files = make(map[string]*file)
	}
	f := d.files[path]
	if f == nil {
		f = &file{dirty: make(map[int64]bool)}
		f.durable, _ = os.ReadFile(path) // not there: empty
		d.files[path] = f
	}
	return f
}

// Add tells of a file that is durable as it is. Others are added when something is done to them.
func (d *Disk) Add(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at(path)
}

// Before implements Hook.
func (d *Disk) Before(op Op) Verdict {
	if op.Kind == Read {
		return Verdict{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.at(op.Path)
	var v Verdict
	if d.Fail != nil {
		v = d.Fail(op)
	}
	switch op.Kind {
	case Write:
		n := op.Size
		if v.Errno != 0 {
			n = v.Part
		}
		f.touch(op.Offset, int64(n))
	case Truncate:
		if info, err := os.Stat(op.Path); err == nil && v.Errno == 0 {
			f.touch(min(op.Offset, info.Size()), max(op.Offset, info.Size())-min(op.Offset, info.Size()))
		}
	case Sync:
		if v.Errno != 0 {
			for s := range f.dirty {
				f.dirty[s] = false
			}
		}
	case Delete:
		if v.Errno == 0 {
			delete(d.files, op.Path)
		}
	}
	return v
}

func (f *file) touch(offset, n int64) {
	for s := offset / sector; n > 0 && s <= (offset+n-1)/sector; s++ {
		f.dirty[s] = true
	}
}

// Synced implements Hook.
func (d *Disk) Synced(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.at(path)
	now, err := os.ReadFile(path)
	if err != nil {
		return
	}
	f.durable = f.mix(now, func(waiting bool) bool { return waiting })
	for s, waiting := range f.dirty {
		if waiting {
			delete(f.dirty, s)
		}
	}
}

// mix gives the file with those dirty sectors of now that keep chooses.
func (f *file) mix(now []byte, keep func(waiting bool) bool) []byte {
	out := append([]byte(nil), f.durable...)
	for s, waiting := range f.dirty {
		if !keep(waiting) {
			continue
		}
		from, to := s*sector, min((s+1)*sector, int64(len(now)))
		if from >= int64(len(now)) {
			// It was cut off.
			out = out[:min(int64(len(out)), int64(len(now)))]
			continue
		}
		if to > int64(len(out)) {
			out = append(out, make([]byte, to-int64(len(out)))...)
		}
		copy(out[from:to], now[from:to])
	}
	return out
}

// LosePower writes what a loss of power at this moment leaves into
// another directory, with the files' base names. What was not synced, or was given up by a sync that failed, is there or not at random.
func (d *Disk) LosePower(dir string, r *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// All, none or some of what waits: each is an image of its own.
	chance := []int{0, 50, 100}[r.IntN(3)]
	for path, f := range d.files {
		now, err := os.ReadFile(path)
		if err != nil {
			continue // deleted
		}
		// What a failed sync gave up may have been written all the same.
		image := f.mix(now, func(bool) bool { return r.IntN(100) < chance })
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), image, fs.FileMode(0o600)); err != nil {
			return err
		}
	}
	return nil
}
