package wal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
)

// withReserve is the size of a segment with the room behind SegmentBytes that only marks and snapshots may take: so compaction, which makes
// room on a full disk, needs none itself but in the rarest case.
func (o Options) withReserve() int64 { return o.SegmentBytes + min(64<<10, o.SegmentBytes/4) }

// segment is an open segment. Readers hold it open while they read.
type segment struct {
	header
	path string
	f    file
	refs atomic.Int64
}

func newSegment(h header, path string, f file) *segment {
	s := &segment{header: h, path: path, f: f}
	s.refs.Store(1)
	return s
}

func (s *segment) acquire() { s.refs.Add(1) }

func (s *segment) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	return s.f.Close()
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, segmentSuffix))
}

func segmentNumber(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil && filepath.Base(segmentPath("", n)) == name
}

// image is a segment as it is made: with a head, and the frame that wanted it, if there is one.
type image struct {
	header
	bytes  []byte
	frames uint64
	metas  []meta
}

func newImage(number, first uint64, head, body *batch) (image, error) {
	im := image{header: header{number: number, first: first, seal: randomSeal()}, bytes: make([]byte, fileHeader)}
	for _, b := range []*batch{head, body} {
		if b == nil {
			continue
		}
		at := len(im.bytes)
		var err error
		im.bytes, im.metas, err = b.append(im.seal.open(im.bytes), im.metas, number, 0)
		if err != nil {
			return im, err
		}
		im.bytes = im.seal.close(im.bytes, at, first+im.frames, uint32(im.frames))
		im.frames++
	}
	im.born = int64(len(im.bytes))
	copy(im.bytes, im.header.append(nil))
	return im, nil
}

// errUnsettled: a segment could not be made, and it is not known whether it is there after a crash.
var errUnsettled = errors.New("what was begun could not be undone")

// make makes the segment, durably (W6). After an error there is none, also after a crash, unless the error is errUnsettled.
func (im image) make(fsys fsys, dir string, allocate int64) (*segment, error) {
	path := segmentPath(dir, im.number)
	temp := path + tempSuffix
	f, err := im.write(fsys, temp, allocate)
	if err != nil {
		_ = fsys.remove(temp) // the next one writes over it, Open deletes it
		return nil, err
	}
	if err = fsys.rename(temp, path); err == nil {
		err = fsys.syncDir(dir)
	}
	if err == nil {
		return newSegment(im.header, path, f), nil
	}
	_ = f.Close()
	if uerr := unmake(fsys, dir, path, temp); uerr != nil {
		return nil, fmt.Errorf("%w: %w", errUnsettled, errors.Join(err, uerr))
	}
	return nil, err
}

func (im image) write(fsys fsys, temp string, allocate int64) (file, error) {
	f, err := fsys.create(temp)
	if err != nil {
		return nil, err
	}
	err = f.Allocate(allocate)
	if err != nil && isNoSpace(err) {
		// What is to be written now may find room all the same.
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(im.bytes, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unmake sees to it that a segment whose making failed is not there, durably.
func unmake(fsys fsys, dir, path, temp string) error {
	_ = fsys.remove(temp) // renamed, or deleted by Open
	there, err := fsys.exists(path)
	if err == nil && there {
		err = fsys.remove(path)
	}
	if err != nil {
		return err
	}
	return fsys.syncDir(dir)
}

// readAll reads a whole segment into buf, or another one if that is too small.
func readAll(f file, buf []byte) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return buf, err
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if n, err := f.ReadAt(buf, 0); err != nil && (!errors.Is(err, io.EOF) || int64(n) < size) {
		return buf, err
	}
	return buf, nil
}
