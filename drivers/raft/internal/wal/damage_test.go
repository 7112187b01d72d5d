package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/drivers"
)

// damaged builds a log of several segments and gives its disk after a loss of power, when all is synced.
func damaged(t *testing.T, seed uint64) *life {
	t.Helper()
	l := newLife(seed)
	l.o.SegmentBytes = 1500
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	l.a.maxData = 300
	for range 60 {
		if err := l.actOn(l.a.save(l.m)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.actOn(l.a.snapshot(l.m)); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := l.actOn(l.a.save(l.m)); err != nil {
			t.Fatal(err)
		}
	}
	must(l.w.Save(nil, nil, true))
	l.allowed = []model{l.m}
	l.powerLoss()
	return l
}

func (l *life) files() map[string]*node {
	out := maps.Clone(l.d.find(l.o.Dir).entries)
	maps.DeleteFunc(out, func(name string, _ *node) bool { return !strings.HasSuffix(name, segmentSuffix) })
	return out
}

// copyOf gives a disk like this one, to be damaged.
func (l *life) copyOf() *life {
	c := *l
	c.d = l.d.afterPowerLoss() // nothing is pending
	c.o.fs = c.d
	return &c
}

// tailOf tells from where on the last segment may be torn: what nothing proves.
func (l *life) tailOf(t *testing.T, name string) (from, end int64) {
	t.Helper()
	data := l.files()[name].data
	h, err := decodeHeader(name, data)
	if err != nil {
		t.Fatal(err)
	}
	frames := h.scan(data, math.MaxUint64)
	tail, err := findTail(newSegment(h, name, nil), data, frames)
	if err != nil {
		t.Fatal(err)
	}
	return tail.end - int64(len(tail.unproven)), tail.end
}

// TestFlippedBits flips each byte of a log. It is told, or it changes nothing; only of the last frames, that nothing proves, less may be found.
func TestFlippedBits(t *testing.T) {
	for seed := range uint64(2) {
		l := damaged(t, seed)
		names := slices.Sorted(maps.Keys(l.files()))
		if len(names) < 4 {
			t.Fatalf("%d segments", len(names))
		}
		for _, name := range names {
			size := int64(len(l.files()[name].data))
			from, end := size, int64(len(bytes.TrimRight(l.files()[name].data, "\x00")))
			if name == names[len(names)-1] {
				from, end = l.tailOf(t, name)
			}
			for off := int64(0); off < min(size, end+40); off++ {
				c := l.copyOf()
				c.files()[name].data[off] ^= 1 << (off % 8)
				before := fmt.Sprint(c.contents())
				w, err := Open(c.o)
				if err != nil {
					if !errors.Is(err, drivers.ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "offset") {
						t.Fatalf("%s offset %d: %v", name, off, err)
					}
					if fmt.Sprint(c.contents()) != before {
						t.Fatalf("%s offset %d: changed", name, off)
					}
					continue
				}
				got, err := observe(w)
				if err != nil || (off < from || off >= end) && got.String() != l.m.String() {
					t.Fatalf("seed %d %s offset %d of %d to %d: opened, %v\n got %v\nwant %v", seed, name, off, from, end, err, got, l.m)
				}
			}
		}
	}
}

func (l *life) contents() map[string]string {
	out := map[string]string{}
	for name, n := range l.d.find(l.o.Dir).entries {
		out[name] = string(n.data)
	}
	return out
}

// TestMissing takes away segments, and cuts them.
func TestMissing(t *testing.T) {
	l := damaged(t, 3)
	names := slices.Sorted(maps.Keys(l.files()))
	for _, name := range names[:len(names)-1] {
		c := l.copyOf()
		delete(c.d.find(c.o.Dir).entries, name)
		if _, err := Open(c.o); !errors.Is(err, drivers.ErrCorrupt) {
			t.Errorf("%s is missing: %v", name, err)
		}
		for size := len(l.files()[name].data) - 1; size >= 0; size -= 37 {
			c := l.copyOf()
			c.files()[name].data = c.files()[name].data[:size]
			if _, err := Open(c.o); !errors.Is(err, drivers.ErrCorrupt) {
				t.Errorf("%s is cut to %d: %v", name, size, err)
			}
		}
	}
	for _, name := range names { // each segment from another log, or a copy under another name
		c := l.copyOf()
		c.d.find(c.o.Dir).entries[name] = damaged(t, 4).files()[name]
		if _, err := Open(c.o); name != names[len(names)-1] && !errors.Is(err, drivers.ErrCorrupt) {
			t.Errorf("%s is another log's: %v", name, err)
		}
		c = l.copyOf()
		c.d.find(c.o.Dir).entries["0000000000000fff.seg"] = c.files()[name]
		if _, err := Open(c.o); !errors.Is(err, drivers.ErrCorrupt) {
			t.Errorf("%s has another name: %v", name, err)
		}
	}
	c := l.copyOf()
	clear(c.d.find(c.o.Dir).entries)
	if _, err := Open(c.o); !errors.Is(err, drivers.ErrCorrupt) {
		t.Errorf("nothing is left: %v", err)
	}
}

// TestEntryDamagedLater damages an entry while the log is open: it is told when it is read from disk.
func TestEntryDamagedLater(t *testing.T) {
	l := newLife(1)
	l.o.CacheBytes = 1
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	must(l.w.Save(nil, []*raftpb.Entry{{Term: new(uint64(1)), Index: new(uint64(1)), Data: []byte("entry")}}, true))
	m := l.w.state.metas[0]
	l.d.find(segmentPath(l.o.Dir, uint64(m.segment))).data[m.off+int64(m.size)-1] ^= 4
	if _, err := l.w.Entries(1, 2, 1); !errors.Is(err, drivers.ErrCorrupt) {
		t.Fatal(err)
	}
}
