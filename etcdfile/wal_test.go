package etcdfile

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// walFile builds a file of an etcd's write-ahead log.
type walFile struct {
	bytes []byte
	crc   uint32
}

// newWAL begins a file as etcd does, after another one that ended with a checksum.
func newWAL(crc uint32, member uint64) *walFile {
	w := &walFile{crc: crc}
	w.append(walCRC, crc, nil)
	w.record(walMetadata, numbers(member, 0xc1))
	return w
}

// numbers is a message of some numbers.
func numbers(all ...uint64) (b []byte) {
	for i, v := range all {
		b = protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType), v)
	}
	return b
}

func (w *walFile) append(kind uint64, crc uint32, data []byte) {
	rec := numbers(kind, uint64(crc))
	if data != nil {
		rec = protowire.AppendBytes(protowire.AppendTag(rec, 3, protowire.BytesType), data)
	}
	length, pad := uint64(len(rec)), (8-len(rec)%8)%8
	if pad > 0 {
		length |= uint64(0x80|pad) << 56
	}
	w.bytes = binary.LittleEndian.AppendUint64(w.bytes, length)
	w.bytes = append(append(w.bytes, rec...), make([]byte, pad)...)
}

func (w *walFile) record(kind uint64, data []byte) {
	w.crc = crc32.Update(w.crc, crc32.MakeTable(crc32.Castagnoli), data)
	w.append(kind, w.crc, data)
}

func (w *walFile) entry(index uint64, size int) {
	w.record(walEntry, protowire.AppendBytes(protowire.AppendTag(numbers(0, 3, index), 4, protowire.BytesType), make([]byte, size)))
}

func (w *walFile) snapshot(index uint64) { w.record(walSnapshot, numbers(index, 1)) }

const firstWAL, secondWAL = "0000000000000003-0000000000000000.wal", "0000000000000004-000000000000006a.wal"

// TestReadWAL: the last entry is found over several files, and behind what a crash or a new leader has left; what lacks something is refused.
func TestReadWAL(t *testing.T) {
	first := newWAL(0, 7)
	first.snapshot(5)
	for i := range uint64(100) {
		first.entry(6+i, int(i*37))
	}
	second := newWAL(first.crc, 7)
	second.record(walState, numbers(3, 0, 105))
	second.entry(106, 10)
	second.entry(107, 10)
	second.entry(106, 20) // of another leader, in the place of two that were never agreed on
	whole, sound := len(second.bytes), slices.Clip(second.bytes)
	flipped := slices.Clone(sound)
	flipped[whole-12] ^= 1
	ahead := newWAL(first.crc, 7)
	ahead.snapshot(900)
	for name, c := range map[string]struct {
		first, second []byte
		want          uint64 // 0: ErrWAL
	}{
		"whole":                  {first.bytes, sound, 106},
		"reserved behind":        {append(slices.Clip(first.bytes), make([]byte, 1000)...), append(sound, make([]byte, 1000)...), 106},
		"cut":                    {first.bytes, sound[:whole-21], 107}, // which may be too much, and is never too little
		"with a later snapshot":  {first.bytes, ahead.bytes, 900},
		"cut in a length":        {first.bytes, sound[:3], 0},
		"cut to nothing":         {first.bytes, nil, 0},
		"cut before it":          {first.bytes[:len(first.bytes)-100], sound, 0},
		"altered":                {first.bytes, flipped, 0},
		"altered before it":      {append(slices.Clone(first.bytes[:500]), append([]byte{first.bytes[500] ^ 8}, first.bytes[501:]...)...), sound, 0},
		"of another member":      {first.bytes, newWAL(first.crc, 8).bytes, 0},
		"not of what is before":  {first.bytes, newWAL(first.crc+1, 7).bytes, 0},
		"records that are none":  {first.bytes, []byte("                        "), 0},
		"a length without bound": {first.bytes, append(slices.Clone(sound), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0), 106},
	} {
		dir := t.TempDir()
		for name, content := range map[string][]byte{firstWAL: c.first, secondWAL: c.second, "0.tmp": []byte("x")} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ReadWAL(dir)
		if c.want == 0 && !errors.Is(err, ErrWAL) || c.want > 0 && (err != nil || got != WAL{Member: 7, Cluster: 0xc1, Last: c.want}) {
			t.Errorf("%s: %+v, %v, and not %d", name, got, err, c.want)
		}
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{firstWAL: first.bytes, "0000000000000005-000000000000006a.wal": sound} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadWAL(dir); !errors.Is(err, ErrWAL) {
		t.Errorf("without a file: %+v, %v", got, err)
	}
}

func TestNoWAL(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := ReadWAL(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", d, err)
		}
	}
}
