package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/server/config"
	adopt "github.com/keelson-io/keelson/server/restore"
	"github.com/keelson-io/keelson/test/conformance/launch"
)

// left is the directory that a filled etcd has left when it was stopped.
func left(t *testing.T, seed uint64) (dir string, from int64) {
	t.Helper()
	dir = t.TempDir()
	s, from := filledIn(t, dir, seed)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	return dir, from
}

// contents tells everything that is in a directory.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", strings.TrimPrefix(path, dir), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestAdopt: a server that is started where an etcd was alone has what that had; the etcd's files are kept as they were, and no etcd begins anew there.
func TestAdopt(t *testing.T) {
	dir, from := left(t, 71)
	aside := filepath.Join(dir, "data", "member.etcd")
	was := contents(t, filepath.Join(dir, "data", "member"))
	k := startBinary(t, "keelson", dir)
	again := t.TempDir()
	if err := os.CopyFS(filepath.Join(again, "data", "member"), os.DirFS(aside)); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, aside); got != was {
		t.Error("the etcd's files are not what they were")
	}
	same(t, start(t, again), k, from)
	k.change(rand.New(rand.NewPCG(72, 72)), 20)
	rev, hash := k.revision(), k.hash(k.revision())
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	// What a kill at the very end leaves is removed.
	work := filepath.Join(dir, "data", "adopting")
	if err := errors.Join(os.Mkdir(work, 0o700), os.WriteFile(work+".lock", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := k.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := filepath.Glob(work + "*"); len(got) > 0 || err != nil {
		t.Errorf("there is %q, %v", got, err)
	}
	if k.revision() != rev || k.hash(rev) != hash {
		t.Errorf("after a restart revision %d, %s; it was %d, %s", k.revision(), k.hash(rev), rev, hash)
	}
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := launch.Start(t.Context(), launch.Options{Binary: tool(t, "etcd"), Dir: dir})
	if err == nil {
		t.Fatal("an etcd has begun a store of its own")
	}
	if log, _ := os.ReadFile(filepath.Join(dir, "server.log")); !bytes.Contains(log, []byte("failed to create snapshot directory")) {
		t.Errorf("the etcd says %s", log)
	}

}

// TestAdoptRestored: what etcdutl has restored, on one member and on each of three.
func TestAdoptRestored(t *testing.T) {
	original, from := filled(t, 73)
	saved := original.save()
	same(t, original, startBinary(t, "keelson", restore(t, saved)), from)
	urls := addresses(t, 3)
	var pairs []string
	for i, u := range urls {
		pairs = append(pairs, fmt.Sprintf("m%d=%s", i, u))
	}
	initial := strings.Join(pairs, ",")
	processes := make([]*launch.Process, len(urls))
	var g errgroup.Group
	for i, u := range urls {
		dir, name := t.TempDir(), fmt.Sprint("m", i)
		flags := []string{"--initial-cluster=" + initial, "--initial-advertise-peer-urls=" + u, "--initial-cluster-token=restored"}
		run(t, "etcdutl", append([]string{"snapshot", "restore", saved, "--data-dir", filepath.Join(dir, "data"), "--name", name, "--bump-revision", "1000", "--mark-compacted"}, flags...)...)
		if i == 0 {
			refused(t, dir, "it is of the member", "--name="+name, flags[0], flags[1], "--initial-cluster-token=other")
			refused(t, dir, "it is of the member", "--name=m1", flags[0], flags[2], "--initial-advertise-peer-urls="+urls[1])
			refused(t, dir, "couldn't find local name", flags...)
		}
		g.Go(func() (err error) {
			processes[i], err = launch.Start(t.Context(), launch.Options{Binary: tool(t, "keelson"), Dir: dir, Name: name, Flags: append(flags, "--listen-peer-urls="+u)})
			return err
		})
	}
	err := g.Wait()
	var members []*server
	for _, p := range processes {
		if p != nil {
			members = append(members, connect(t, p))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	e := start(t, restore(t, saved, "--bump-revision", "1000", "--mark-compacted"))
	for _, m := range members {
		m.settled(members[0])
		same(t, e, m, e.revision())
	}
}

// refused starts a server on a directory that it has to refuse, and to leave as it is.
func refused(t *testing.T, dir, says string, flags ...string) {
	t.Helper()
	was := contents(t, filepath.Join(dir, "data"))
	args := append([]string{"--data-dir", filepath.Join(dir, "data"), "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1", "--listen-peer-urls=http://127.0.0.1:0"}, flags...)
	out, err := exec.CommandContext(t.Context(), tool(t, "keelson"), args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !bytes.Contains(out, []byte(says)) {
		t.Errorf("%v, and it does not say %q:\n%s", err, says, out)
	}
	if got := contents(t, filepath.Join(dir, "data")); got != was {
		t.Error("the directory is not what it was")
	}
}

// TestAdoptRefused: what may lack what clients were told is done is not taken over, nor what cannot be put aside.
func TestAdoptRefused(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.change(rand.New(rand.NewPCG(74, 74)), 5)
	// One that runs and cannot write to its files.
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "the database is in use")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "start etcd on it once more and stop it with SIGTERM")
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.learner("http://127.0.0.1:1")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "one of several members")

	// Others have gone on without it.
	dir = t.TempDir()
	s = start(t, dir)
	list, err := s.MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	url, other := addresses(t, 1)[0], t.TempDir()
	self := list.Members[0]
	second := joined(t, s, "second", url, other, fmt.Sprintf("%s=%s,second=%s", self.Name, self.PeerURLs[0], url))
	healthy(t, func() error {
		_, err := second.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: self.ID})
		return err
	})
	<-s.Exited()
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "of a member that was removed")

	// A log that was cut.
	dir, _ = left(t, 75)
	files, err := filepath.Glob(filepath.Join(dir, "data", "member", "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, size := range []int64{5000, 0} {
		if err := os.Truncate(files[len(files)-1], size); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, map[int64]string{0: "no whole write-ahead log", 5000: "the write-ahead log ends at"}[size])
	}

	dir, _ = left(t, 75)
	wal := filepath.Join(dir, "data", "member", "wal")
	refused(t, dir, "it has a --wal-dir", "--wal-dir="+filepath.Join(t.TempDir(), "wal"))
	aside := filepath.Join(dir, "data", "member.etcd")
	if err := os.Mkdir(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "move it away")
	if err := errors.Join(os.Remove(aside), os.Rename(wal, filepath.Join(dir, "wal"))); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "there is no write-ahead log")

	// What was made of an etcd's is gone: an empty store would be served.
	if err := os.Rename(filepath.Join(dir, "data", "member"), aside); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "what was made of them is gone")
}

// healthy does what etcd refuses to do until its members have been connected for some seconds.
func healthy(t *testing.T, change func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := change()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// joined adds a member to an etcd, and starts it.
func joined(t *testing.T, s *server, name, url, dir, initial string) *server {
	t.Helper()
	healthy(t, func() error {
		_, err := s.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{url}})
		return err
	})
	p, err := launch.Start(t.Context(), launch.Options{Binary: tool(t, "etcd"), Dir: dir, Name: name, Flags: []string{
		"--initial-cluster=" + initial, "--initial-cluster-state=existing", "--initial-advertise-peer-urls=" + url, "--listen-peer-urls=" + url,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return connect(t, p)
}

// TestAdoptKilled: a server that is killed while it takes over what an etcd has left does so at the next start.
func TestAdoptKilled(t *testing.T) {
	rng := random(t)
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.Rename(filepath.Join(restore(t, large(t)), "data"), kept); err != nil {
		t.Fatal(err)
	}
	want := startCopy(t, kept).hash(0)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	args := []string{"--data-dir", data, "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1", "--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:1", "--initial-cluster=default=http://127.0.0.1:1"}
	fresh := func() {
		t.Helper()
		if err := errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(kept))); err != nil {
			t.Fatal(err)
		}
	}
	fresh()
	begun := time.Now()
	k := startBinary(t, "keelson", dir)
	takes := time.Since(begun)
	if err := k.Kill(); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for range kills / 3 {
		fresh()
		for range 2 {
			cmd := exec.Command(tool(t, "keelson"), args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rng.Int64N(int64(takes * 3 / 2))))
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if _, err := os.Stat(filepath.Join(data, "member", "snap", "db")); err != nil {
			taken++
		}
		k := startBinary(t, "keelson", dir)
		if got := k.hash(0); got != want {
			t.Errorf("%s, and it was %s", got, want)
		}
		if err := k.Kill(); err != nil {
			t.Fatal(err)
		}
		if left, err := filepath.Glob(filepath.Join(data, "*")); len(left) != 2 || err != nil {
			t.Errorf("there is %q, %v", left, err)
		}
	}
	t.Logf("%d of %d had been taken over", taken, kills/3)
	// The moment at which neither is at its place is too short to be hit.
	if err := errors.Join(os.Mkdir(filepath.Join(data, "adopting"), 0o700), os.Rename(filepath.Join(data, "member"), filepath.Join(data, "adopting", "member"))); err != nil {
		t.Fatal(err)
	}
	if got := startBinary(t, "keelson", dir).hash(0); got != want {
		t.Errorf("%s, and it was %s", got, want)
	}
}

// intruder is a log that puts a file into a directory as soon as that is there.
type intruder struct {
	slog.Handler
	dir string
}

func (i intruder) Enabled(context.Context, slog.Level) bool { return true }

func (i intruder) Handle(context.Context, slog.Record) error {
	if _, err := os.Stat(filepath.Join(i.dir, "member")); err != nil {
		return nil
	}
	return os.WriteFile(filepath.Join(i.dir, "other"), nil, 0o600)
}

// TestAdoptLeaves: what cannot be removed in the end does not make a takeover fail that is done.
func TestAdoptLeaves(t *testing.T) {
	dir, _ := left(t, 75)
	o := config.Default()
	o.DataDir = filepath.Join(dir, "data")
	o.EnsureDefaults()
	work := filepath.Join(o.DataDir, "adopting")
	if err := adopt.Adopt(t.Context(), &o, slog.New(intruder{slog.DiscardHandler, work})); err != nil {
		t.Error(err)
	}
	for _, path := range []string{filepath.Join(o.DataDir, "member", "keelson.db"), filepath.Join(work, "other")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	startBinary(t, "keelson", dir)
}

// startCopy starts an etcd on a copy of a data directory.
func startCopy(t *testing.T, data string) *server {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "data"), os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	return start(t, dir)
}
