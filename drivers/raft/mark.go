package raft

import (
	"encoding/binary"
	"fmt"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
)

// encodeMark is what stands beside a batch in the file: the entry of Raft's log that it came with, and the hash of everything up to it.
func encodeMark(e entryID, chain uint64) (m sqlite.Mark) {
	binary.BigEndian.PutUint64(m[:], e.index)
	binary.BigEndian.PutUint64(m[8:], e.term)
	binary.BigEndian.PutUint64(m[16:], chain)
	return m
}

func decodeMark(m sqlite.Mark) (e entryID, chain uint64) {
	return entryID{binary.BigEndian.Uint64(m[:]), binary.BigEndian.Uint64(m[8:])}, binary.BigEndian.Uint64(m[16:])
}

// encodeStand is the data of a marker: where the log ended, and the hash of everything up to there.
func encodeStand(end drivers.End, chain uint64) []byte {
	out := binary.BigEndian.AppendUint64(nil, uint64(end.Position))
	out = append(out, end.Batch[:]...)
	return binary.BigEndian.AppendUint64(out, chain)
}

func decodeStand(data []byte) (end drivers.End, chain uint64, err error) {
	if len(data) == 0 {
		return end, 0, nil
	}
	if len(data) != 8+len(end.Batch)+8 {
		return end, 0, fmt.Errorf("%w: the marker of Raft's log", drivers.ErrCorrupt)
	}
	end.Position = int64(binary.BigEndian.Uint64(data))
	copy(end.Batch[:], data[8:])
	return end, binary.BigEndian.Uint64(data[8+len(end.Batch):]), nil
}
