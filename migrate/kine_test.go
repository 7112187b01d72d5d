package migrate

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/migrate/kine"
	"github.com/keelson-io/keelson/server/restore"
	"github.com/keelson-io/keelson/sqllog/verify"
)

// table makes the rows that a kine could have: changes of keys, gaps, its own row somewhere, deletes of what is not there, and what a compaction has left.
func table(r *rand.Rand, n int) (rows []kine.Change, compact int64) {
	keys, last := map[string]*kine.Change{}, map[string]int64{}
	id := int64(1)
	rows = append(rows, kine.Change{ID: 1, Name: kine.CompactName, Created: true})
	for range n {
		id++
		if r.IntN(10) == 0 {
			if r.IntN(2) == 0 {
				rows = append(rows, kine.Change{ID: id, Name: kine.GapName(id), Deleted: true})
			}
			id++
		}
		c := kine.Change{ID: id, Name: fmt.Sprint("k", r.IntN(8))}
		c.PrevRevision = last[c.Name]
		before := keys[c.Name]
		switch {
		case before != nil:
			c.CreateRevision = before.CreateRevision
			if before.Created {
				c.CreateRevision = before.ID
			}
			c.Deleted = r.IntN(3) == 0
		case c.PrevRevision == 0 && r.IntN(10) == 0:
			c.Deleted = true
		default:
			c.Created = true
		}
		if !c.Deleted {
			c.Value, c.Lease = fmt.Append([]byte{}, id), int64(r.IntN(3)*60)
		}
		rows = append(rows, c)
		last[c.Name] = id
		if keys[c.Name] = &c; c.Deleted {
			delete(keys, c.Name)
		}
	}
	if r.IntN(4) == 0 {
		return rows, 0
	}
	compact = rows[r.IntN(len(rows))].ID
	freed := map[int64]bool{}
	for _, c := range rows {
		if c.ID <= compact && c.Key() {
			freed[c.PrevRevision] = true
			freed[c.ID] = freed[c.ID] || c.Deleted
		}
	}
	rows[0].PrevRevision = compact
	return slices.DeleteFunc(rows, func(c kine.Change) bool { return freed[c.ID] && c.ID > 1 }), compact
}

// fill makes a database of rows.
func fill(t *testing.T, rows []kine.Change) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	err := kine.Fill(t.Context(), kine.SQLite, path, func(add func(*kine.Change) error) error {
		for i := range rows {
			if err := add(&rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// view is what clients see at a revision.
type view map[string]string

// kineViews are those at all revisions from the compact revision on.
func kineViews(rows []kine.Change, compact int64) (views []view, current int64) {
	now := view{}
	at := max(compact, 1)
	for _, c := range rows {
		for ; at < c.ID; at++ {
			views = append(views, maps.Clone(now))
		}
		if !c.Key() {
			continue
		}
		create := c.CreateRevision
		if c.Created {
			create = c.ID
		}
		if now[c.Name] = fmt.Sprintf("%s create %d mod %d lease %d", c.Value, create, c.ID, c.Lease); c.Deleted {
			delete(now, c.Name)
		}
	}
	return append(views, now), at
}

func fileViews(t *testing.T, f *etcdfile.File) (views []view) {
	t.Helper()
	now := view{}
	at := max(f.Meta().Compact, 1)
	for row, err := range f.Rows() {
		if err != nil {
			t.Fatal(err)
		}
		for ; at < row.Main; at++ {
			views = append(views, maps.Clone(now))
		}
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(row.KeyValue, &kv); err != nil {
			t.Fatal(err)
		}
		switch {
		case row.Tombstone:
			delete(now, string(kv.Key))
		case !row.Marker():
			now[string(kv.Key)] = fmt.Sprintf("%s create %d mod %d lease %d", kv.Value, kv.CreateRevision, kv.ModRevision, kv.Lease)
		}
	}
	return append(views, now)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// moved runs a migration that has to succeed.
func moved(t *testing.T, o Options) Proof {
	t.Helper()
	o.Logger = quiet()
	proof, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// TestFromKine: a file that is made of a kine's table shows the same as the table at every revision that is kept; a log made of it is sound, and a table made of that is the same.
func TestFromKine(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		rows, compact := table(r, 5+r.IntN(60))
		from := Place{Kind: Kine, Dialect: kine.SQLite, Where: fill(t, rows)}
		path := filepath.Join(t.TempDir(), "snapshot")
		moved(t, Options{From: from, To: Place{Kind: Snapshot, Where: path}})
		f, err := etcdfile.Open(path, etcdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		want, current := kineViews(rows, compact)
		if got := fileViews(t, f); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d: the file shows\n%v\nand not\n%v", seed, got, want)
		}
		if m := f.Meta(); m.Revision != current || max(m.Compact, 0) != compact {
			t.Errorf("seed %d: revision %d, compacted at %d, and not %d, %d", seed, m.Revision, m.Compact, current, compact)
		}
		log := memory.NewStore().Open()
		if _, err := restore.Write(t.Context(), log, f, restore.Options{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		sum, err := verify.Walk(t.Context(), log, verify.Options{Report: func(f verify.Finding) { t.Errorf("seed %d: %v", seed, f) }})
		if err != nil || sum.Revision != current {
			t.Errorf("seed %d: %+v, %v", seed, sum, err)
		}
		back := filepath.Join(t.TempDir(), "state.db")
		moved(t, Options{From: Place{Kind: Snapshot, Where: path}, To: Place{Kind: Kine, Dialect: kine.SQLite, Where: back}, Accept: true})
		again := read(t, back)
		if got, at := kineViews(again, compact); fmt.Sprint(got) != fmt.Sprint(want) || at != current || again[0].PrevRevision != compact {
			t.Errorf("seed %d: the other table shows, at %d,\n%v\nand not, at %d,\n%v", seed, at, got, current, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func read(t *testing.T, path string) (rows []kine.Change) {
	t.Helper()
	db, err := kine.Open(t.Context(), kine.SQLite, path)
	if err != nil {
		t.Fatal(err)
	}
	err = db.All(t.Context(), func(c *kine.Change) error {
		one := *c
		one.Value = slices.Clone(c.Value)
		rows = append(rows, one)
		return nil
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestVersions: they are counted, and begin with 2 where the first ones are gone; the API server's own key has its version with it.
func TestVersions(t *testing.T) {
	path := fill(t, []kine.Change{
		{ID: 1, Name: kine.CompactName, Created: true, PrevRevision: 10},
		{ID: 5, Name: "old", CreateRevision: 3, PrevRevision: 4, Value: []byte("x")},
		{ID: 6, Name: kineAPIName, CreateRevision: 2, PrevRevision: 4, Value: []byte("7|900")},
		{ID: 11, Name: "old", CreateRevision: 3, PrevRevision: 5},
		{ID: 12, Name: "new", Created: true},
		{ID: 13, Name: "new", CreateRevision: 12, PrevRevision: 12},
		{ID: 14, Name: "new", Deleted: true, CreateRevision: 12, PrevRevision: 13},
		{ID: 15, Name: "new", Created: true, PrevRevision: 14},
		{ID: 16, Name: kineAPIName, CreateRevision: 2, PrevRevision: 6, Value: []byte("8|")},
	})
	to := filepath.Join(t.TempDir(), "snapshot")
	var notes []string
	moved(t, Options{From: Place{Kind: Kine, Dialect: kine.SQLite, Where: path}, To: Place{Kind: Snapshot, Where: to}, Plan: func(p Plan) { notes = p.Notes }})
	if !strings.Contains(fmt.Sprint(notes), "from 2 for 1 keys") {
		t.Errorf("the notes are %q", notes)
	}
	f, err := etcdfile.Open(to, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for row, err := range f.Rows() {
		var kv mvccpb.KeyValue
		if err = errors.Join(err, proto.Unmarshal(row.KeyValue, &kv)); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%v %s=%s %d", row.Revision, kv.Key, kv.Value, kv.Version))
	}
	want := []string{"5.0 old=x 2", "6.0 compact_rev_key=900 7", "11.0 old= 3", "12.0 new= 1", "13.0 new= 2", "14.0 new= 0", "15.0 new= 1", "16.0 compact_rev_key= 8"}
	if !slices.Equal(got, want) {
		t.Errorf("the rows are\n%q\nand not\n%q", got, want)
	}
}

// TestFirstRevision: etcd has no change at revision 1.
func TestFirstRevision(t *testing.T) {
	path := fill(t, []kine.Change{{ID: 1, Name: "k", Created: true}})
	_, err := Run(t.Context(), Options{From: Place{Kind: Kine, Dialect: kine.SQLite, Where: path}, To: Place{Kind: Snapshot, Where: filepath.Join(t.TempDir(), "x")}, Logger: quiet()})
	if err == nil || !strings.Contains(err.Error(), "change it once") {
		t.Error(err)
	}
}

// TestShared: several changes of one revision are refused, or renumbered, and the compact revision moves with them.
func TestShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	row := func(w *etcdfile.Writer, main, sub, create, version int64, key string) {
		b, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte(key), CreateRevision: create, ModRevision: main, Version: version})
		if version == 0 {
			b, err = proto.Marshal(&mvccpb.KeyValue{Key: []byte(key)})
		}
		if err = errors.Join(err, w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: main, Sub: sub}, Tombstone: version == 0, KeyValue: b})); err != nil {
			t.Fatal(err)
		}
	}
	err := writeFile(path, func(w *etcdfile.Writer) (*etcdfile.Meta, error) {
		row(w, 4, 0, 4, 1, "a")
		row(w, 4, 1, 4, 1, "b")
		row(w, 4, 2, 2, 3, "c")
		row(w, 7, 0, 4, 2, "a")
		row(w, 7, 1, 0, 0, "c")
		row(w, 8, 0, 8, 1, "c")
		m := &etcdfile.Meta{Compact: 6}
		complete(m)
		return m, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "state.db")
	o := Options{From: Place{Kind: Snapshot, Where: path}, To: Place{Kind: Kine, Dialect: kine.SQLite, Where: to}, Accept: true, Logger: quiet()}
	var planned Plan
	o.Plan = func(p Plan) { planned = p }
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrLoss) || len(planned.Kept) == 0 || len(planned.Lost) != 2 {
		t.Errorf("%v; the plan is %+v", err, planned)
	}
	o.Renumber, o.Accept = true, false
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrLoss) {
		t.Error(err)
	}
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was refused has made %v", err)
	}
	o.Accept = true
	moved(t, o)
	var got []string
	for _, c := range read(t, to) {
		got = append(got, fmt.Sprintf("%d %s %v %v create %d prev %d", c.ID, c.Name, c.Created, c.Deleted, c.CreateRevision, c.PrevRevision))
	}
	want := []string{
		"1 compact_rev_key true false create 0 prev 8", "4 a true false create 0 prev 0", "5 b true false create 0 prev 0", "6 c false false create 4 prev 0",
		"9 a false false create 4 prev 4", "10 c false true create 4 prev 6", "11 c true false create 0 prev 10",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the rows are\n%q\nand not\n%q", got, want)
	}
}
