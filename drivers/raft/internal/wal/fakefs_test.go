package wal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const sector = 512

var errPower = errors.New("the power is gone")

// disk is a file system in memory that knows what a loss of power leaves. See doc.go for what it assumes.
type disk struct {
	r    *rand.Rand
	root *node
	// fail decides about each operation that changes something; op is its number from 1 on.
	fail func(op int, what string) error
	// failRead does so for reads, opens and lists.
	failRead func() error
	ops      int
	off      bool
	kinds    map[string]int
}

func newDisk(seed uint64) *disk {
	d := &disk{r: rand.New(rand.NewPCG(seed, 1)), root: newDir(), kinds: make(map[string]int)}
	must(d.mkdir("d"))
	must(d.syncDir("."))
	return d
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// step is asked before each operation. The error is what the operation returns; done says whether it is done all the same.
func (d *disk) step(what string) (err error, done bool) {
	if d.off {
		return errPower, false
	}
	d.ops++
	d.kinds[what]++
	if d.fail != nil {
		err = d.fail(d.ops, what)
	}
	if errors.Is(err, errPower) {
		d.off = true
	}
	return err, err == nil || d.r.IntN(2) == 0
}

func (d *disk) readStep() error {
	if d.off {
		return errPower
	}
	if d.failRead != nil {
		return d.failRead()
	}
	return nil
}

func (d *disk) find(path string) *node {
	n := d.root
	for _, name := range strings.Split(filepath.Clean(path), "/") {
		if name != "." && n != nil {
			n = n.entries[name]
		}
	}
	return n
}

func (d *disk) parent(path string) (*node, string) {
	return d.find(filepath.Dir(path)), filepath.Base(path)
}

func (p *node) apply(op dirOp) {
	if op.from != "" {
		delete(p.entries, op.from)
	}
	if op.to != "" {
		p.entries[op.to] = op.n
	}
	p.pending = append(p.pending, op)
}

func (d *disk) open(path string) (file, error) {
	if err := d.readStep(); err != nil {
		return nil, err
	}
	if n := d.find(path); n != nil {
		return &fakeFile{d, n}, nil
	}
	return nil, fs.ErrNotExist
}

func (d *disk) create(path string) (file, error) {
	err, done := d.step("create")
	p, name := d.parent(path)
	if done {
		if n := p.entries[name]; n != nil {
			n.truncate(0)
		} else {
			p.apply(dirOp{to: name, n: &node{dirty: map[int64]*dirtySector{}}})
		}
	}
	if err != nil {
		return nil, err
	}
	return &fakeFile{d, p.entries[name]}, nil
}

func (d *disk) mkdir(path string) error {
	err, done := d.step("mkdir")
	p, name := d.parent(path)
	if p.entries[name] != nil {
		return fs.ErrExist
	}
	if done {
		p.apply(dirOp{to: name, n: newDir()})
	}
	return err
}

func (d *disk) rename(from, to string) error {
	err, done := d.step("rename")
	p, a := d.parent(from)
	_, b := d.parent(to)
	if p.entries[a] == nil {
		return fs.ErrNotExist
	}
	if n := p.entries[b]; n != nil && len(n.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	if done {
		p.apply(dirOp{from: a, to: b, n: p.entries[a]})
	}
	return err
}

func (d *disk) remove(path string) error {
	err, done := d.step("remove")
	p, name := d.parent(path)
	if p == nil || p.entries[name] == nil {
		return fs.ErrNotExist
	}
	if len(p.entries[name].entries) > 0 {
		return syscall.ENOTEMPTY
	}
	if done {
		p.apply(dirOp{from: name, n: p.entries[name]})
	}
	return err
}

func (d *disk) list(dir string) ([]string, error) {
	if err := d.readStep(); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(d.find(dir).entries)), nil
}

func (d *disk) exists(path string) (bool, error) {
	if err := d.readStep(); err != nil {
		return false, err
	}
	return d.find(path) != nil, nil
}

// syncDir makes the directory durable. One that fails leaves everything pending: metadata is not given up.
func (d *disk) syncDir(dir string) error {
	err, _ := d.step("syncdir")
	if n := d.find(dir); err == nil {
		n.durable, n.pending = maps.Clone(n.entries), nil
	}
	return err
}

type fakeFile struct {
	d *disk
	n *node
}

func (f *fakeFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.d.readStep(); err != nil {
		return 0, err
	}
	n := copy(p, f.n.data[min(off, int64(len(f.n.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *fakeFile) WriteAt(p []byte, off int64) (int, error) {
	err, _ := f.d.step("write")
	if err != nil {
		p = p[:f.d.r.IntN(len(p)+1)]
	}
	if len(p) > 0 {
		if end := off + int64(len(p)); end > int64(len(f.n.data)) {
			f.n.data = resized(f.n.data, end)
			f.n.sizes = append(f.n.sizes, end)
		}
		copy(f.n.data[off:], p)
		f.n.touch(off, off+int64(len(p)))
	}
	return len(p), err
}

func (f *fakeFile) Truncate(size int64) error {
	err, done := f.d.step("truncate")
	if done {
		f.n.truncate(size)
	}
	return err
}

func (f *fakeFile) Allocate(size int64) error {
	err, _ := f.d.step("allocate")
	if err == nil && size > int64(len(f.n.data)) {
		f.n.truncate(size)
	}
	return err
}

func (f *fakeFile) Sync() error     { return f.n.sync(f.d, "sync") }
func (f *fakeFile) Datasync() error { return f.n.sync(f.d, "datasync") }

func (f *fakeFile) Size() (int64, error) { return int64(len(f.n.data)), f.d.readStep() }
func (f *fakeFile) Close() error         { return nil }
