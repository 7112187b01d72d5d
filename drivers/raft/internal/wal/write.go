package wal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// maxPending is how much is written without a sync at most: it is kept in memory to be written anew.
const maxPending = 1 << 20

// write writes a frame and gives the places of the batch's entries, until the next write. room is how much of
// a segment it may use. After an error the frame is not in the log (W3).
func (w *WAL) write(b *batch, sync bool, room int64) ([]meta, error) {
	size := b.size()
	if size > maxRecords {
		return nil, fmt.Errorf("%d bytes are too much for one write to the Raft log, the most is %d", size, uint64(maxRecords))
	}
	if w.fresh || w.end+frameSize(size) > room {
		if err := w.syncPending(); err != nil {
			return nil, err
		}
		im, err := newImage(w.current.number+1, w.seq, w.state.head(), b)
		if err != nil {
			return nil, err
		}
		return im.metas, w.rotate(im)
	}
	return w.append(b, sync)
}

// append writes a frame to the current segment.
func (w *WAL) append(b *batch, sync bool) ([]meta, error) {
	start := len(w.pending)
	buf, metas, err := b.append(w.current.seal.open(w.pending), w.metas[:0], w.current.number, w.synced)
	w.metas = metas
	if err != nil {
		w.pending = buf[:start]
		return nil, err
	}
	buf = w.current.seal.close(buf, start, w.seq, w.unproven)
	w.pending = buf
	if _, err := w.current.f.WriteAt(buf[start:], w.end); err != nil {
		return nil, w.settle(fmt.Errorf("write to the Raft log: %w", err))
	}
	if sync || len(buf) > maxPending {
		if err := w.datasync(); err != nil {
			return nil, w.settle(fmt.Errorf("sync the Raft log: %w", err))
		}
	}
	w.end += int64(len(buf) - start)
	w.seq++
	w.unproven++
	if sync || len(buf) > maxPending {
		w.proven()
	}
	return metas, nil
}

// datasync brings what was written to the current segment to disk.
func (w *WAL) datasync() error {
	start := time.Now()
	err := w.current.f.Datasync()
	w.o.Synced(time.Since(start))
	return err
}

// proven notes that all that was written is on disk.
func (w *WAL) proven() {
	w.synced, w.unproven, w.pending = w.end, 0, w.pending[:0]
	if cap(w.pending) > maxPending {
		w.pending = nil
	}
}

// syncPending syncs what was written without.
func (w *WAL) syncPending() error {
	if w.unproven == 0 {
		return nil
	}
	if err := w.datasync(); err != nil {
		return w.settle(fmt.Errorf("sync the Raft log: %w", err))
	}
	w.proven()
	return nil
}

// settle puts the log back to how it was before a write or an fsync that failed, and gives the error to return. What is behind the last
// good frame is cut off; the good ones that were not proven are written anew, since the failed fsync may have given them
// up (W4); all of it is synced. Then the call has certainly failed. If this fails too, it is not known what a crash or another fsync
// makes of it, and the log is broken.
//
// The next frame goes into a new segment all the same: this one has lost its preallocated room, and if the cut comes back it must not matter (W5).
func (w *WAL) settle(cause error) error {
	w.pending = w.pending[:w.end-w.synced]
	if err := rewrite(w.current.f, w.pending, w.synced); err != nil {
		w.broken = fmt.Errorf("%w: %w", ErrBroken, errors.Join(cause, err))
		return fmt.Errorf("%w: %w", drivers.ErrUncertain, errors.Join(cause, err))
	}
	w.o.Logger.Warn("a write to the Raft log failed and was undone", "segment", w.current.path, "offset", w.end, "error", cause)
	w.proven()
	w.fresh = true
	return classify(cause)
}

// rewrite makes what a segment has from an offset on be these bytes and nothing else, durably.
func rewrite(f file, b []byte, off int64) error {
	if err := f.Truncate(off + int64(len(b))); err != nil {
		return err
	}
	if len(b) > 0 {
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// rotate makes a segment and goes on in it. All that counts of the current one was synced.
func (w *WAL) rotate(im image) error {
	s, err := im.make(w.o.fs, w.o.Dir, max(w.o.withReserve(), im.born))
	if err != nil {
		err = fmt.Errorf("make a segment of the Raft log: %w", err)
		if errors.Is(err, errUnsettled) {
			w.broken = fmt.Errorf("%w: %w", ErrBroken, err)
			return fmt.Errorf("%w: %w", drivers.ErrUncertain, err)
		}
		return classify(err)
	}
	if !w.fresh {
		// What was preallocated and not used. It does not matter what becomes of it (W5).
		_ = w.current.f.Truncate(w.end)
	}
	w.mu.Lock()
	w.segments = append(w.segments, s)
	w.mu.Unlock()
	w.current, w.fresh = s, false
	w.seq += im.frames
	w.end = im.born
	w.unproven = 0
	w.proven()
	return nil
}

// dropBefore deletes the segments before a number, which a mark on disk does not need (W8).
func (w *WAL) dropBefore(number uint64) {
	w.mu.Lock()
	n := 0
	for ; w.segments[n].number < number; n++ {
		w.garbage = append(w.garbage, w.segments[n].number)
	}
	old := slices.Clone(w.segments[:n])
	w.segments = slices.Clone(w.segments[n:])
	w.mu.Unlock()
	for _, s := range old {
		if err := s.release(); err != nil {
			w.o.Logger.Warn("closing a segment of the Raft log", "segment", s.path, "error", err)
		}
	}
	w.collect()
}

// collect deletes what can be deleted; the rest the next time, or at Open.
func (w *WAL) collect() {
	w.garbage = slices.DeleteFunc(w.garbage, func(number uint64) bool {
		path := segmentPath(w.o.Dir, number)
		there, err := w.o.fs.exists(path)
		if err == nil && there {
			err = w.o.fs.remove(path)
		}
		if err != nil {
			w.o.Logger.Warn("deleting a segment of the Raft log", "segment", path, "error", err)
		}
		return err == nil
	})
}
