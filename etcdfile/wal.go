package etcdfile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// WAL is what an etcd's write-ahead log says of its member.
//
// An etcd's database lags behind that log: it is committed every 100 ms, and what is in between a restart finds in the log. An etcd that was
// stopped has committed everything, so Meta.Index is Last; after a kill it is not, and the database
// may lack what clients were told is done. The last entries may also be none that were agreed on: who has only this log cannot know.
type WAL struct {
	Member  uint64 // whose log it is
	Cluster uint64
	Last    uint64 // the index of the last entry, or of the last snapshot if that is greater
}

// ErrWAL means that a write-ahead log is not whole: a file is missing or empty, or was altered.
var ErrWAL = errors.New("etcdfile: no whole write-ahead log")

// ReadWAL reads the directory of an etcd's write-ahead log: every record is checked as etcd does it (server/storage/wal). Where a crash has cut the last
// record it ends. fs.ErrNotExist if there is no log, and ErrWAL if it is not whole.
func ReadWAL(dir string) (WAL, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return WAL{}, err
	}
	var files []string
	for _, n := range names {
		// Names begin with a number in hexadecimal, of one length.
		if strings.HasSuffix(n.Name(), ".wal") {
			files = append(files, n.Name())
		}
	}
	if len(files) == 0 {
		return WAL{}, fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	slices.Sort(files)
	var r walReader
	for i, name := range files {
		r.last = i == len(files)-1
		if err := r.read(dir, name, uint64(i)); err != nil {
			return WAL{}, fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
		}
	}
	r.wal.Last = max(r.entry, r.snapshot)
	return r.wal, nil
}

// walReader is how far a log has been read.
type walReader struct {
	wal             WAL
	first           uint64 // the number of the first file
	last            bool   // no file follows
	named           bool   // this file has said whose it is
	crc             uint32 // of all records' data so far
	entry, snapshot uint64
}

// Types of records.
const (
	walMetadata = 1 + iota
	walEntry
	walState
	walCRC
	walSnapshot
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r *walReader) read(dir, name string, n uint64) error {
	var seq, index uint64
	if _, err := fmt.Sscanf(name, "%016x-%016x.wal", &seq, &index); err != nil {
		return fmt.Errorf("%w: a name that etcd does not give", ErrWAL)
	}
	if n == 0 {
		r.first = seq
	}
	if seq != r.first+n {
		return fmt.Errorf("%w: the file before it is missing", ErrWAL)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r.named = false
	err = r.records(bufio.NewReaderSize(f, 1<<16), info.Size())
	if errors.Is(err, io.ErrUnexpectedEOF) && r.last {
		err = nil // a record that was never whole
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the file is cut", ErrWAL)
	}
	if err == nil && !r.named {
		return fmt.Errorf("%w: the file does not say whose it is", ErrWAL)
	}
	return err
}

// records reads those of a file up to its end, or to room that was reserved.
func (r *walReader) records(in io.Reader, left int64) error {
	var data []byte
	for {
		var length uint64
		switch err := binary.Read(in, binary.LittleEndian, &length); {
		case errors.Is(err, io.EOF) || err == nil && length == 0:
			return nil
		case err != nil:
			return err
		}
		// The lower 56 bits are the length; the upper ones say how much padding follows.
		size, padding := int64(length&(1<<56-1)), int64(0)
		if length>>63 == 1 {
			padding = int64(length >> 56 & 7)
		}
		if left -= 8; size > left-padding {
			return io.ErrUnexpectedEOF
		}
		left -= size + padding
		if int64(cap(data)) < size+padding {
			data = make([]byte, size+padding)
		}
		data = data[:size+padding]
		if _, err := io.ReadFull(in, data); err != nil {
			return midRecord(err)
		}
		if err := r.record(data[:size]); err != nil {
			return err
		}
	}
}

// midRecord gives an end within a record as what it is.
func midRecord(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// record takes in a walpb.Record: 1 type, 2 crc, 3 data.
func (r *walReader) record(b []byte) error {
	numbers, data, ok := numbersAndBytes(b, 3)
	if !ok {
		return fmt.Errorf("%w: a record that is none", ErrWAL)
	}
	kind, crc := numbers[1], uint32(numbers[2])
	if kind == walCRC {
		if r.crc != 0 && r.crc != crc {
			return fmt.Errorf("%w: a checksum is not that of the records before it", ErrWAL)
		}
		r.crc = crc
		return nil
	}
	if r.crc = crc32.Update(r.crc, castagnoli, data); r.crc != crc {
		return fmt.Errorf("%w: a checksum is not that of its record", ErrWAL)
	}
	switch kind {
	case walMetadata: // etcdserverpb.Metadata: 1 NodeID, 2 ClusterID
		m, _, ok := numbersAndBytes(data, 3)
		if !ok || m[1] == 0 || r.wal.Member != 0 && (r.wal.Member != m[1] || r.wal.Cluster != m[2]) {
			return fmt.Errorf("%w: it is of no member, or of two", ErrWAL)
		}
		r.named, r.wal.Member, r.wal.Cluster = true, m[1], m[2]
	case walEntry: // raftpb.Entry: 1 type, 2 term, 3 index, 4 data
		e, _, ok := numbersAndBytes(data, 4)
		if !ok {
			return fmt.Errorf("%w: an entry that is none", ErrWAL)
		}
		r.entry = e[3] // it may stand in the place of one that was never agreed on
	case walSnapshot: // walpb.Snapshot: 1 index, 2 term
		s, _, ok := numbersAndBytes(data, 3)
		if !ok {
			return fmt.Errorf("%w: a snapshot's record that is none", ErrWAL)
		}
		r.snapshot = max(r.snapshot, s[1])
	}
	return nil
}

// numbersAndBytes gives the numbers of a message by their fields, up to 7, and the bytes of one field.
func numbersAndBytes(b []byte, bytes protowire.Number) (numbers [8]uint64, value []byte, ok bool) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return numbers, nil, false
		}
		b = b[n:]
		switch {
		case kind == protowire.VarintType && field < protowire.Number(len(numbers)):
			numbers[field], n = protowire.ConsumeVarint(b)
		case kind == protowire.BytesType && field == bytes:
			value, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(field, kind, b)
		}
		if n < 0 {
			return numbers, nil, false
		}
		b = b[n:]
	}
	return numbers, value, true
}
