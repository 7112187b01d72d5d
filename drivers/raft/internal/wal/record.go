package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The kinds of records. A record is its kind, the length of its body as a uvarint, and the body.
const (
	recEntry     = 1
	recHardState = 2
	recSnapshot  = 3
	recMark      = 4
	recIdentity  = 5
)

// mark says what is compacted, and from which segment on the log is needed.
type mark struct {
	index, term uint64
	segment     uint64
}

// batch is what one frame holds, in this order; nil is left out.
type batch struct {
	id      *Identity
	hard    *raftpb.HardState
	snap    *raftpb.Snapshot
	mark    *mark
	entries []*raftpb.Entry
}

// size is the length of the records.
func (b *batch) size() uint64 {
	var n uint64
	for _, m := range b.numbers() {
		size := 0
		for _, v := range m.values {
			size += uvarintSize(v)
		}
		n += recordSize(size)
	}
	if b.hard != nil {
		n += recordSize(proto.Size(b.hard))
	}
	if b.snap != nil {
		n += recordSize(proto.Size(b.snap))
	}
	for _, e := range b.entries {
		n += recordSize(proto.Size(e))
	}
	return n
}

// numbered is a record that is just numbers.
type numbered struct {
	kind   byte
	values [3]uint64
}

func (b *batch) numbers() []numbered {
	var out []numbered
	if b.id != nil {
		out = append(out, numbered{recIdentity, [3]uint64{b.id.Cluster, b.id.Member, b.id.Origin}})
	}
	if b.mark != nil {
		out = append(out, numbered{recMark, [3]uint64{b.mark.index, b.mark.term, b.mark.segment}})
	}
	return out
}

func uvarintSize(v uint64) int   { return (bits.Len64(v|1) + 6) / 7 }
func recordSize(body int) uint64 { return 1 + uint64(uvarintSize(uint64(body))+body) }

// append appends the records, and to metas where each entry is; base is the offset in the segment of buf's first byte.
func (b *batch) append(buf []byte, metas []meta, number uint64, base int64) ([]byte, []meta, error) {
	for _, m := range b.numbers() {
		var body []byte
		for _, v := range m.values {
			body = binary.AppendUvarint(body, v)
		}
		buf = append(binary.AppendUvarint(append(buf, m.kind), uint64(len(body))), body...)
	}
	var err error
	if b.hard != nil {
		if buf, err = appendMessage(buf, recHardState, b.hard); err != nil {
			return buf, metas, err
		}
	}
	if b.snap != nil {
		if buf, err = appendMessage(buf, recSnapshot, b.snap); err != nil {
			return buf, metas, err
		}
	}
	for _, e := range b.entries {
		if buf, err = appendMessage(buf, recEntry, e); err != nil {
			return buf, metas, err
		}
		size := proto.Size(e)
		body := buf[len(buf)-size:]
		metas = append(metas, newMeta(e, number, base+int64(len(buf)-size), body))
	}
	return buf, metas, nil
}

func appendMessage(buf []byte, kind byte, m proto.Message) ([]byte, error) {
	size := proto.Size(m)
	buf = binary.AppendUvarint(append(buf, kind), uint64(size))
	at := len(buf)
	buf, err := proto.MarshalOptions{}.MarshalAppend(buf, m)
	if err != nil {
		return buf, fmt.Errorf("marshal a record: %w", err)
	}
	if len(buf)-at != size {
		return buf, errors.New("a record changed while it was marshalled")
	}
	return buf, nil
}

// errRecord is a valid frame with records in it that make no sense.
var errRecord = errors.New("a record makes no sense")

// eachRecord calls do with each record and where its body begins.
func eachRecord(records []byte, do func(kind byte, at int, body []byte) error) error {
	for at := 0; at < len(records); {
		kind := records[at]
		size, n := binary.Uvarint(records[at+1:])
		at += 1 + n
		if n <= 0 || size > uint64(len(records)-at) {
			return errRecord
		}
		if err := do(kind, at, records[at:at+int(size)]); err != nil {
			return err
		}
		at += int(size)
	}
	return nil
}

// decodeNumbers reads a record that is just numbers.
func decodeNumbers(body []byte) ([3]uint64, error) {
	var out [3]uint64
	for i := range out {
		v, n := binary.Uvarint(body)
		if n <= 0 {
			return out, errRecord
		}
		out[i], body = v, body[n:]
	}
	return out, nil
}
