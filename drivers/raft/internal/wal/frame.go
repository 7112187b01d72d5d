package wal

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/keelson-io/keelson/drivers"
)

const (
	fileMagic   = "keelraft"
	fileVersion = 1
	// fileHeader is the length of a segment's header: magic 8, CRC 4, version 4, salt 8, number 8, first sequence number 8, born 8.
	fileHeader = 48
	// frameHeader is the length of a frame's: magic 4, CRC 4, length of the records 4, unproven frames before it 4, sequence number 8.
	frameHeader = 24
	frameAlign  = 8
	// maxRecords is what the records of a frame may take.
	maxRecords = math.MaxUint32 - frameAlign
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a segment's file header says.
type header struct {
	number uint64
	first  uint64 // sequence number of its first frame
	born   int64  // what was synced before the segment had its name
	seal   seal
}

func (h header) append(buf []byte) []byte {
	at := len(buf)
	buf = append(buf, fileMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	buf = binary.LittleEndian.AppendUint32(buf, fileVersion)
	buf = binary.LittleEndian.AppendUint64(buf, h.seal.salt)
	buf = binary.LittleEndian.AppendUint64(buf, h.number)
	buf = binary.LittleEndian.AppendUint64(buf, h.first)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(h.born))
	binary.LittleEndian.PutUint32(buf[at+8:], crc32.Checksum(buf[at+12:], castagnoli))
	return buf
}

// decodeHeader reads the header at the beginning of a segment. The CRC is where it is in every version.
func decodeHeader(path string, b []byte) (header, error) {
	if len(b) < fileHeader {
		return header{}, corrupt(path, 0, "the segment has no header")
	}
	b = b[:fileHeader]
	if string(b[:8]) != fileMagic || binary.LittleEndian.Uint32(b[8:]) != crc32.Checksum(b[12:], castagnoli) {
		return header{}, corrupt(path, 0, "the segment's header is not valid")
	}
	if v := binary.LittleEndian.Uint32(b[12:]); v != fileVersion {
		return header{}, fmt.Errorf("%w: %s has version %d, this server knows %d", drivers.ErrNewer, path, v, fileVersion)
	}
	return header{
		seal:   newSeal(binary.LittleEndian.Uint64(b[16:])),
		number: binary.LittleEndian.Uint64(b[24:]),
		first:  binary.LittleEndian.Uint64(b[32:]),
		born:   int64(binary.LittleEndian.Uint64(b[40:])),
	}, nil
}

// seal makes a segment's frames its own.
type seal struct {
	salt  uint64
	magic uint32
	seed  uint32 // the CRC begins with it
}

func newSeal(salt uint64) seal {
	b := binary.LittleEndian.AppendUint64(nil, salt)
	return seal{salt: salt, magic: (uint32(salt) ^ uint32(salt>>32)) | 1, seed: crc32.Checksum(b, castagnoli)}
}

func randomSeal() seal {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return newSeal(binary.LittleEndian.Uint64(b[:]))
}

// frame is a valid frame of a segment.
type frame struct {
	off, end int64
	seq      uint64
	unproven uint32
	records  []byte
}

// proves is the last sequence number that was known to be on disk when the frame was written.
func (f frame) proves() uint64 { return f.seq - 1 - min(uint64(f.unproven), f.seq-1) }

// frameSize is the length of a frame with so many bytes of records.
func frameSize(records uint64) int64 {
	return frameHeader + int64((records+frameAlign-1)/frameAlign*frameAlign)
}

// open appends room for a frame's header, close fills it in when the records were appended.
func (s seal) open(buf []byte) []byte { return append(buf, make([]byte, frameHeader)...) }

func (s seal) close(buf []byte, at int, seq uint64, unproven uint32) []byte {
	n := len(buf) - at - frameHeader
	for (len(buf)-at)%frameAlign != 0 {
		buf = append(buf, 0)
	}
	h := buf[at:]
	binary.LittleEndian.PutUint32(h, s.magic)
	binary.LittleEndian.PutUint32(h[8:], uint32(n))
	binary.LittleEndian.PutUint32(h[12:], unproven)
	binary.LittleEndian.PutUint64(h[16:], seq)
	binary.LittleEndian.PutUint32(h[4:], crc32.Update(s.seed, castagnoli, h[8:]))
	return buf
}

// decode gives the frame at an offset of a segment, if one is there.
func (s seal) decode(segment []byte, off int64) (frame, bool) {
	b := segment[min(off, int64(len(segment))):]
	if len(b) < frameHeader || binary.LittleEndian.Uint32(b) != s.magic {
		return frame{}, false
	}
	n := binary.LittleEndian.Uint32(b[8:])
	size := frameSize(uint64(n))
	if size > int64(len(b)) || binary.LittleEndian.Uint32(b[4:]) != crc32.Update(s.seed, castagnoli, b[8:size]) {
		return frame{}, false
	}
	return frame{
		off: off, end: off + size,
		unproven: binary.LittleEndian.Uint32(b[12:]),
		seq:      binary.LittleEndian.Uint64(b[16:]),
		records:  b[frameHeader : frameHeader+int64(n)],
	}, true
}

// scan gives the frames of a segment in order, up to the first that is not valid or has not
// the next sequence number, or below the sequence number until.
func (h header) scan(segment []byte, until uint64) []frame {
	var frames []frame
	for off, seq := int64(fileHeader), h.first; seq < until; seq++ {
		f, ok := h.seal.decode(segment, off)
		if !ok || f.seq != seq {
			break
		}
		frames = append(frames, f)
		off = f.end
	}
	return frames
}

// proof looks behind an offset for a frame that says that the frame with a sequence number was on disk.
func (h header) proof(segment []byte, off int64, seq uint64) (frame, bool) {
	for ; off+frameHeader <= int64(len(segment)); off += frameAlign {
		if binary.LittleEndian.Uint32(segment[off:]) != h.seal.magic {
			continue
		}
		if f, ok := h.seal.decode(segment, off); ok && f.proves() >= seq {
			return f, true
		}
	}
	return frame{}, false
}

func corrupt(path string, off int64, what string) error {
	return fmt.Errorf("%w: %s, offset %d: %s", drivers.ErrCorrupt, path, off, what)
}
