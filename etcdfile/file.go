package etcdfile

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"syscall"
)

// Options say how a file is opened.
type Options struct {
	// SkipHash leaves the sha256 unread, if there is one. The structure is checked all the same.
	SkipHash bool
}

// File is a database file, open for reading. It was found to be whole.
type File struct {
	file    *os.File
	image   *image
	hashed  bool
	buckets []bucket
	meta    Meta

	// What a compaction that was scheduled and not finished will have freed up to compacting is left out. kept is nil without one.
	compacting int64
	kept       map[Revision]struct{}
}

// Open opens a snapshot or a database and goes through all of it: once for the hash, if there is one, once for the structure and the rows, and once more if a
// compaction is to be finished. It uses memory for all that Meta has, for a page with its overflow on each
// level of a tree (1 GiB at most, or the file is refused), for a bit per page and in the last case for the keys.
func Open(path string, opts Options) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("etcdfile: %w", err)
	}
	f := &File{file: file}
	size, err := lock(file)
	if err == nil {
		err = f.load(file, size, opts)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("etcdfile: open %s: %w", path, err), file.Close())
	}
	return f, nil
}

// Of is Open of a file that the caller has open to read, and keeps others from writing to. Close closes it; after an error it stays open.
func Of(file *os.File, opts Options) (*File, error) {
	f := &File{file: file}
	info, err := file.Stat()
	if err == nil {
		err = f.load(file, info.Size(), opts)
	}
	if err != nil {
		return nil, fmt.Errorf("etcdfile: %s: %w", file.Name(), err)
	}
	return f, nil
}

// lock keeps bbolt from writing to a file as long as that is open, and gives its size.
func lock(file *os.File) (size int64, err error) {
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return 0, ErrInUse
		}
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Hashed tells whether the file has a hash, as a snapshot does and a member's database does not.
func (f *File) Hashed() bool { return f.hashed }

// Meta is what the file has beside its rows. It is the File's own: the caller does not change it.
func (f *File) Meta() *Meta { return &f.meta }

// load finds out what a file of this size has.
func (f *File) load(r io.ReaderAt, size int64, opts Options) (err error) {
	if f.hashed, err = hashed(size); err != nil {
		return err
	}
	if f.hashed && !opts.SkipHash {
		if err := verify(r, size); err != nil {
			return err
		}
	}
	if f.hashed {
		size -= HashSize
	}
	if f.image, err = openImage(r, size); err != nil {
		return err
	}
	s, err := f.scan()
	if err != nil {
		return err
	}
	return f.settle(s)
}

// scan goes through all buckets.
func (f *File) scan() (*state, error) {
	s, w := newState(), newWalk(f.image)
	var err error
	if f.buckets, err = w.buckets(); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, b := range f.buckets {
		names[b.name] = true
		if b.name == keyBucket {
			err = w.rows(b, func(row Row, _ []byte) error {
				s.last = row.Main
				return nil
			})
		} else {
			err = w.elements(b, func(e element) error { return s.take(b.name, e) })
		}
		if err != nil {
			return nil, err
		}
	}
	// etcd makes both at its first start.
	if !names[keyBucket] || !names[metaBucket] {
		return nil, damaged("a bbolt database, but not of etcd, or unfinished")
	}
	return s, nil
}

// settle brings the file to where etcd will be when it has started.
func (f *File) settle(s *state) error {
	f.meta = s.meta
	m := &f.meta
	m.Revision = max(1, s.last, m.Compact, s.scheduled)
	if s.scheduled == 0 || s.scheduled <= m.Compact {
		return nil
	}
	f.compacting, m.Compact = s.scheduled, s.scheduled
	c := newCompaction(f.compacting)
	err := f.each(func(row Row, key []byte) error {
		c.add(row, key)
		return nil
	})
	f.kept = c.kept()
	return err
}

// Rows gives the rows in ascending order of their revisions. A row's bytes are valid until the next one. An error is the
// last that comes: then the file cannot be read any more, or is no longer what was opened.
func (f *File) Rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		stopped := errors.New("stopped")
		err := f.each(func(row Row, _ []byte) error {
			if row.Main <= f.compacting {
				if _, ok := f.kept[row.Revision]; !ok {
					return nil
				}
			}
			if !yield(row, nil) {
				return stopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, stopped) {
			yield(Row{}, fmt.Errorf("etcdfile: read: %w", err))
		}
	}
}

// each visits all rows there are, with the keys that they change.
func (f *File) each(visit func(row Row, key []byte) error) error {
	for _, b := range f.buckets {
		if b.name == keyBucket {
			return newWalk(f.image).rows(b, visit)
		}
	}
	return nil
}

// rows visits the rows of the key bucket.
func (w *walk) rows(b bucket, visit func(row Row, key []byte) error) error {
	var last Revision
	return w.elements(b, func(e element) error {
		row, key, err := parseRow(e.key, e.value)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		// Keys ascend, but a change and a tombstone may be of the same revision.
		if row.Compare(last) <= 0 {
			return damaged("two rows of revision %v", row.Revision)
		}
		last = row.Revision
		return visit(row, key)
	})
}
