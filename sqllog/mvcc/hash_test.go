package mvcc

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// modelRow is a row of the key bucket of an etcd.
type modelRow struct {
	key string
	v   modelVersion
}

// modelRows are those that a compaction at the model's compact revision leaves, in the order of their revisions.
func modelRows(m *model) []modelRow {
	var rows []modelRow
	for k, vs := range m.keys {
		at := m.at(k, m.compact)
		for _, v := range vs {
			if v.main > m.compact || at != nil && at.main == v.main || v.count == 0 && v.main == m.compact {
				rows = append(rows, modelRow{k, v})
			}
		}
	}
	slices.SortFunc(rows, func(a, b modelRow) int {
		if a.v.main != b.v.main {
			return int(a.v.main - b.v.main)
		}
		return int(a.v.sub - b.v.sub)
	})
	return rows
}

func (w modelRow) encode(t *testing.T) (name, value []byte) {
	t.Helper()
	name = binary.BigEndian.AppendUint64(nil, uint64(w.v.main))
	name = append(name, '_')
	name = binary.BigEndian.AppendUint64(name, uint64(w.v.sub))
	kv := &mvccpb.KeyValue{Key: []byte(w.key)}
	if w.v.count == 0 {
		name = append(name, 't')
	} else {
		kv = &mvccpb.KeyValue{Key: []byte(w.key), Value: w.v.value, CreateRevision: w.v.create, ModRevision: w.v.main,
			Version: w.v.count, Lease: w.v.lease}
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(kv)
	if err != nil {
		t.Fatal(err)
	}
	return name, value
}

// modelHash is etcd's HashKV, done as etcd 3.7 does it on a store whose compaction has finished: the rows that
// the compaction left, of those at or below the compact revision only what a compaction at
// the asked revision would keep (all of them if it would keep nothing), and no tombstone of the compact revision.
func modelHash(t *testing.T, m *model, rev int64) uint32 {
	t.Helper()
	keep := map[[2]int64]bool{}
	for k := range m.keys {
		if at := m.at(k, rev); at != nil {
			keep[[2]int64{at.main, int64(at.sub)}] = true
		}
	}
	rows := slices.DeleteFunc(modelRows(m), func(r modelRow) bool { return r.v.main > rev })
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte("key"))
	for _, w := range rows {
		if w.v.main <= m.compact && len(keep) > 0 && !keep[[2]int64{w.v.main, int64(w.v.sub)}] {
			continue
		}
		if w.v.main == m.compact && w.v.count == 0 {
			continue
		}
		name, value := w.encode(t)
		h.Write(name)
		h.Write(value)
	}
	return h.Sum32()
}

func logHash(t *testing.T, ix *Index, l *testLog, rev int64) uint32 {
	t.Helper()
	h := ix.NewHasher(rev)
	for _, e := range l.sorted() {
		if err := h.Add(&e); err != nil {
			t.Fatal(err)
		}
	}
	return h.Sum()
}

// TestHash holds HashKV against etcd's rules at every revision, before and after scrubbing.
func TestHash(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			m, l, ix := newModel(), newTestLog(), NewIndex()
			check := func() {
				t.Helper()
				for rev := max(m.compact, 1); rev <= m.rev; rev++ {
					if got, want := logHash(t, ix, l, rev), modelHash(t, m, rev); got != want {
						t.Fatalf("hash at %d of [%d, %d]: %d, etcd's rules give %d", rev, m.compact, m.rev, got, want)
					}
				}
			}
			for range 15 {
				for range 3 {
					ix = modelStep(t, r, m, l, ix)
				}
				check()
				pruned, freed := pruneAll(ix, 30)
				for _, p := range freed {
					delete(l.entries, p)
				}
				ix = pruned
				check()
			}
			// With everything deleted a compaction would keep nothing.
			all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
			for _, req := range []any{&pb.CompactionRequest{Revision: m.rev - 3}, all} {
				b, _ := Evaluate(ix, Env{Values: l.values}, []any{req})
				ix = b.Index(l.append(b.Entries()))
				_ = m.request(req) // a compaction may have been later already
			}
			check()
		})
	}
}

// TestHashOfEtcd has the figures that etcd 3.7.3 gives.
func TestHashOfEtcd(t *testing.T) {
	l, ix := newTestLog(), NewIndex()
	do := func(requests ...any) {
		for _, req := range requests {
			b, results := Evaluate(ix, Env{Values: l.values}, []any{req})
			if results[0].Err != nil {
				t.Fatal(results[0].Err)
			}
			ix = b.Index(l.append(b.Entries()))
		}
	}
	put := func(k, v string) any { return &pb.PutRequest{Key: []byte(k), Value: []byte(v)} }
	do(put("a", "1"), put("b", "1"), &pb.CompactionRequest{Revision: 3}, put("a", "2"), put("c", "3"))
	if got := logHash(t, ix, l, 5); got != 1000227552 {
		t.Errorf("at revision 5: %d", got)
	}
	if got := logHash(t, ix, l, 4); got != 2393049859 {
		t.Errorf("at revision 4: %d", got)
	}
	do(&pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if got := logHash(t, ix, l, 6); got != 3438234829 {
		t.Errorf("at revision 6, where nothing lives: %d", got)
	}
}
