package migrate

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// walFile builds a file of an etcd's write-ahead log.
type walFile []byte

func (w *walFile) record(kind uint64, data []byte) {
	var rec []byte
	rec = protowire.AppendVarint(protowire.AppendTag(rec, 1, protowire.VarintType), kind)
	rec = protowire.AppendVarint(protowire.AppendTag(rec, 2, protowire.VarintType), 0xfedcba98)
	rec = protowire.AppendBytes(protowire.AppendTag(rec, 3, protowire.BytesType), data)
	length, pad := uint64(len(rec)), (8-len(rec)%8)%8
	if pad > 0 {
		length |= uint64(0x80|pad) << 56
	}
	*w = binary.LittleEndian.AppendUint64(*w, length)
	*w = append(append(*w, rec...), make([]byte, pad)...)
}

func (w *walFile) entry(index uint64, size int) {
	var e []byte
	for number, v := range []uint64{0, 3, index} {
		e = protowire.AppendVarint(protowire.AppendTag(e, protowire.Number(number+1), protowire.VarintType), v)
	}
	w.record(walEntry, protowire.AppendBytes(protowire.AppendTag(e, 4, protowire.BytesType), make([]byte, size)))
}

func (w *walFile) snapshot(index uint64) {
	w.record(walSnapshot, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), index))
}

// TestLastEntry: the last entry is found over several files, and behind what a crash or a new leader has left.
func TestLastEntry(t *testing.T) {
	var first, second walFile
	first.record(1, []byte("metadata"))
	first.snapshot(5)
	for i := range uint64(100) {
		first.entry(6+i, int(i*37))
	}
	second.record(4, nil)
	second.entry(106, 10)
	second.entry(107, 10)
	second.record(3, []byte{8, 3, 24, 105})
	second.entry(106, 20) // of another leader, in the place of two that were never agreed on
	whole := len(second)
	for name, c := range map[string]struct {
		second []byte
		want   uint64
	}{
		"whole":           {second, 106},
		"reserved behind": {append(second[:whole:whole], make([]byte, 1000)...), 106},
		"cut":             {second[:whole-21], 107}, // that other leader's was never there
		"cut in a length": {second[:3], 105},
		"empty":           {nil, 105},
	} {
		dir := t.TempDir()
		for name, content := range map[string][]byte{
			"0000000000000000-0000000000000000.wal": first, "0000000000000001-000000000000006a.wal": c.second, "0.tmp": []byte("x"),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := lastEntry(dir); err != nil || got != c.want {
			t.Errorf("%s: %d, %v, and not %d", name, got, err, c.want)
		}
	}
}

func TestCheckWAL(t *testing.T) {
	base := t.TempDir()
	if err := checkWAL(base, 1000); !errors.Is(err, ErrBehind) {
		t.Errorf("without a log: %v", err)
	}
	dir := filepath.Join(base, etcdWAL)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkWAL(base, 1000); !errors.Is(err, ErrBehind) {
		t.Errorf("with an empty one: %v", err)
	}
	var w walFile
	w.snapshot(9)
	if err := os.WriteFile(filepath.Join(dir, "0-0.wal"), w, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkWAL(base, 9); err != nil {
		t.Error(err)
	}
	if err := checkWAL(base, 8); !errors.Is(err, ErrBehind) {
		t.Errorf("behind the log: %v", err)
	}
}
