package migrate

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/restore"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// TestMemberRefused: a member's database alone is not taken unasked, wherever its Raft log is, and whether its members tell of that or its last batch does.
func TestMemberRefused(t *testing.T) {
	f, err := etcdfile.Open(small(t, etcdfile.Meta{Compact: -1}), etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	made := func(initial, wal string) (dir string) {
		t.Helper()
		o := config.Default()
		o.DataDir, o.WALDir = filepath.Join(t.TempDir(), "data"), wal
		if initial != "" {
			o.Name, o.InitialCluster = "a", initial
			if o.AdvertisePeerURLs, err = config.ParseURLs("http://a.invalid:2380"); err != nil {
				t.Fatal(err)
			}
		}
		o.EnsureDefaults()
		if _, err := restore.Dir(t.Context(), f, &o, restore.Options{}, quiet()); err != nil {
			t.Fatal(err)
		}
		return o.DataDir
	}
	const cluster = "a=http://a.invalid:2380,b=http://b.invalid:2380"
	wal := filepath.Join(t.TempDir(), "wal")
	within, elsewhere, alone, once := made(cluster, ""), made(cluster, wal), made("", ""), made("", "")
	mark(t, once)
	for _, c := range []struct{ dir, wal, refusal string }{
		{within, "", "Raft log, in " + filepath.Join(within, "member", "raft")},
		{elsewhere, wal, "Raft log, in " + filepath.Join(wal, "raft")},
		{elsewhere, "", "(--wal-dir?)"},
		{once, "", "(--wal-dir?)"},
		{alone, wal, "Raft log, in " + filepath.Join(wal, "raft")}, // whose database may have nothing of it yet
		{alone, "", ""},
	} {
		var notes []string
		o := Options{
			From: Place{Kind: KeelsonDir, Where: c.dir}, To: Place{Kind: Snapshot, Where: filepath.Join(t.TempDir(), "snapshot")}, WALDir: c.wal,
			Member: config.Default(), Logger: quiet(), Plan: func(p Plan) { notes = p.Notes },
		}
		if c.refusal != "" {
			if _, err := Run(t.Context(), o); !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("%+v: %v", c, err)
			}
			o.IgnoreWAL = true
		}
		moved(t, o)
		if told := strings.Contains(strings.Join(notes, "\n"), "a member of a cluster"); told != (c.refusal != "") {
			t.Errorf("%+v: the notes are %q", c, notes)
		}
	}
}

// mark appends a change that came by way of a Raft log.
func mark(t *testing.T, dataDir string) {
	t.Helper()
	path, err := server.DatabasePath(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	log, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	end, _ := log.LastMark()
	b := &drivers.Batch{ID: drivers.BatchID{9}, Entries: []drivers.Entry{{Kind: mvcc.KindPut, Meta: append([]byte{50, 0, 0, 1, 0, 1}, "new"...)}}}
	if err := errors.Join(log.AppendAll(t.Context(), end, []sqlite.Marked{{Batch: b, Mark: sqlite.Mark{1}}}), log.Close()); err != nil {
		t.Fatal(err)
	}
}
