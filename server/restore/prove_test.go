package restore

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// entriesOf gives what Write makes of a file, and the id of its last batch.
func entriesOf(t *testing.T, f *etcdfile.File, o Options) (all []drivers.Entry, id drivers.BatchID) {
	t.Helper()
	log := memory.NewStore().Open()
	end, err := Write(t.Context(), log, f, o)
	if err != nil {
		t.Fatal(err)
	}
	err = log.Scan(t.Context(), drivers.ScanOptions{Values: true}, func(e []drivers.Entry) error {
		all = append(all, e...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, end.Batch
}

// logOf makes a log of entries.
func logOf(t *testing.T, entries []drivers.Entry, id drivers.BatchID) drivers.Log {
	t.Helper()
	log := memory.NewStore().Open()
	if err := log.Append(t.Context(), drivers.End{}, &drivers.Batch{ID: id, Entries: slices.Clone(entries)}); err != nil {
		t.Fatal(err)
	}
	return log
}

func made(t *testing.T, f *etcdfile.File, o Options) drivers.Log {
	t.Helper()
	entries, id := entriesOf(t, f, o)
	return logOf(t, entries, id)
}

func members(id uint64) *mvcc.Bootstrap {
	return &mvcc.Bootstrap{ClusterID: 5, Members: []*pb.Member{{ID: id, Name: "a", PeerURLs: []string{"http://a"}}}}
}

// TestProve: what Write has made is proven, and says what it has.
func TestProve(t *testing.T) {
	s := filled(t)
	f := taken(t, s)
	want, err := s.HashKV(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	rev, keys, count := s.Index().Rev, s.Index().Keys(), int64(len(rows(t, f)))
	for _, o := range []Options{{}, {Members: members(1)}, {Bump: 1000}, {Bump: 7, Members: members(1)}} {
		var proved int64
		o.Proved = func(rows int64) { proved = rows }
		got, err := Prove(t.Context(), made(t, f, o), f, o)
		if err != nil {
			t.Fatal(err)
		}
		if proved != count {
			t.Errorf("%d rows were proven, of %d", proved, count)
		}
		stand := Stand{Revision: rev + o.Bump, Compact: 200, Keys: keys, Rows: count, Leases: 1, Hash: want.Sum}
		if o.Bump > 0 {
			stand.Compact = stand.Revision
			restored := serve(t, made(t, f, o))
			h, err := restored.HashKV(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			stand.Hash = h.Sum
		}
		if got != stand {
			t.Errorf("bumped by %d: %+v, and not %+v", o.Bump, got, stand)
		}
	}
}

// TestProveDiffers: whatever is missing, comes twice or is altered in a log is noticed.
func TestProveDiffers(t *testing.T) {
	f := taken(t, filled(t))
	for _, o := range []Options{{Members: members(1)}, {Bump: 1000}} {
		entries, id := entriesOf(t, f, o)
		check := func(what string, i int, altered []drivers.Entry) {
			t.Helper()
			if _, err := Prove(t.Context(), logOf(t, altered, id), f, o); err == nil {
				t.Errorf("bumped by %d: entry %d of %d, of kind %d: %s", o.Bump, i+1, len(entries), entries[i].Kind, what)
			}
		}
		for i := range entries {
			check("it is missing", i, slices.Delete(slices.Clone(entries), i, i+1))
			check("it comes twice", i, slices.Insert(slices.Clone(entries), i, entries[i]))
			for _, field := range []func(*drivers.Entry) *[]byte{
				func(e *drivers.Entry) *[]byte { return &e.Meta },
				func(e *drivers.Entry) *[]byte { return &e.Value },
			} {
				for b := range *field(&entries[i]) {
					if i%5 > 0 && entries[i].Kind == mvcc.KindPut && b != len(*field(&entries[i]))-1 {
						continue
					}
					altered := slices.Clone(entries)
					p := field(&altered[i])
					*p = bytes.Clone(*p)
					(*p)[b] ^= 1
					check("a bit is another", i, altered)
				}
			}
		}
	}
}

// TestProveOther: a log of another file, of other members, with a hole.
func TestProveOther(t *testing.T) {
	s := filled(t)
	f := taken(t, s)
	entries, id := entriesOf(t, f, Options{Members: members(1)})
	for _, o := range []Options{{}, {Members: members(2)}, {Members: members(1), Bump: 3}} {
		if _, err := Prove(t.Context(), logOf(t, entries, id), f, o); !errors.Is(err, ErrDiffers) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	log := logOf(t, entries, id)
	if err := log.Scrub(t.Context(), []int64{3}); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(t.Context(), log, f, Options{Members: members(1)}); !errors.Is(err, ErrDiffers) {
		t.Errorf("with a hole: %v", err)
	}
	do(t, s, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 3, Alarm: pb.AlarmType_NOSPACE})
	for _, r := range []any{
		&pb.LeaseGrantRequest{ID: 78, TTL: 5}, &pb.AuthRoleGrantPermissionRequest{Name: "reader", Perm: &authpb.Permission{Key: []byte("a")}},
		&pb.PutRequest{Key: []byte("more")},
	} {
		do(t, s, r)
		if _, err := Prove(t.Context(), logOf(t, entries, id), taken(t, s), Options{Members: members(1)}); !errors.Is(err, ErrDiffers) {
			t.Errorf("before %T: %v", r, err)
		}
	}
}

// TestProveMeaning: what a log says is compared by itself, without the ids of batches: of what Write makes of another file.
func TestProveMeaning(t *testing.T) {
	s := filled(t)
	f := taken(t, s)
	entries, _ := entriesOf(t, f, Options{Bump: 10})
	for i := range entries {
		if entries[i].Kind == mvcc.KindBarrier {
			continue // it says nothing of keys: that it is there, the ids of batches say
		}
		altered := slices.Delete(slices.Clone(entries), i, i+1)
		log := memory.NewStore().Open()
		w := &writer{ctx: t.Context(), log: log}
		for _, e := range altered {
			if err := w.add(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := Prove(t.Context(), log, f, Options{Bump: 10}); err == nil {
			t.Errorf("entry %d of %d, of kind %d, is missing", i+1, len(entries), entries[i].Kind)
		}
	}
}
