package wal

import (
	"fmt"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// BenchmarkSave saves one entry and syncs it; disk/op is what it takes on disk.
func BenchmarkSave(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			o := Options{Dir: filepath.Join(b.TempDir(), "log")}
			must(Create(o, Identity{1, 1, 0}, nil))
			w, err := Open(o)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { must(w.Close()) }()
			data := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var written int64
			for i := uint64(1); b.Loop(); i++ {
				end, number := w.end, w.current.number
				if err := w.Save(nil, []*raftpb.Entry{{Term: new(uint64(1)), Index: new(i), Data: data}}, true); err != nil {
					b.Fatal(err)
				}
				if w.current.number == number {
					written += w.end - end
				} else {
					written += w.end
				}
				if i%1000 == 0 {
					must(w.SetSnapshot(snapshotOf(i, 1, "")))
					must(w.Compact(i))
				}
			}
			b.ReportMetric(float64(written)/float64(b.N), "disk/op")
		})
	}
}
