package etcdfile

import (
	"testing"

	"go.etcd.io/bbolt"
)

// TestCompaction: what is kept of a key's lives, as etcd's key_index.go explains it, and of tombstones.
func TestCompaction(t *testing.T) {
	rows := []Row{
		put(t, 2, 0, "foo", nil), put(t, 3, 0, "foo", nil), del(t, 4, 0, "foo"), put(t, 5, 0, "foo", nil), del(t, 6, 0, "foo"),
		put(t, 7, 0, "bar", nil), put(t, 7, 1, "baz", nil), put(t, 8, 0, "bar", nil), put(t, 8, 1, "baz", nil),
	}
	tests := []struct {
		at   int64
		kept []int // of rows
	}{
		{1, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}},
		{2, []int{0, 1, 2, 3, 4, 5, 6, 7, 8}},
		{3, []int{1, 2, 3, 4, 5, 6, 7, 8}},
		{4, []int{2, 3, 4, 5, 6, 7, 8}}, // the tombstone at the revision stays
		{5, []int{3, 4, 5, 6, 7, 8}},
		{6, []int{4, 5, 6, 7, 8}},
		{7, []int{5, 6, 7, 8}},
		{8, []int{7, 8}},
		{20, []int{7, 8}}, // above all rows: the revision then is 20
	}
	for _, test := range tests {
		var want []Row
		for _, i := range test.kept {
			want = append(want, rows[i])
		}
		compacted(t, rows, test.at, want)
	}
}

// compacted schedules a compaction in a file with these rows and compares what is read.
func compacted(t *testing.T, rows []Row, at int64, want []Row) {
	t.Helper()
	path := write(t, rows, &Meta{Compact: -1})
	schedule(t, path, at)
	f := open(t, path)
	got, err := all(f)
	if err != nil {
		t.Fatal(err)
	}
	sameRows(t, got, want)
	if m := f.Meta(); m.Compact != at || m.Revision != max(at, rows[len(rows)-1].Main) {
		t.Errorf("compact revision %d, revision %d", m.Compact, m.Revision)
	}
}

func schedule(t *testing.T, path string, at int64) {
	t.Helper()
	alter(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(scheduledKey), appendRevision(nil, Revision{Main: at}))
	})
}

// TestCompactionOfRemains: what an earlier compaction has left of a key is a tombstone, or another one freed in part.
func TestCompactionOfRemains(t *testing.T) {
	alone := del(t, 5, 0, "a")
	again := del(t, 6, 0, "a")
	other := put(t, 9, 0, "b", nil)
	compacted(t, []Row{alone, other}, 5, []Row{alone, other})
	compacted(t, []Row{alone, other}, 6, []Row{other})
	// A tombstone of what is deleted is not in etcd's index.
	compacted(t, []Row{alone, again, other}, 6, []Row{other})
	compacted(t, []Row{alone, again, other}, 5, []Row{alone, again, other})
	// A key that is deleted and put in one request.
	put5 := put(t, 5, 1, "a", nil)
	compacted(t, []Row{alone, put5, other}, 5, []Row{alone, other})
	compacted(t, []Row{alone, put5, other}, 6, []Row{put5, other})
}

// TestFinishedCompaction: nothing is left out for a compaction that is done, nor for one before it.
func TestFinishedCompaction(t *testing.T) {
	rows := []Row{put(t, 2, 0, "a", nil), put(t, 3, 0, "a", nil), put(t, 4, 0, "a", nil)}
	for _, scheduled := range []int64{3, 4} {
		path := write(t, rows, &Meta{Compact: 4})
		schedule(t, path, scheduled)
		f := open(t, path)
		got, err := all(f)
		if err != nil {
			t.Fatal(err)
		}
		sameRows(t, got, rows)
		if f.Meta().Compact != 4 || f.Meta().Revision != 4 {
			t.Errorf("%+v", f.Meta())
		}
	}
}

// TestBumped: etcdutl writes a row without bytes and schedules a compaction at it. Of several such rows one stays.
func TestBumped(t *testing.T) {
	rows := []Row{
		put(t, 2, 0, "a", nil), del(t, 3, 0, "a"), put(t, 4, 0, "b", nil), marker(1000),
		put(t, 1001, 0, "b", nil), put(t, 1002, 0, "c", nil), del(t, 1003, 0, "c"), marker(5000),
	}
	compacted(t, rows[:4], 1000, rows[2:4])
	compacted(t, rows, 5000, []Row{rows[4], rows[7]})
	if !rows[3].Marker() || rows[2].Marker() || rows[1].Marker() {
		t.Error("a marker is a row without bytes")
	}
}

// TestOldFile: 3.4 has no term, conf state, storage version nor cluster version, and an empty file has nothing but its buckets.
func TestOldFile(t *testing.T) {
	path := t.TempDir() + "/db"
	alter(t, path, func(tx *bbolt.Tx) error {
		for _, name := range []string{keyBucket, metaBucket, leaseBucket, alarmBucket, authBucket, usersBucket, rolesBucket, "members", "unknown"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put([]byte(indexKey), number(12))
	})
	f := open(t, path)
	sameMeta(t, f.Meta(), &Meta{Compact: -1, Revision: 1, Index: 12})
	if rows, err := all(f); err != nil || len(rows) != 0 {
		t.Errorf("%v, %v", rows, err)
	}
	if s, err := f.Status(); err != nil || s.Revision != 0 || s.TotalKey != 0 || s.Version != "" {
		t.Errorf("%+v, %v", s, err)
	}
}
