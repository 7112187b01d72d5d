package etcdfile

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
)

// bbolt's format, version 2. Numbers are little-endian on all that etcd runs on.
const (
	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	elementHeader = 16 // leaf: flags 4, position 4, sizes of key and value 4 each; branch: position 4, size 4, page 8
	bucketHeader  = 16 // root page 8, sequence 8

	branchFlag = 0x01
	leafFlag   = 0x02
	metaFlag   = 0x04
	bucketFlag = 0x01 // of a leaf's element

	maxPageSize = 64 << 10 // the greatest of the systems that etcd runs on, whose it takes

	magic         = 0xED0CDAED
	formatVersion = 2
	metaSummed    = 56 // bytes of a meta under its checksum
	metaSize      = metaSummed + 8
)

// page is a page with those that overflow from it, or the page inside of an inline bucket.
type page []byte

func (p page) id() uint64       { return binary.LittleEndian.Uint64(p) }
func (p page) flags() uint16    { return binary.LittleEndian.Uint16(p[8:]) }
func (p page) count() int       { return int(binary.LittleEndian.Uint16(p[10:])) }
func (p page) overflow() uint64 { return uint64(binary.LittleEndian.Uint32(p[12:])) }

// element is one of a leaf or a branch. Its bytes are the page's.
type element struct {
	key, value []byte
	bucket     bool   // leaf: the value is a bucket
	child      uint64 // branch: the page with the keys from this one on
	end        uint64 // where its bytes end in the page
}

// ends tells where the bytes of an element end, counted from its header.
func (p page) ends(header []byte) uint64 {
	n := uint64(binary.LittleEndian.Uint32(header)) + uint64(binary.LittleEndian.Uint32(header[4:])) // of a branch: position and key
	if p.flags() == leafFlag {
		n = uint64(binary.LittleEndian.Uint32(header[4:])) + uint64(binary.LittleEndian.Uint32(header[8:])) + uint64(binary.LittleEndian.Uint32(header[12:]))
	}
	return n
}

// element gives the i-th of a page whose header was checked. Its bytes begin at from: bbolt leaves no gaps.
func (p page) element(i int, from uint64) (e element, err error) {
	at := pageHeader + i*elementHeader
	var pos, key, value uint64
	if h := p[at:]; p.flags() == leafFlag {
		e.bucket = binary.LittleEndian.Uint32(h) == bucketFlag
		if flags := binary.LittleEndian.Uint32(h); flags&^bucketFlag != 0 {
			return e, damaged("flags %x in page %d", flags, p.id())
		}
		pos, key, value = uint64(binary.LittleEndian.Uint32(h[4:])), uint64(binary.LittleEndian.Uint32(h[8:])), uint64(binary.LittleEndian.Uint32(h[12:]))
	} else {
		pos, key, e.child = uint64(binary.LittleEndian.Uint32(h)), uint64(binary.LittleEndian.Uint32(h[4:])), binary.LittleEndian.Uint64(h[8:])
	}
	pos += uint64(at) // a position counts from the element's header
	e.end = pos + key + value
	if key == 0 || pos != from || e.end > uint64(len(p)) {
		return e, damaged("element %d of page %d is not where it belongs", i, p.id())
	}
	e.key, e.value = p[pos:pos+key:pos+key], p[pos+key:e.end:e.end]
	return e, nil
}

// first is where the bytes of the first element begin.
func (p page) first() uint64 { return uint64(pageHeader + p.count()*elementHeader) }

// check says whether a leaf or branch with this many bytes can have as many elements as it says.
func (p page) check(size int64) error {
	if f := p.flags(); f != leafFlag && f != branchFlag {
		return damaged("page %d is of kind %x", p.id(), f)
	}
	if p.flags() == branchFlag && p.count() == 0 || int64(p.first()) > size {
		return damaged("page %d has %d elements", p.id(), p.count())
	}
	return nil
}

// image is the state that a database file is in: what its newest transaction has left.
type image struct {
	r        io.ReaderAt
	pageSize int64
	root     uint64 // page of the bucket that has all others
	high     uint64 // pages there are
}

// header is what a meta page says.
type header struct {
	pageSize         int64
	root, high, txid uint64
}

// openImage reads the meta pages of a database with this many bytes.
func openImage(r io.ReaderAt, size int64) (*image, error) {
	first, err := readHeader(r, 0)
	if err != nil {
		return nil, err
	}
	second, err := readHeader(r, first.pageSize)
	if err != nil {
		return nil, err
	}
	if second.pageSize != first.pageSize {
		return nil, damaged("pages of %d and of %d bytes", first.pageSize, second.pageSize)
	}
	h := first
	if second.txid > first.txid {
		h = second
	}
	im := &image{r, h.pageSize, h.root, h.high}
	if im.high > uint64(size/im.pageSize) {
		return nil, damaged("%d bytes of %d pages with %d bytes each", size, im.high, im.pageSize)
	}
	return im, nil
}

// size is the number of bytes that the pages have.
func (im *image) size() int64 { return int64(im.high) * im.pageSize }

func readHeader(r io.ReaderAt, at int64) (h header, err error) {
	p := make(page, pageHeader+metaSize)
	if err := readAt(r, p, at); err != nil {
		return h, err
	}
	m := p[pageHeader:]
	sum := fnv.New64a()
	sum.Write(m[:metaSummed])
	switch {
	case binary.LittleEndian.Uint32(m) != magic || p.flags() != metaFlag:
		return h, damaged("no bbolt database")
	case binary.LittleEndian.Uint32(m[4:]) != formatVersion:
		return h, damaged("bbolt's format %d", binary.LittleEndian.Uint32(m[4:]))
	case binary.LittleEndian.Uint64(m[metaSummed:]) != sum.Sum64():
		return h, damaged("a meta page with a wrong checksum")
	}
	h.pageSize = int64(binary.LittleEndian.Uint32(m[8:]))
	h.root, h.high, h.txid = binary.LittleEndian.Uint64(m[16:]), binary.LittleEndian.Uint64(m[40:]), binary.LittleEndian.Uint64(m[48:])
	if h.pageSize < 512 || h.pageSize > maxPageSize || h.pageSize&(h.pageSize-1) != 0 {
		return h, damaged("pages of %d bytes", h.pageSize)
	}
	return h, nil
}

// readAt fills b. A file that ends before is damaged.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return damaged("the file ends at %d", at+int64(n))
	}
	return err
}
