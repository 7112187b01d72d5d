package restore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// options are those of one of the members of a cluster, or of one that is alone.
func options(t *testing.T, dir, name string, others ...string) *config.Options {
	t.Helper()
	o := config.Default()
	o.Name, o.DataDir = name, dir
	var initial []string
	for _, n := range append(others, name) {
		initial = append(initial, n+"=http://"+n+".invalid:2380")
	}
	o.InitialCluster = strings.Join(initial, ",")
	urls, err := config.ParseURLs("http://" + name + ".invalid:2380")
	if err != nil {
		t.Fatal(err)
	}
	o.AdvertisePeerURLs = urls
	return &o
}

func TestDir(t *testing.T) {
	f := taken(t, filled(t))
	for _, wal := range []bool{false, true} {
		base := t.TempDir()
		o := options(t, filepath.Join(base, "deep", "data"), "a", "b", "c")
		if wal {
			o.WALDir = filepath.Join(base, "wal")
		}
		if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
			t.Fatal(err)
		}
		log, err := raft.Open(t.Context(), raft.Options{Database: sqlite.Options{Path: filepath.Join(o.DataDir, "member", "keelson.db")}, Dir: server.RaftDir(*o), Logger: discard()})
		if err != nil {
			t.Fatal(err)
		}
		ix := serve(t, log).Index()
		if clustered, err := raft.Clustered(server.RaftDir(*o)); !clustered || err != nil || len(ix.Members()) != 3 || ix.Rev != f.Meta().Revision {
			t.Errorf("of a cluster: %v, %v, %d members, revision %d", clustered, err, len(ix.Members()), ix.Rev)
		}
		t.Cleanup(func() { log.Close() })
		if got := tree(t, base); bytes.Contains(got, []byte(server.Restoring)) {
			t.Errorf("it leaves\n%s", got)
		}
		before := tree(t, base)
		if _, err := Dir(t.Context(), f, o, Options{}, discard()); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("to where there is something: %v", err)
		}
		if after := tree(t, base); !bytes.Equal(before, after) {
			t.Errorf("it was\n%s\nand is\n%s", before, after)
		}
	}
}

// tree names what is under a directory.
func tree(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !strings.HasSuffix(path, "-shm") && !strings.HasSuffix(path, "-wal") {
			b.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDirAlone: a member that is alone has no Raft log, and an empty directory may be where its data come to be.
func TestDirAlone(t *testing.T) {
	f := taken(t, filled(t))
	o := options(t, t.TempDir(), "a")
	if _, err := Dir(t.Context(), f, o, Options{Bump: 5}, discard()); err != nil {
		t.Fatal(err)
	}
	if clustered, err := raft.Clustered(server.RaftDir(*o)); clustered || err != nil {
		t.Errorf("of a cluster: %v, %v", clustered, err)
	}
}

// TestDirIndistinct: of one snapshot two stores are made whose backups are told apart, also where no flag sets them apart.
func TestDirIndistinct(t *testing.T) {
	f := taken(t, filled(t))
	clusters := map[uint64]bool{}
	for range 2 {
		o := config.Default()
		o.DataDir = t.TempDir()
		o.EnsureDefaults()
		if _, err := Dir(t.Context(), f, &o, Options{}, discard()); err != nil {
			t.Fatal(err)
		}
		path, err := server.DatabasePath(o.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		log, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		store, err := sqllog.Open(t.Context(), sqllog.Options{Log: log, Logger: discard(), Publish: func(*mvcc.Index, []*mvcc.Event) {}})
		if err != nil {
			t.Fatal(err)
		}
		clusters[store.Index().Member().ClusterID] = true
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(clusters) != 2 {
		t.Errorf("the clusters are %v", clusters)
	}
}

// TestDirBrokenOff: what fails, or was killed, leaves nothing at its place, and does not stand in the way of the next.
func TestDirBrokenOff(t *testing.T) {
	f := taken(t, filled(t))
	base := t.TempDir()
	o := options(t, filepath.Join(base, "data"), "a", "b")
	o.WALDir = filepath.Join(base, "wal")
	lost, err := etcdfile.Open(saved(t, filled(t)), etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lost.Close() // so that its rows cannot be read
	fail := func(want string) {
		t.Helper()
		if _, err := Dir(t.Context(), lost, o, Options{}, discard()); err == nil {
			t.Error("a file that cannot be read was restored")
		}
		if got := string(tree(t, base)); got != want {
			t.Errorf("it leaves\n%s", got)
		}
	}
	fail(base + "\n")
	for _, left := range []string{o.DataDir, o.WALDir} {
		if err := os.MkdirAll(filepath.Join(left, server.Restoring, "member"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(left, server.Restoring, "member", "keelson.db"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.DatabasePath(o.DataDir); err == nil || !strings.Contains(err.Error(), "restore again") {
		t.Errorf("a server on it: %v", err)
	}
	fail(base + "\n" + o.DataDir + "\n" + o.WALDir + "\n")
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
		t.Error(err)
	}
	if _, err := server.DatabasePath(o.DataDir); err != nil {
		t.Errorf("a server on what is whole: %v", err)
	}
}

// TestDirHeld: each of the two directories is one restore's alone, and who is refused takes nothing away.
func TestDirHeld(t *testing.T) {
	f := taken(t, filled(t))
	base := t.TempDir()
	first, second, third := options(t, filepath.Join(base, "1"), "a", "b"), options(t, filepath.Join(base, "2"), "a", "b"), options(t, filepath.Join(base, "1"), "a", "b")
	first.WALDir, second.WALDir, third.WALDir = filepath.Join(base, "wal"), filepath.Join(base, "wal"), filepath.Join(base, "wal of 3")
	s, err := occupy(first)
	if err != nil {
		t.Fatal(err)
	}
	before := tree(t, base)
	for _, o := range []*config.Options{first, second, third} {
		if _, err := Dir(t.Context(), f, o, Options{}, discard()); !errors.Is(err, ErrBusy) {
			t.Errorf("%s, %s: %v", o.DataDir, o.WALDir, err)
		}
	}
	if got := tree(t, base); !bytes.Equal(got, before) {
		t.Errorf("there is\n%s\nand not\n%s", got, before)
	}
	s.leave()
	s.release()
	if _, err := Dir(t.Context(), f, second, Options{}, discard()); err != nil {
		t.Error(err)
	}
	if _, err := Dir(t.Context(), f, first, Options{}, discard()); err == nil || !strings.Contains(err.Error(), "wal-dir") {
		t.Errorf("with a --wal-dir in which there is something: %v", err)
	}
}

// TestDirPlaces: directories that are there and empty, symlinks to such, and the current one are used and stay what they are.
func TestDirPlaces(t *testing.T) {
	f := taken(t, filled(t))
	for name, c := range map[string]struct {
		made, data, wal string
		linked          bool
	}{
		"empty":         {"d d/lost+found w", "d", "w", false},
		"symlinks":      {"d w", "link to d", "link to w", true},
		"current":       {"w", ".", "w", false},
		"within":        {"d d/wal", "d", "d/wal", false},
		"within, new":   {"", "d", "d/wal", false},
		"above a link":  {"d", "link to d/data", "link to d/wal", true},
		"with a detour": {"d", "d/../x/", "./w/.", false},
	} {
		base := t.TempDir()
		t.Chdir(base)
		for _, dir := range strings.Fields(c.made) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if c.linked {
			if err := errors.Join(os.Symlink("d", "link to d"), os.Symlink(filepath.Join(base, "w"), "link to w")); err != nil {
				t.Fatal(err)
			}
		}
		there := map[string]os.FileInfo{}
		for _, path := range append(strings.Fields(c.made), "link to d", "link to w") {
			if info, err := os.Lstat(path); err == nil {
				there[path] = info
			}
		}
		o := options(t, c.data, "a", "b")
		o.WALDir = c.wal
		if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		clustered, err := raft.Clustered(filepath.Join(c.wal, "raft"))
		if _, serr := os.Stat(filepath.Join(c.data, "member", "keelson.db")); serr != nil || err != nil || !clustered {
			t.Errorf("%s: %v, %v, %v", name, serr, clustered, err)
		}
		for path, info := range there {
			if now, err := os.Lstat(path); err != nil || !os.SameFile(info, now) {
				t.Errorf("%s: %s is another one, %v", name, path, err)
			}
		}
		if got := tree(t, base); bytes.Contains(got, []byte(server.Restoring)) {
			t.Errorf("%s: it leaves\n%s", name, got)
		}
	}
}

// TestDirRefused: places that cannot be used are refused before anything is made.
func TestDirRefused(t *testing.T) {
	f := taken(t, filled(t))
	base := t.TempDir()
	t.Chdir(base)
	if err := errors.Join(os.Symlink("nothing", "dangling"), os.Mkdir("d", 0o700), os.WriteFile("file", nil, 0o600), os.Mkdir("full", 0o700), os.Mkdir("full/member", 0o700)); err != nil {
		t.Fatal(err)
	}
	before := tree(t, base)
	for _, c := range []struct{ data, wal, text string }{
		{"dangling", "", "symlink to nothing"},
		{"d", "dangling", "symlink to nothing"},
		{"d", "d", "in the way"},
		{"d", "d/member", "in the way"},
		{"d", "d/" + server.Restoring, "in the way"},
		{"d", "d/" + server.Restoring + lockSuffix, "in the way"},
		{"file", "", "not empty or could not be read"},
		{"full", "", "not empty or could not be read"},
		{"d", "full", "wal-dir"},
		{"full/new", "full", "wal-dir"},
	} {
		o := options(t, c.data, "a", "b")
		o.WALDir = c.wal
		if _, err := Dir(t.Context(), f, o, Options{}, discard()); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s, %s: %v", c.data, c.wal, err)
		}
		if got := tree(t, base); !bytes.Equal(got, before) {
			t.Errorf("%s, %s: there is\n%s\nand not\n%s", c.data, c.wal, got, before)
		}
	}
}

// TestDirKilledWhilePlaced: of a process that was killed when the Raft log was at its place and the data not, the one is taken back by the next, and nothing
// else is.
func TestDirKilledWhilePlaced(t *testing.T) {
	f := taken(t, filled(t))
	base := t.TempDir()
	o := options(t, filepath.Join(base, "data"), "a", "b")
	o.WALDir = filepath.Join(base, "wal")
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
		t.Fatal(err)
	}
	whole := tree(t, base)
	work, placed := filepath.Join(o.DataDir, server.Restoring), filepath.Join(o.WALDir, "raft")
	kill := func() {
		t.Helper()
		info, err := os.Stat(placed)
		if err == nil {
			err = os.Mkdir(work, 0o700)
		}
		if err == nil {
			err = os.Rename(filepath.Join(o.DataDir, "member"), filepath.Join(work, "member"))
		}
		if err == nil {
			err = writeSynced(filepath.Join(work, placedWAL), identify(info))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	kill()
	if _, err := server.DatabasePath(o.DataDir); err == nil {
		t.Error("a server would have begun on it")
	}
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, base); !bytes.Equal(got, whole) {
		t.Errorf("there is\n%s\nand not\n%s", got, whole)
	}
	kill()
	if err := errors.Join(os.RemoveAll(placed), os.Mkdir(placed, 0o700), os.WriteFile(filepath.Join(placed, "other"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err == nil || !strings.Contains(err.Error(), "wal-dir") {
		t.Errorf("a directory of somebody else's: %v", err)
	}
	if _, err := os.Stat(filepath.Join(placed, "other")); err != nil {
		t.Error(err)
	}
}

// TestDirUnsynced: a disk that fails while the names are made durable leaves both directories at their places, or neither.
func TestDirUnsynced(t *testing.T) {
	for failing, want := range map[string]bool{"wal": false, "data": true} {
		base := t.TempDir()
		o := options(t, filepath.Join(base, "data"), "a", "b")
		o.WALDir = filepath.Join(base, "wal")
		s, err := occupy(o)
		if err == nil {
			err = errors.Join(os.Mkdir(s.data.work("member"), 0o700), os.Mkdir(s.wal.work("raft"), 0o700))
		}
		if err != nil {
			t.Fatal(err)
		}
		s.sync = func(dir string) error {
			if filepath.Base(dir) == failing {
				return syscall.EIO
			}
			return nil
		}
		err = s.finish(s.place())
		s.release()
		if !errors.Is(err, syscall.EIO) || errors.Is(err, ErrUnsynced) != want {
			t.Errorf("%s: %v", failing, err)
		}
		for _, path := range []string{filepath.Join(o.DataDir, "member"), filepath.Join(o.WALDir, "raft")} {
			if exists(path) != want {
				t.Errorf("%s: %s is there: %v", failing, path, !want)
			}
		}
		if !want && exists(o.DataDir) {
			t.Errorf("%s: it leaves\n%s", failing, tree(t, base))
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
