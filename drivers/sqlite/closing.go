package sqlite

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// Mark is what the writer of a batch notes beside it, on the batch's last row: 24
// bytes that this package does not look into. The zero Mark is none.
type Mark [24]byte

// Marked is a batch with its mark.
type Marked struct {
	Batch *drivers.Batch
	Mark  Mark
}

// closing is what the last row of a batch says about it.
type closing struct {
	id     drivers.BatchID
	time   time.Time
	server uint64
	mark   Mark
}

// A closing has one of two sizes, without a mark and with one.
const (
	closingSize = 32
	markedSize  = closingSize + len(Mark{})
)

func encodeClosing(m *Marked) []byte {
	size := closingSize
	if m.Mark != (Mark{}) {
		size = markedSize
	}
	out := make([]byte, size)
	copy(out, m.Batch.ID[:])
	binary.BigEndian.PutUint64(out[16:], uint64(m.Batch.Time.UnixMilli()))
	binary.BigEndian.PutUint64(out[24:], m.Batch.Server)
	if size == markedSize {
		copy(out[closingSize:], m.Mark[:])
	}
	return out
}

func decodeClosing(v any) (closing, error) {
	b, ok := v.([]byte)
	if !ok || len(b) != closingSize && len(b) != markedSize {
		return closing{}, fmt.Errorf("%w: it does not close a batch", drivers.ErrCorrupt)
	}
	c := closing{
		id:     drivers.BatchID(b[:16]),
		time:   time.UnixMilli(int64(binary.BigEndian.Uint64(b[16:]))),
		server: binary.BigEndian.Uint64(b[24:]),
	}
	copy(c.mark[:], b[closingSize:])
	return c, nil
}
