package raft

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/keelson-io/keelson/drivers"
)

// command is an append on its way through Raft's log: batch is to come after the end that its author has seen.
type command struct {
	after drivers.End
	batch *drivers.Batch
}

// commandVersion is the first byte of an encoded command.
const commandVersion = 1

// encodeCommand gives a command's bytes, which hold none of the batch's own.
func encodeCommand(after drivers.End, b *drivers.Batch) []byte {
	size := 1 + 3*binary.MaxVarintLen64 + 2*len(b.ID) + 8
	for i := range b.Entries {
		size += 1 + 2*binary.MaxVarintLen32 + len(b.Entries[i].Meta) + len(b.Entries[i].Value)
	}
	out := append(make([]byte, 0, size), commandVersion)
	out = binary.AppendUvarint(out, uint64(after.Position))
	out = append(out, after.Batch[:]...)
	out = append(out, b.ID[:]...)
	out = binary.AppendVarint(out, b.Time.UnixMilli())
	out = binary.BigEndian.AppendUint64(out, b.Server)
	out = binary.AppendUvarint(out, uint64(len(b.Entries)))
	for i := range b.Entries {
		e := &b.Entries[i]
		out = append(out, e.Kind)
		out = binary.AppendUvarint(out, uint64(len(e.Meta)))
		out = binary.AppendUvarint(out, uint64(len(e.Value)))
		out = append(out, e.Meta...)
		out = append(out, e.Value...)
	}
	return out
}

// decodeCommand reads a command. Its metas and values are parts of data.
func decodeCommand(data []byte) (command, error) {
	d := decoder{rest: data}
	if v := d.bytes(1); len(v) == 1 && v[0] != commandVersion {
		return command{}, fmt.Errorf("%w: a command of Raft's log has format %d, and this Keelson knows %d", drivers.ErrNewer, v[0], commandVersion)
	}
	c := command{batch: new(drivers.Batch)}
	c.after.Position = int64(d.uvarint())
	copy(c.after.Batch[:], d.bytes(len(c.after.Batch)))
	copy(c.batch.ID[:], d.bytes(len(c.batch.ID)))
	c.batch.Time = time.UnixMilli(d.varint())
	if b := d.bytes(8); b != nil {
		c.batch.Server = binary.BigEndian.Uint64(b)
	}
	n := d.uvarint()
	if n == 0 || n > uint64(len(d.rest)) {
		d.bad = true
		n = 0
	}
	c.batch.Entries = make([]drivers.Entry, n)
	for i := range c.batch.Entries {
		e := &c.batch.Entries[i]
		e.Position = c.after.Position + int64(i) + 1
		if k := d.bytes(1); k != nil {
			e.Kind = k[0]
		}
		meta, value := d.uvarint(), d.uvarint()
		e.Meta, e.Value = d.bytes(int(min(meta, maxPart))), d.bytes(int(min(value, maxPart)))
	}
	if d.bad || len(d.rest) > 0 {
		return command{}, fmt.Errorf("%w: a command of Raft's log cannot be decoded", drivers.ErrCorrupt)
	}
	return c, nil
}

// maxPart is more than any part of a command is long.
const maxPart = 1 << 40

// decoder takes parts off the front of some bytes.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// chain gives the hash of everything that was applied, from the hash of what was before and the bytes of the command that comes next.
func chain(before uint64, data []byte) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(before)
	// It never fails.
	_, _ = d.Write(data)
	return d.Sum64()
}
