package backup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/backup"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/restore"
	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
	"github.com/keelson-io/keelson/test/s3"
)

var binDir = flag.String("bin", "../../.build/bin", "directory of keelson, etcdctl and versitygw")

func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(*binDir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build peers builds it", err)
	}
	return path
}

// place is a target with the flags and variables that name it.
type place struct {
	target  backup.Target
	flags   []string
	store   []string // those of them that say where the store is
	environ []string
	options backup.S3Options
	server  *s3.Server // nil for a directory
}

func directory(t *testing.T) place {
	dir := filepath.Join(t.TempDir(), "backups")
	return place{target: backup.AtDir(dir), flags: []string{"--backup-dir=" + dir}}
}

func bucket(t *testing.T) place {
	t.Helper()
	return bucketOf(t, s3.Options{Binary: binary(t, "versitygw"), Dir: t.TempDir()})
}

// securedBucket is one behind TLS, with a certificate that only its own authority vouches for.
func securedBucket(t *testing.T) place {
	t.Helper()
	dir := t.TempDir()
	pki(t, dir)
	p := bucketOf(t, s3.Options{
		Binary: binary(t, "versitygw"), Dir: t.TempDir(), CertFile: filepath.Join(dir, "server.crt"), KeyFile: filepath.Join(dir, "server.key"),
	})
	p.options.CAFile = filepath.Join(dir, "ca.crt")
	p.store = append(p.store, "--backup-s3-trusted-ca-file="+p.options.CAFile)
	p.flags = append(p.flags, "--backup-s3-trusted-ca-file="+p.options.CAFile)
	var err error
	if p.target, err = backup.OpenS3(p.options); err != nil {
		t.Fatal(err)
	}
	return p
}

func bucketOf(t *testing.T, so s3.Options) place {
	t.Helper()
	server, err := s3.Start(t.Context(), so)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Kill(); err != nil {
			t.Error(err)
		}
	})
	if err := server.MakeBucket(t.Context(), "backups"); err != nil {
		t.Fatal(err)
	}
	o := backup.S3Options{Bucket: "backups", Prefix: "some/folder", Endpoint: server.URL(), Getenv: func(name string) string {
		for _, e := range s3.Environ() {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}}
	target, err := backup.OpenS3(o)
	if err != nil {
		t.Fatal(err)
	}
	store := []string{"--backup-s3-endpoint=" + server.URL()}
	return place{
		target: target, options: o, server: server, environ: s3.Environ(), store: store,
		flags: slices.Concat([]string{"--backup-s3-bucket=backups", "--backup-s3-prefix=some/folder"}, store),
	}
}

func places() map[string]func(*testing.T) place {
	return map[string]func(*testing.T) place{"dir": directory, "s3": bucket, "s3 with TLS": securedBucket}
}

// node is a server process and a connection to it.
type node struct {
	*launch.Process
	*grpc.ClientConn
}

// start starts servers as one cluster.
func start(t *testing.T, all ...launch.Options) (nodes []node) {
	t.Helper()
	for i := range all {
		all[i].Binary, all[i].Dir = binary(t, "keelson"), t.TempDir()
	}
	processes, err := launch.StartCluster(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		conn, err := script.Dial(p.Endpoint())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(conn.Close(), p.Kill()); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("the end of %s:\n%s", p.LogPath(), p.LogTail())
			}
		})
		nodes = append(nodes, node{p, conn})
	}
	return nodes
}

// metric gives a sample of /metrics, 0 if it is not there or the server is not.
func (n node) metric(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + n.Endpoint() + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Error(err)
			}
			return v
		}
	}
	return 0
}

const (
	made       = `keelson_backup_attempts_total{result="success"}`
	failed     = `keelson_backup_attempts_total{result="failure"}`
	inProgress = "keelson_backup_in_progress"
)

// hang pauses the store while a server makes a backup.
func (p place) hang(t *testing.T, n node) {
	t.Helper()
	until(t, "the store hangs while a backup is made", func() bool {
		if n.metric(t, inProgress) != 1 {
			return false
		}
		if err := p.server.Pause(); err != nil {
			t.Fatal(err)
		}
		if n.metric(t, inProgress) == 1 {
			return true
		}
		if err := p.server.Resume(); err != nil {
			t.Fatal(err)
		}
		return false
	})
}

// until waits for something.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for !is() {
		select {
		case <-t.Context().Done():
			t.Fatalf("in vain: until %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// sound gives the backups that there are, each of which has to be whole.
func (p place) sound(t *testing.T) []backup.Backup {
	t.Helper()
	all, err := p.target.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	backup.Sort(all)
	for _, b := range all {
		path, cleanup := p.fetch(t, b)
		f, err := etcdfile.Open(path, etcdfile.Options{})
		if err != nil {
			t.Errorf("%s: %v", b.Name(), err)
			continue
		}
		if got := f.Meta().Revision; got != b.Revision {
			t.Errorf("%s has revision %d", b.Name(), got)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		cleanup()
	}
	return all
}

func (p place) fetch(t *testing.T, b backup.Backup) (string, func()) {
	t.Helper()
	path, cleanup, err := backup.Fetch(t.Context(), p.target.String()+b.Name(), "", p.options)
	if err != nil {
		t.Fatal(err)
	}
	return path, cleanup
}

// load puts pairs of keys that always have the same value, until it is told to stop.
func load(t *testing.T, n node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for w := range 4 {
		g.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				value := fmt.Appendf(nil, "%d %s", i, bytes.Repeat([]byte("x"), 1000))
				txn := &pb.TxnRequest{}
				for _, side := range "ab" {
					key := fmt.Appendf(nil, "pair/%d/%d/%c", w, i%50, side)
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value}}})
				}
				// A server that is killed gives errors.
				_, _ = pb.NewKVClient(n).Txn(ctx, txn)
				time.Sleep(2 * time.Millisecond) // the history stays small
			}
		})
	}
	return func() {
		cancel()
		g.Wait()
	}
}

// restored restores a backup, starts a server on it, and compares what it has with what the server had that the backup is of.
func (p place) restored(t *testing.T, of node, b backup.Backup) {
	t.Helper()
	path, cleanup := p.fetch(t, b)
	defer cleanup()
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	o := config.Default()
	o.DataDir = filepath.Join(dir, "data")
	o.EnsureDefaults()
	if _, err := restore.Dir(t.Context(), f, &o, restore.Options{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	process, err := launch.Start(t.Context(), launch.Options{Binary: binary(t, "keelson"), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := script.Dial(process.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(conn.Close(), process.Stop()); err != nil {
			t.Error(err)
		}
	}()
	var hashes [2]*pb.HashKVResponse
	for i, c := range []grpc.ClientConnInterface{of, conn} {
		if hashes[i], err = pb.NewMaintenanceClient(c).HashKV(t.Context(), &pb.HashKVRequest{Revision: b.Revision}); err != nil {
			t.Fatal(err)
		}
	}
	if hashes[0].Hash != hashes[1].Hash || hashes[0].CompactRevision != hashes[1].CompactRevision {
		t.Errorf("%s: there were %+v, and came back %+v", b.Name(), hashes[0], hashes[1])
	}
	resp, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("pair/"), RangeEnd: []byte("pair0")})
	if err != nil || len(resp.Kvs) == 0 || len(resp.Kvs)%2 != 0 || resp.Header.Revision != b.Revision {
		t.Fatalf("%d keys at revision %d, want %d: %v", len(resp.GetKvs()), resp.GetHeader().GetRevision(), b.Revision, err)
	}
	for i := 0; i < len(resp.Kvs); i += 2 {
		if a, b := resp.Kvs[i], resp.Kvs[i+1]; !bytes.Equal(a.Value, b.Value) || a.ModRevision != b.ModRevision {
			t.Errorf("%s and %s were written together and are not the same", a.Key, b.Key)
		}
	}
}

// TestDrill: backups are made under load, old ones are removed, no kill leaves anything bad, and what there is can be restored.
func TestDrill(t *testing.T) {
	for _, name := range []string{"dir", "s3"} {
		t.Run(name, func(t *testing.T) {
			p := places()[name](t)
			n := start(t, launch.Options{Flags: append(p.flags, "--backup-schedule=@every 1s", "--backup-keep=3"), Env: p.environ})[0]
			stop := load(t, n)
			for round := range 4 {
				until(t, "two backups are made", func() bool { return n.metric(t, made) >= 2 })
				hang := p.server != nil && round%2 == 1
				if hang {
					// So that it is hit where it has sent something, and not all.
					p.hang(t, n)
				} else {
					until(t, "one is being made", func() bool { return n.metric(t, inProgress) == 1 })
				}
				if err := n.Kill(); err != nil {
					t.Fatal(err)
				}
				if hang {
					if err := p.server.Resume(); err != nil {
						t.Fatal(err)
					}
				}
				// The one that was not finished may be there and whole.
				if got := len(p.sound(t)); got < 1 || got > 4 {
					t.Errorf("%d backups", got)
				}
				if err := n.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "three backups are made", func() bool { return n.metric(t, made) >= 3 })
			stop()
			// The last one is made when nothing is written any more.
			last := n.metric(t, made)
			until(t, "another one is made", func() bool { return n.metric(t, made) > last+1 })
			if n.metric(t, failed) > 0 {
				t.Errorf("%v backups failed", n.metric(t, failed))
			}
			if err := n.withoutBackups(t); err != nil {
				t.Fatal(err)
			}
			all := p.sound(t)
			// The stop may have come just before the oldest one was removed.
			if len(all) != 3 && len(all) != 4 {
				t.Errorf("%d backups, want 3", len(all))
			}
			for _, b := range all {
				p.restored(t, n, b)
			}
			if p.server == nil {
				left, err := filepath.Glob(p.target.String() + "*.part")
				if err != nil || len(left) > 1 {
					t.Errorf("there are %q, %v", left, err)
				}
			}
		})
	}
}

// withoutBackups restarts a server without backups.
func (n node) withoutBackups(t *testing.T) error {
	t.Helper()
	return errors.Join(n.Stop(), n.RestartWith(t.Context()))
}

// command runs keelson with the variables of the place. Its temporary files are to be gone after it.
func (p place) command(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	temp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary(t, "keelson"), args...)
	cmd.Env = slices.Concat(os.Environ(), p.environ, []string{"TMPDIR=" + temp})
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%q: %w\n%s", args, err, stderr.String())
	}
	if left, rerr := os.ReadDir(temp); rerr != nil || len(left) > 0 {
		t.Errorf("%q has left %v, %v", args, left, rerr)
	}
	return string(stdout), err
}

func (p place) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.command(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCommand: a backup now, and what there is. Both do what the server does with the same flags.
func TestCommand(t *testing.T) {
	for name, open := range places() {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			n := start(t, launch.Options{})[0]
			stop := load(t, n)
			until(t, "something is there", func() bool { return n.metric(t, "etcd_debugging_mvcc_keys_total") > 100 })
			stop()
			for i := range 3 {
				out := p.run(t, append([]string{"backup", "--endpoints=" + n.Endpoint(), "--backup-keep=2"}, p.flags...)...)
				all := p.sound(t)
				if len(all) != min(i+1, 2) || !strings.HasPrefix(out, p.target.String()+all[len(all)-1].Name()+"  revision ") {
					t.Errorf("there are %+v, and it says %q", all, out)
				}
			}
			all := p.sound(t)
			list := p.run(t, append([]string{"backup", "list"}, p.flags...)...)
			if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 2 || !strings.Contains(lines[1], all[1].Name()) {
				t.Errorf("the list is %q", list)
			}
			list = p.run(t, append([]string{"backup", "list", "--json"}, p.flags...)...)
			if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 2 || !strings.Contains(lines[0], fmt.Sprintf(`"revision":%d`, all[0].Revision)) {
				t.Errorf("the list is %q", list)
			}
			p.restored(t, n, all[1])
		})
	}
}

// TestCluster: of three members the leader makes the backups, and then the next one.
func TestCluster(t *testing.T) {
	p := bucket(t)
	o := launch.Options{Flags: append(p.flags, "--backup-schedule=@every 2s"), Env: p.environ}
	a, b, c := o, o, o
	a.Name, b.Name, c.Name = "a", "b", "c"
	nodes := start(t, a, b, c)
	var leader node
	until(t, "somebody leads and makes backups", func() bool {
		for _, n := range nodes {
			if n.metric(t, made) >= 2 {
				leader = n
				return true
			}
		}
		return false
	})
	sum := 0.0
	for _, n := range nodes {
		sum += n.metric(t, made)
		if n.metric(t, made) > 0 && n.metric(t, "etcd_server_is_leader") != 1 {
			t.Errorf("%s does not lead, and has made %v backups", n.Endpoint(), n.metric(t, made))
		}
	}
	if all := p.sound(t); float64(len(all)) < sum {
		t.Errorf("%v backups were made, and there are %d", sum, len(all))
	}
	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "the next one makes them", func() bool {
		for _, n := range nodes {
			if n.Endpoint() != leader.Endpoint() && n.metric(t, made) >= 2 {
				return true
			}
		}
		return false
	})
	all := p.sound(t)
	for _, b := range all {
		if b.Cluster != all[0].Cluster {
			t.Errorf("%+v and %+v are of one cluster", all[0], b)
		}
	}
	for i := 1; i < len(all); i++ {
		if d := all[i].Time.Sub(all[i-1].Time); d < time.Second {
			t.Errorf("%s was made %v after the one before", all[i].Name(), d)
		}
	}
}

// discreet sees that a server's log has no secret, whatever went wrong.
func (n node) discreet(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(n.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte("backups are made")) {
		t.Error("the log does not tell of backups")
	}
	for _, secret := range []string{s3.AccessKey, s3.SecretKey} {
		if bytes.Contains(log, []byte(secret)) {
			t.Errorf("the log has %s", secret)
		}
	}
}

// TestRefused: a store that takes the server for somebody else costs nothing but the backups, and its log tells no secret.
func TestRefused(t *testing.T) {
	p := bucket(t)
	file := filepath.Join(t.TempDir(), "credentials")
	// The right one is not there, and the wrong one has both secrets in it.
	text := "[default]\naws_access_key_id = " + s3.AccessKey + "\naws_secret_access_key = not-" + s3.SecretKey + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, launch.Options{Flags: append(p.flags, "--backup-schedule=@every 1s", "--log-level=debug", "--backup-s3-credentials-file="+file)})[0]
	until(t, "backups fail", func() bool { return n.metric(t, failed) >= 2 })
	if n.metric(t, "keelson_backup_last_result") != 0 || n.metric(t, made) > 0 {
		t.Error("a backup was made by somebody else")
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, "not-", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "they are made with the right credentials", func() bool { return n.metric(t, made) >= 1 })
	n.discreet(t)
}

// TestAway: a store that is away costs nothing but the backups, and those come when it is back.
func TestAway(t *testing.T) {
	p := bucket(t)
	if err := p.server.Kill(); err != nil {
		t.Fatal(err)
	}
	n := start(t, launch.Options{Flags: append(p.flags, "--backup-schedule=@every 1s"), Env: p.environ})[0]
	until(t, "backups fail", func() bool { return n.metric(t, failed) >= 2 })
	if _, err := pb.NewKVClient(n).Put(t.Context(), &pb.PutRequest{Key: []byte("k")}); err != nil {
		t.Error(err)
	}
	if n.metric(t, made) > 0 {
		t.Error("a backup was made of nothing")
	}
	if err := p.server.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "they are made", func() bool { return n.metric(t, made) >= 1 })
	n.discreet(t)
	// A stop does not wait for a store that hangs.
	p.hang(t, n)
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.server.Resume(); err != nil {
		t.Fatal(err)
	}
	p.sound(t)
}

// TestDirectoryAway: a server serves though it cannot write its backups, tells it, and makes them when it can.
func TestDirectoryAway(t *testing.T) {
	above := filepath.Join(t.TempDir(), "mounted")
	p := place{target: backup.AtDir(filepath.Join(above, "backups")), flags: []string{"--backup-dir=" + filepath.Join(above, "backups")}}
	n := start(t, launch.Options{Flags: append(p.flags, "--backup-schedule=@every 1s")})[0]
	until(t, "a backup fails", func() bool { return n.metric(t, failed) >= 1 })
	if err := os.Mkdir(above, 0o700); err != nil {
		t.Fatal(err)
	}
	until(t, "a backup is made", func() bool { return n.metric(t, made) >= 1 })
	p.sound(t)
}

// TestRefusedAtStart: what can never work is told before the server serves.
func TestRefusedAtStart(t *testing.T) {
	for says, flags := range map[string][]string{
		"--backup-schedule":                  {"--backup-schedule=0 25 * * *", "--backup-dir=" + t.TempDir()},
		"it never comes":                     {"--backup-schedule=0 0 31 2 *", "--backup-dir=" + t.TempDir()},
		"backups have one place":             {"--backup-schedule=@daily", "--backup-dir=" + t.TempDir(), "--backup-s3-bucket=b"},
		"no credentials":                     {"--backup-schedule=@daily", "--backup-s3-bucket=backups", "--backup-s3-endpoint=http://127.0.0.1:1"},
		"the endpoint of the bucket is no":   {"--backup-schedule=@daily", "--backup-s3-bucket=backups", "--backup-s3-endpoint=ftp://127.0.0.1:1"},
		"Bucket name cannot be shorter than": {"--backup-schedule=@daily", "--backup-s3-bucket=b"},
	} {
		cmd := exec.CommandContext(t.Context(), binary(t, "keelson"), append(flags, "--data-dir="+filepath.Join(t.TempDir(), "data"))...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), says) {
			t.Errorf("%q: %v\n%s", flags, err, out)
		}
	}
}
