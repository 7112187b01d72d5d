package wal

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Open opens the log. What a crash may leave is put right, and all that is there then is on disk.
//
// Errors: ErrCorrupt, with the file and the offset, if the log is damaged; nothing in it was changed. fs.ErrNotExist if there is none. ErrNewer, ErrReadOnly,
// ErrNoSpace, an error of the file system.
func Open(o Options) (*WAL, error) {
	o = o.withDefaults()
	if err := settleNames(o); err != nil {
		return nil, err
	}
	r := &recovery{o: o, state: state{maxBytes: o.CacheBytes}}
	w, err := r.open()
	if err != nil {
		for _, s := range r.segments {
			err = errors.Join(err, s.release())
		}
		return nil, fmt.Errorf("open the Raft log: %w", classify(err))
	}
	return w, nil
}

// recovery reads a log that nobody has open.
type recovery struct {
	o        Options
	numbers  []uint64 // of the segments that are there
	temps    []string
	segments []*segment // those that count
	state    state

	frames []frame // of the last segment
	tail   tail
}

// tail is how the last segment ends.
type tail struct {
	end      int64  // behind the last valid frame
	seq      uint64 // the next one's sequence number
	unproven []byte // the last frames, those that nothing says are on disk
	garbage  int    // bytes behind the end that are not zero
}

func (r *recovery) open() (*WAL, error) {
	if err := r.list(); err != nil {
		return nil, err
	}
	last, err := r.readLast()
	if err != nil {
		return nil, err
	}
	if err := r.readOthers(last); err != nil {
		return nil, err
	}
	if err := r.replay(last, r.frames); err != nil {
		return nil, err
	}
	r.frames = nil
	if err := r.check(last); err != nil {
		return nil, err
	}
	return r.finish(last)
}

func (r *recovery) list() error {
	names, err := r.o.fs.list(r.o.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if n, ok := segmentNumber(name); ok {
			r.numbers = append(r.numbers, n)
		} else if strings.HasSuffix(name, segmentSuffix+tempSuffix) {
			r.temps = append(r.temps, name)
		}
	}
	if len(r.numbers) == 0 {
		return corrupt(r.o.Dir, 0, "there is no segment")
	}
	slices.Sort(r.numbers)
	return nil
}

// openSegment opens a segment and reads its header.
func (r *recovery) openSegment(number uint64) (*segment, error) {
	path := segmentPath(r.o.Dir, number)
	f, err := r.o.fs.open(path)
	if err != nil {
		return nil, err
	}
	b := make([]byte, fileHeader)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	h, err := decodeHeader(path, b[:n])
	if err == nil && h.number != number {
		err = corrupt(path, 0, fmt.Sprintf("this is segment %d", h.number))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newSegment(h, path, f), nil
}

// readLast reads the last segment: how the log ends, and all of its state but the entries.
func (r *recovery) readLast() (*segment, error) {
	s, err := r.openSegment(r.numbers[len(r.numbers)-1])
	if err != nil {
		return nil, err
	}
	r.segments = []*segment{s}
	data, err := readAll(s.f, nil)
	if err != nil {
		return nil, err
	}
	r.frames = s.scan(data, math.MaxUint64)
	if r.tail, err = findTail(s, data, r.frames); err != nil {
		return nil, err
	}
	for _, f := range r.frames {
		if err := r.state.learn(f.records); err != nil {
			return nil, corrupt(s.path, f.off, err.Error())
		}
	}
	if m := r.state.mark.segment; m == 0 || m > s.number {
		return nil, corrupt(s.path, fileHeader, "the segment has no valid mark")
	}
	return s, nil
}

// findTail judges how the last segment ends (W7).
func findTail(s *segment, data []byte, frames []frame) (tail, error) {
	t := tail{end: fileHeader, seq: s.first}
	proven := s.first - 1
	for _, f := range frames {
		t.end, t.seq, proven = f.end, f.seq+1, max(proven, f.proves())
	}
	if t.end < s.born {
		return t, corrupt(s.path, t.end, "the frame is not valid, and was on disk when the segment was made")
	}
	if f, ok := s.proof(data, t.end+frameAlign, t.seq); ok {
		return t, corrupt(s.path, t.end, fmt.Sprintf("the frame is not valid, and was on disk when the one at offset %d was written", f.off))
	}
	from := t.end
	for _, f := range slices.Backward(frames) {
		if f.seq <= proven || f.off < s.born {
			break
		}
		from = f.off
	}
	t.unproven = slices.Clone(data[from:t.end])
	for _, b := range data[t.end:] {
		if b != 0 {
			t.garbage++
		}
	}
	return t, nil
}

// readOthers reads the segments from the mark's to the last.
func (r *recovery) readOthers(last *segment) error {
	var others []*segment
	for n := r.state.mark.segment; n < last.number; n++ {
		if !slices.Contains(r.numbers, n) {
			return corrupt(segmentPath(r.o.Dir, n), 0, "the segment is missing")
		}
		s, err := r.openSegment(n)
		if err != nil {
			return err
		}
		others = append(others, s)
		r.segments = slices.Concat(others, []*segment{last})
	}
	var buf []byte
	for i, s := range others {
		until := r.segments[i+1].first
		var err error
		if buf, err = readAll(s.f, buf); err != nil {
			return err
		}
		frames := s.scan(buf, until)
		if n := s.first + uint64(len(frames)); n != until || len(frames) == 0 {
			return corrupt(s.path, endOf(frames), fmt.Sprintf("frame %d is not valid, and the next segment begins with %d", n, until))
		}
		if err := r.replay(s, frames); err != nil {
			return err
		}
	}
	return nil
}

func endOf(frames []frame) int64 {
	if len(frames) == 0 {
		return fileHeader
	}
	return frames[len(frames)-1].end
}

// learn takes in the records of a frame but the entries.
func (s *state) learn(records []byte) error {
	return eachRecord(records, func(kind byte, _ int, body []byte) error {
		switch kind {
		case recEntry:
			return nil
		case recHardState:
			s.hard = new(raftpb.HardState)
			return proto.Unmarshal(body, s.hard)
		case recSnapshot:
			s.snap = new(raftpb.Snapshot)
			return proto.Unmarshal(body, s.snap)
		case recMark:
			v, err := decodeNumbers(body)
			s.mark = mark{index: v[0], term: v[1], segment: v[2]}
			return err
		case recIdentity:
			v, err := decodeNumbers(body)
			s.id = Identity{Cluster: v[0], Member: v[1], Origin: v[2]}
			return err
		}
		return errRecord
	})
}

// replay takes in the entries of a segment, when the mark is known.
func (r *recovery) replay(s *segment, frames []frame) error {
	for i, f := range frames {
		err := eachRecord(f.records, func(kind byte, at int, body []byte) error {
			if kind != recEntry {
				return r.sameLog(i, kind, body)
			}
			e := new(raftpb.Entry)
			if err := proto.Unmarshal(body, e); err != nil {
				return err
			}
			r.state.put(e, newMeta(e, s.number, f.off+frameHeader+int64(at), body))
			return nil
		})
		if err != nil {
			return corrupt(s.path, f.off, err.Error())
		}
	}
	return nil
}

// sameLog checks the identity that a segment begins with.
func (r *recovery) sameLog(frame int, kind byte, body []byte) error {
	if kind != recIdentity || frame > 0 {
		return nil
	}
	v, err := decodeNumbers(body)
	if err == nil && (Identity{Cluster: v[0], Member: v[1], Origin: v[2]}) != r.state.id {
		err = errors.New("the segment is another member's")
	}
	return err
}

// check looks whether the state is one that raft can start from (W9).
func (r *recovery) check(last *segment) error {
	s := &r.state
	if s.gap {
		return corrupt(last.path, r.tail.end, fmt.Sprintf("entries are missing after %d", s.last()))
	}
	if !(s.mark.index <= s.snapIndex() && s.snapIndex() <= s.hard.GetCommit() && s.hard.GetCommit() <= s.last()) {
		return corrupt(last.path, r.tail.end, fmt.Sprintf("compacted to %d, snapshot at %d, committed to %d and ending at %d cannot be", s.mark.index, s.snapIndex(), s.hard.GetCommit(), s.last()))
	}
	return nil
}

// finish makes what was read durable (W4), removes what does not count, and gives the log. The next frame goes into a new segment (W5).
func (r *recovery) finish(last *segment) (*WAL, error) {
	t, o := r.tail, r.o
	if t.garbage > 0 {
		o.Logger.Info("the Raft log ends with a write that was not finished", "segment", last.path, "offset", t.end, "bytes", t.garbage)
	}
	if err := rewrite(last.f, t.unproven, t.end-int64(len(t.unproven))); err != nil {
		return nil, fmt.Errorf("write the end anew: %w", err)
	}
	if err := o.fs.syncDir(o.Dir); err != nil {
		return nil, fmt.Errorf("sync the directory: %w", err)
	}
	for _, name := range r.temps {
		if err := o.fs.remove(filepath.Join(o.Dir, name)); err != nil {
			o.Logger.Warn("deleting a segment that was not finished", "segment", name, "error", err)
		}
	}
	w := &WAL{o: o, current: last, seq: t.seq, end: t.end, synced: t.end, fresh: true, state: r.state, segments: r.segments}
	for _, n := range r.numbers {
		if n < r.state.mark.segment {
			w.garbage = append(w.garbage, n)
		}
	}
	w.collect()
	return w, nil
}
