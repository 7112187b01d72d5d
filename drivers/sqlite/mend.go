package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/keelson-io/keelson/drivers"
)

// mendRounds is how often mend tries: an error that has been told on another
// descriptor of the file is told once more on this one.
const mendRounds = 2

// mend makes good a failed fsync. Pages that could not be written count as
// clean from then on, so that another fsync would succeed without them. But the
// write-ahead log has them all still: they are written to the database file once more, and only if it can be
// synced then are they known to be there. Called with the token held, so that the
// write-ahead log does not begin anew meanwhile.
func (k *checkpointer) mend() error {
	if !k.suspect.Load() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for range mendRounds {
		if err = k.mendLocked(); err == nil {
			k.suspect.Store(false)
			return nil
		}
	}
	return fmt.Errorf("%w and cannot be written again from the write-ahead log, nothing acknowledged is lost: %w", errSync, classify(err))
}

func (k *checkpointer) mendLocked() error {
	p, err := k.ask("PRAGMA wal_checkpoint(NOOP)")
	if err != nil {
		return err
	}
	if p.copied > 0 {
		if err := k.copyAgain(p.copied); err != nil {
			return err
		}
	}
	return k.file.Sync()
}

// destroyTail makes sure that no recovery finds transactions in the write-ahead log
// beyond the last one which was committed. Each frame's checksum
// covers those before it, so without the first of them none is found. But the next transaction may begin with the very same pages, and
// a crash in the middle of it would leave a chain that leads on into the old one: so what comes after is cut off, too.
// Nothing is allocated, so this works on a full disk. Called with the token held.
func (k *checkpointer) destroyTail() (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, err := k.ask("PRAGMA wal_checkpoint(NOOP)")
	if err != nil {
		return err
	}
	wal, err := k.openWAL()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	info, err := wal.Stat()
	if err != nil {
		return err
	}
	offset := k.frameOffset(p.frames)
	if info.Size() > offset {
		// A page number of 0 ends a recovery.
		if _, err := wal.WriteAt(make([]byte, min(frameHeader, info.Size()-offset)), offset); err != nil {
			return err
		}
	}
	if info.Size() > offset+frameHeader {
		if err := wal.Truncate(offset + frameHeader); err != nil {
			return err
		}
	}
	return wal.Sync()
}

// walFile is how the write-ahead log is reached past SQLite, which has no locks on that file that a
// close could drop.
type walFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

const (
	walHeaderSize = 32
	// walSalts is where the two salts are in the header of the log, and frameSalts in that of
	// a frame, which begins with the page's number and the size of the database.
	walSalts   = 16
	frameSalts = 8
	saltsSize  = 8
)

// copyAgain writes the newest version of each page in the first n frames, which SQLite has
// copied already. The readers that go on beside it see the same bytes as before.
func (k *checkpointer) copyAgain(n int64) (err error) {
	wal, err := k.openWAL()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	frames, err := k.newestFrames(wal, n)
	if err != nil {
		return err
	}
	page := make([]byte, k.pageSize)
	for number, frame := range frames {
		if _, err := wal.ReadAt(page, k.frameOffset(frame)+frameHeader); err != nil {
			return err
		}
		if _, err := k.file.WriteAt(page, int64(number-1)*k.pageSize); err != nil {
			return err
		}
	}
	return nil
}

func (k *checkpointer) frameOffset(frame int64) int64 {
	return walHeaderSize + frame*(frameHeader+k.pageSize)
}

// newestFrames gives for each page in the first n frames the last frame that has
// it. Pages that lie beyond the end which the database has by then are left out.
func (k *checkpointer) newestFrames(wal walFile, n int64) (map[uint32]int64, error) {
	var header [walHeaderSize]byte
	if _, err := wal.ReadAt(header[:], 0); err != nil {
		return nil, err
	}
	frames := make(map[uint32]int64)
	pages := uint32(0)
	for i := range n {
		var h [frameHeader]byte
		if _, err := wal.ReadAt(h[:], k.frameOffset(i)); err != nil {
			return nil, err
		}
		if string(h[frameSalts:frameSalts+saltsSize]) != string(header[walSalts:walSalts+saltsSize]) {
			return nil, fmt.Errorf("%w: frame %d of the write-ahead log is not of it", drivers.ErrCorrupt, i+1)
		}
		frames[binary.BigEndian.Uint32(h[:])] = i
		pages = binary.BigEndian.Uint32(h[4:])
	}
	if pages == 0 {
		return nil, fmt.Errorf("%w: frame %d of the write-ahead log does not end a transaction", drivers.ErrCorrupt, n)
	}
	for number := range frames {
		if number > pages {
			delete(frames, number)
		}
	}
	return frames, nil
}
