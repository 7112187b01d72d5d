package migrate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// An etcd's database lags behind its write-ahead log: it is committed every 100 ms, and what is in between a restart finds in the log. An etcd that
// was stopped has committed everything, so its consistent index is that of the last entry of the log; after a kill it is not, and the database
// may lack what clients were told is done. That the last entries may be none that were agreed on does not matter: who cannot know has to ask.

// ErrBehind says that an etcd's write-ahead log has more than its database, or may have.
var ErrBehind = errors.New("the etcd's write-ahead log has more than its database")

// checkWAL refuses a data directory whose database lacks what is in the log.
func checkWAL(dir string, consistent uint64) error {
	const advice = "start etcd on it once more and stop it with SIGTERM, or name the endpoint of a member, or accept the loss with --ignore-wal"
	last, err := lastEntry(filepath.Join(dir, etcdWAL))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s to compare with (--wal-dir?): %s", ErrBehind, filepath.Join(dir, etcdWAL), advice)
	case err != nil:
		return err
	case last > consistent:
		return fmt.Errorf("%w: it ends at entry %d, and the database at %d: the etcd was killed, or had not caught up with the others: %s", ErrBehind, last, consistent, advice)
	}
	return nil
}

// lastEntry gives the index of the last entry in an etcd's write-ahead log, or of the last snapshot if that is greater.
func lastEntry(dir string) (uint64, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var files []string
	for _, n := range names {
		// Names begin with a number in hexadecimal, of one length.
		if strings.HasSuffix(n.Name(), ".wal") {
			files = append(files, n.Name())
		}
	}
	if len(files) == 0 {
		return 0, fmt.Errorf("%s: %w", dir, fs.ErrNotExist)
	}
	slices.Sort(files)
	var w walEnd
	for _, name := range files {
		if err := w.file(filepath.Join(dir, name)); err != nil {
			return 0, fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
		}
	}
	return max(w.entry, w.snapshot), nil
}

// walEnd is how far a log has been seen.
type walEnd struct{ entry, snapshot uint64 }

// Types of records (etcd's server/storage/wal).
const (
	walEntry    = 2
	walSnapshot = 5
)

// walHead is enough of a record to have what stands before an entry's data: a type, a checksum, and the entry's type, term and index.
const walHead = 64

// file reads the heads of all records in a file. What cannot be read is where a crash has cut it, or room that was reserved.
func (w *walEnd) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		var length uint64
		if err := binary.Read(r, binary.LittleEndian, &length); err != nil || length == 0 {
			return broken(err)
		}
		// The lower 56 bits are the length; the upper ones say how much padding follows.
		size := int64(length & (1<<56 - 1))
		if length>>63 == 1 {
			size += int64(length >> 56 & 7)
		}
		head := make([]byte, min(size, walHead))
		if _, err := io.ReadFull(r, head); err != nil {
			return broken(err)
		}
		w.record(head)
		if _, err := io.CopyN(io.Discard, r, size-int64(len(head))); err != nil {
			return broken(err)
		}
	}
}

// broken tells an end from a failure to read.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// record takes in a walpb.Record, of which there may be the beginning only.
func (w *walEnd) record(head []byte) {
	f := varints(head, 3)
	switch f.numbers[1] {
	case walEntry: // raftpb.Entry: 1 type, 2 term, 3 index, 4 data
		// An entry may stand in the place of one that was never agreed on.
		if e := varints(f.rest, 4); e.numbers[3] > 0 {
			w.entry = e.numbers[3]
		}
	case walSnapshot: // walpb.Snapshot: 1 index, 2 term
		w.snapshot = max(w.snapshot, varints(f.rest, 3).numbers[1])
	}
}

type fields struct {
	numbers [8]uint64
	rest    []byte // the field at which it stopped, as far as it is there
}

// varints reads the numbers before a field of bytes.
func varints(b []byte, stop protowire.Number) (f fields) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return f
		}
		b = b[n:]
		if number == stop && kind == protowire.BytesType {
			if _, n = protowire.ConsumeVarint(b); n > 0 {
				f.rest = b[n:]
			}
			return f
		}
		v, n := protowire.ConsumeVarint(b)
		if kind != protowire.VarintType || n < 0 || number >= protowire.Number(len(f.numbers)) {
			return f
		}
		f.numbers[number], b = v, b[n:]
	}
	return f
}
