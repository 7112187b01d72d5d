package restore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
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
		if left, _ := filepath.Glob(filepath.Join(base, "*", "*"+unfinished+"*")); len(left) > 0 {
			t.Errorf("it leaves %q", left)
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

// TestDirBrokenOff: what fails, or was killed, leaves nothing at its place, and does not stand in the way of the next.
func TestDirBrokenOff(t *testing.T) {
	f := taken(t, filled(t))
	base := t.TempDir()
	o := options(t, filepath.Join(base, "data"), "a", "b")
	o.WALDir = filepath.Join(base, "wal")
	for _, left := range []string{o.DataDir, o.WALDir} {
		if err := os.MkdirAll(filepath.Join(left+unfinished, "member"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(left+unfinished, "member", "keelson.db"), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	release, err := hold(o.DataDir + unfinished)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); !errors.Is(err, ErrBusy) {
		t.Errorf("beside another one: %v", err)
	}
	release()
	lost, err := etcdfile.Open(saved(t, filled(t)), etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lost.Close() // so that its rows cannot be read
	if _, err := Dir(t.Context(), lost, o, Options{}, discard()); err == nil {
		t.Error("a file that cannot be read was restored")
	}
	if got := string(tree(t, base)); got != base+"\n" {
		t.Errorf("it leaves\n%s", got)
	}
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
		t.Error(err)
	}
}

// TestDirKilledWhilePlaced: of a process that was killed when one directory was at its place and the other not, the one is taken back by the next, and nothing
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
	note := filepath.Join(o.DataDir+unfinished, placedWAL)
	kill := func() {
		t.Helper()
		info, err := os.Stat(o.WALDir)
		if err == nil {
			err = os.Rename(o.DataDir, o.DataDir+unfinished)
		}
		if err == nil {
			err = writeSynced(note, identify(info))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	kill()
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, base); !bytes.Equal(got, whole) {
		t.Errorf("there is\n%s\nand not\n%s", got, whole)
	}
	kill()
	if err := errors.Join(os.RemoveAll(o.WALDir), os.Mkdir(o.WALDir, 0o700), os.WriteFile(filepath.Join(o.WALDir, "other"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(t.Context(), f, o, Options{}, discard()); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a directory of somebody else's: %v", err)
	}
	if _, err := os.Stat(filepath.Join(o.WALDir, "other")); err != nil {
		t.Error(err)
	}
}
