package etcdfile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

// HashSize is the length of the sha256 behind a snapshot's database.
const HashSize = sha256.Size

// sector is what a database is a multiple of, whatever the size of its pages; so etcd tells a hash by the file's length.
const sector = 512

// hashed tells whether a file of this size has a hash behind its database.
func hashed(size int64) (bool, error) {
	switch size % sector {
	case 0:
		return false, nil
	case HashSize:
		return true, nil
	}
	return false, damaged("a length of %d bytes", size)
}

// Stream reads a database that has no hash, and behind it the sha256 of what it has read: together a snapshot.
type Stream struct {
	file *os.File
	size int64 // of the database
	left int64 // of it
	hash hash.Hash
	tail []byte // the hash, from the database's end on
}

// OpenStream begins to read a database, as Finish leaves it. The file may be unlinked from then on. Close ends it.
func OpenStream(path string) (*Stream, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("etcdfile: %w", err)
	}
	info, err := file.Stat()
	if err == nil {
		var has bool
		if has, err = hashed(info.Size()); has {
			err = fmt.Errorf("%w: %s has a hash already", ErrHash, path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Stream{file: file, size: info.Size(), left: info.Size(), hash: sha256.New()}, nil
}

// Size is the number of bytes to be read: the database's, and HashSize.
func (s *Stream) Size() int64 { return s.size + HashSize }

// Read reads on. A file that has become shorter is an error and never a shorter snapshot.
func (s *Stream) Read(b []byte) (int, error) {
	if s.left == 0 {
		return s.readTail(b)
	}
	n, err := s.file.Read(b[:min(int64(len(b)), s.left)])
	s.hash.Write(b[:n])
	if s.left -= int64(n); s.left == 0 {
		s.tail, err = s.hash.Sum(nil), nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Check goes through the whole database as Open does, and gives visit its rows in order, each valid during the call. It does not move what Read reads next.
func (s *Stream) Check(visit func(Row) error) (*Meta, error) {
	f := &File{}
	if err := f.load(s.file, s.size, Options{}); err != nil {
		return nil, fmt.Errorf("etcdfile: check %s: %w", s.file.Name(), err)
	}
	for row, err := range f.Rows() {
		if err == nil {
			err = visit(row)
		}
		if err != nil {
			return nil, err
		}
	}
	return f.Meta(), nil
}

func (s *Stream) readTail(b []byte) (int, error) {
	if len(s.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.tail)
	s.tail = s.tail[n:]
	return n, nil
}

// Close closes the file.
func (s *Stream) Close() error { return s.file.Close() }

// AppendHash makes a snapshot of a database in its place. The hash is durable on return; a file to which not all of it was appended is refused
// by its length.
func AppendHash(path string) (err error) {
	s, err := OpenStream(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := io.CopyN(io.Discard, s, s.size); err != nil {
		return fmt.Errorf("etcdfile: hash %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("etcdfile: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(s.tail); err != nil {
		return fmt.Errorf("etcdfile: append the hash: %w", err)
	}
	return file.Sync()
}

// verify reads a snapshot of this size once and compares its hash.
func verify(r io.ReaderAt, size int64) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r, 0, size-HashSize)); err != nil {
		return err
	}
	tail := make([]byte, HashSize)
	if err := readAt(r, tail, size-HashSize); err != nil {
		return err
	}
	if !bytes.Equal(sum.Sum(nil), tail) {
		return ErrHash
	}
	return nil
}

// syncDir makes durable that a file has its name.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// VerifyHash reads a snapshot to its end: ErrHash if the sha256 at its end is not that of what is before it, or there is none.
func VerifyHash(r io.Reader) error {
	sum, size := sha256.New(), int64(0)
	buf, kept := make([]byte, 1<<16), 0 // the last HashSize bytes are held back
	for {
		n, err := r.Read(buf[kept:])
		size += int64(n)
		if kept += n; kept > HashSize {
			sum.Write(buf[:kept-HashSize])
			kept = copy(buf, buf[kept-HashSize:kept])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if ok, err := hashed(size); err != nil || !ok || !bytes.Equal(buf[:kept], sum.Sum(nil)) {
		return ErrHash
	}
	return nil
}
