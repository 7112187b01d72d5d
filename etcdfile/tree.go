package etcdfile

import (
	"bytes"
	"encoding/binary"
)

// maxDepth is far more levels than a tree of bbolt's has, whatever the size of its file.
const maxDepth = 64

// maxRead is how much of a tree is in memory at most: a page with its overflow on each level. bbolt divides a page as soon as it has more than four elements, so
// those of an etcd that takes requests of 200 MiB have room; etcd warns of more than 10 MiB, and its default is 1.5 MiB.
const maxRead = 1 << 30

// walk goes through trees of an image and proves them while it goes: references lead to pages of the right kind, to each page
// once, and keys ascend. So it ends whatever is in the file, and uses a page per level, but not more than limit, and a bit per page.
type walk struct {
	im     *image
	seen   []uint64 // a bit for each page
	levels []page   // a buffer for each level
	limit  int64    // of their bytes
}

func newWalk(im *image) *walk {
	return &walk{im: im, seen: make([]uint64, im.high/64+1), limit: maxRead}
}

// place is where a subtree is: its level, and that its keys are from lower on, and below upper unless that is nil.
type place struct {
	level        int
	lower, upper []byte
}

// tree calls visit for each element of a tree in the order of keys. What it gets is valid until it returns.
func (w *walk) tree(root uint64, visit func(element) error) error {
	return w.subtree(root, place{}, visit)
}

func (w *walk) subtree(id uint64, at place, visit func(element) error) error {
	p, err := w.read(id, at.level)
	if err != nil {
		return err
	}
	if p.flags() == leafFlag {
		return p.leaf(at, visit)
	}
	e, err := p.element(0, p.first())
	if err != nil {
		return err
	}
	for i := range p.count() {
		if err := at.check(e.key, p.id()); err != nil {
			return err
		}
		child, next := place{at.level + 1, e.key, at.upper}, element{}
		if i+1 < p.count() {
			if next, err = p.element(i+1, e.end); err != nil {
				return err
			}
			if bytes.Compare(e.key, next.key) >= 0 {
				return damaged("the keys of page %d do not ascend", p.id())
			}
			child.upper = next.key
		}
		if err := w.subtree(e.child, child, visit); err != nil {
			return err
		}
		e = next
	}
	return nil
}

// leaf visits the elements of a leaf. Only a root can have none, and then bbolt has left all behind its header zero.
func (p page) leaf(at place, visit func(element) error) error {
	if p.count() == 0 && (at.level > 0 || len(bytes.Trim(p[pageHeader:], "\x00")) > 0) {
		return damaged("page %d is empty", p.id())
	}
	var last []byte
	end := p.first()
	for i := range p.count() {
		e, err := p.element(i, end)
		if err != nil {
			return err
		}
		if err := at.check(e.key, p.id()); err != nil {
			return err
		}
		if i > 0 && bytes.Compare(last, e.key) >= 0 {
			return damaged("the keys of page %d do not ascend", p.id())
		}
		if err := visit(e); err != nil {
			return err
		}
		last, end = e.key, e.end
	}
	return nil
}

func (at place) check(key []byte, id uint64) error {
	if bytes.Compare(key, at.lower) < 0 || at.upper != nil && bytes.Compare(key, at.upper) >= 0 {
		return damaged("a key of page %d is not where it belongs", id)
	}
	return nil
}

// read reads a page with its overflow into the level's buffer. It refuses one that it was asked for before.
func (w *walk) read(id uint64, level int) (page, error) {
	if level == maxDepth {
		return nil, damaged("a tree of more than %d levels", maxDepth)
	}
	if level == len(w.levels) {
		w.levels = append(w.levels, make(page, w.im.pageSize))
	}
	if err := w.take(id, 1); err != nil {
		return nil, err
	}
	p := w.levels[level][:w.im.pageSize]
	if err := readAt(w.im.r, p, int64(id)*w.im.pageSize); err != nil {
		return nil, err
	}
	if p.id() != id {
		return nil, damaged("page %d says that it is page %d", id, p.id())
	}
	size := (1 + int64(p.overflow())) * w.im.pageSize
	if err := p.check(size); err != nil {
		return nil, err
	}
	if n := p.overflow(); n > 0 {
		if err := w.take(id+1, n); err != nil {
			return nil, err
		}
		if err := w.room(p, level, size); err != nil {
			return nil, err
		}
		if int64(cap(p)) < size {
			p = append(make(page, 0, size), p...)
		}
		p = p[:size]
		if err := readAt(w.im.r, p[w.im.pageSize:], int64(id+1)*w.im.pageSize); err != nil {
			return nil, err
		}
	}
	w.levels[level] = p
	return p, nil
}

// room refuses to read a page that has more overflow than its elements need, or more than there is to be in memory.
func (w *walk) room(p page, level int, size int64) error {
	var end uint64
	if n := p.count(); n > 0 {
		last, header := int64(pageHeader+(n-1)*elementHeader), make([]byte, elementHeader)
		if err := readAt(w.im.r, header, int64(p.id())*w.im.pageSize+last); err != nil {
			return err
		}
		end = uint64(last) + p.ends(header)
	}
	// Before its version 1.3.4 bbolt took one page more than it needed if that was filled.
	if end > uint64(size) || end < uint64(size-w.im.pageSize) {
		return damaged("page %d has %d bytes, and its elements end at %d", p.id(), size, end)
	}
	for i, other := range w.levels {
		if i != level {
			size += int64(cap(other))
		}
	}
	if size > w.limit {
		return damaged("page %d and those above it have %d bytes, more than is read", p.id(), size)
	}
	return nil
}

// take marks pages as seen.
func (w *walk) take(id, n uint64) error {
	if id < 2 || id >= w.im.high || n > w.im.high-id {
		return damaged("a reference to page %d of %d", id, w.im.high)
	}
	for ; n > 0; id, n = id+1, n-1 {
		if w.seen[id/64]&(1<<(id%64)) != 0 {
			return damaged("page %d belongs to two", id)
		}
		w.seen[id/64] |= 1 << (id % 64)
	}
	return nil
}

// bucket is where a bucket's elements are: a tree, or one page in the bucket's own value.
type bucket struct {
	name   string
	root   uint64
	inline page // if root is 0
}

// parseBucket takes a bucket out of the root tree.
func parseBucket(e element) (bucket, error) {
	b := bucket{name: string(e.key)}
	if !e.bucket || len(e.value) < bucketHeader {
		return b, damaged("%q is no bucket", e.key)
	}
	if b.root = binary.LittleEndian.Uint64(e.value); b.root != 0 {
		return b, nil
	}
	b.inline = bytes.Clone(e.value[bucketHeader:])
	if len(b.inline) < pageHeader || b.inline.flags() != leafFlag || b.inline.overflow() != 0 {
		return b, damaged("the bucket %q has no page", e.key)
	}
	return b, b.inline.check(int64(len(b.inline)))
}

// buckets finds all buckets, in the order of their names.
func (w *walk) buckets() (found []bucket, err error) {
	err = w.tree(w.im.root, func(e element) error {
		b, err := parseBucket(e)
		found = append(found, b)
		return err
	})
	return found, err
}

// elements visits what a bucket has. etcd's buckets have none in them.
func (w *walk) elements(b bucket, visit func(element) error) error {
	plain := func(e element) error {
		if e.bucket {
			return damaged("a bucket in the bucket %q", b.name)
		}
		return visit(e)
	}
	if b.root == 0 {
		return b.inline.leaf(place{}, plain)
	}
	return w.tree(b.root, plain)
}
