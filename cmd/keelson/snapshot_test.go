package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// snapshotFile makes a snapshot of n keys, each at a revision of its own.
func snapshotFile(t *testing.T, n int, meta *etcdfile.Meta) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "snapshot.db")
	w, err := etcdfile.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		rev := int64(i + 2)
		kv := mvcc.AppendKeyValue(nil, fmt.Sprintf("key%04d", i), &mvcc.Version{Main: rev, Create: rev, Count: 1}, []byte(strings.Repeat("v", 100)))
		if err := w.Add(etcdfile.Row{Revision: etcdfile.Revision{Main: rev}, KeyValue: kv}); err != nil {
			t.Fatal(err)
		}
	}
	meta.Version = etcdfile.StorageVersion
	if err := errors.Join(w.Finish(meta), w.Close(), etcdfile.AppendHash(path)); err != nil {
		t.Fatal(err)
	}
	return path
}

func plain() *etcdfile.Meta { return &etcdfile.Meta{Compact: -1} }

// bare gives a copy of a snapshot without its sha256, as a member's database is.
func bare(t *testing.T, path string) string {
	t.Helper()
	b := contents(t, path)
	return written(t, b[:len(b)-etcdfile.HashSize])
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func written(t *testing.T, b []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSnapshotStatus(t *testing.T) {
	path := snapshotFile(t, 30, plain())
	f, err := etcdfile.Open(path, etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := f.Status()
	if err != nil {
		t.Fatal(err)
	}
	size := formatBytes(want.TotalSize)
	line := fmt.Sprintf("%x, 31, 30, %s, 3.6.0\n", want.Hash, size)
	for _, args := range [][]string{{path}, {"-w", "simple", path}, {path, "--write-out=simple"}} {
		if o := run(t, nil, append([]string{"snapshot", "status"}, args...)...); o.code != 0 || o.stdout != line || o.stderr != "" {
			t.Errorf("%v: %+v", args, o)
		}
	}
	if o := run(t, nil, "snapshot", "status", bare(t, path)); o.stdout != line {
		t.Errorf("without its sha256: %+v", o)
	}
	o := run(t, nil, "snapshot", "status", path, "-w", "fields")
	if o.stdout != fmt.Sprintf("\"Hash\" : %d\n\"Revision\" : 31\n\"Keys\" : 30\n\"Size\" : %d\n\"Version\" : 3.6.0\n", want.Hash, want.TotalSize) {
		t.Errorf("%+v", o)
	}
	o = run(t, nil, "snapshot", "status", path, "-w", "json")
	var got etcdfile.Status
	if err := json.Unmarshal([]byte(o.stdout), &got); err != nil || got != want {
		t.Errorf("%+v, %v: %+v", o, err, got)
	}
	o = run(t, nil, "snapshot", "status", path, "-w", "table")
	if lines := strings.Split(o.stdout, "\n"); len(lines) != 6 || !strings.Contains(lines[1], "│ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │") ||
		!strings.Contains(lines[3], "│       31 │         30 │") {
		t.Errorf("%s", o.stdout)
	}
	altered := contents(t, path)
	altered[len(altered)/2] ^= 4
	for text, args := range map[string][]string{"altered": {written(t, altered)}, "no such file": {path + "x"}, "not a file": {t.TempDir()}} {
		if o := run(t, nil, append([]string{"snapshot", "status"}, args...)...); o.code != 1 || o.stdout != "" || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 9: "9 B", 10: "10 B", 999: "999 B", 1000: "1.0 kB", 1540: "1.5 kB", 20480: "20 kB", 20971520: "21 MB", 9_950_000_000: "10 GB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: %q, and not %q", n, got, want)
		}
	}
}

func TestMeter(t *testing.T) {
	l := newProgressLine(&strings.Builder{})
	for _, c := range []struct {
		total, done int64
		want        string
	}{
		{1000, 250, "restoring:  25 %, 250 rows of 1000 rows, 25 rows/s, 31s left"},
		{1000, 1000, "restoring: 100 %, 1000 rows of 1000 rows, 100 rows/s"},
		{0, 50, "restoring: 50 rows, 5 rows/s"},
		{10, 0, "restoring:   0 %, 0 rows of 10 rows, 0 rows/s"},
	} {
		if got := l.meter("restoring", c.total, formatRows).text(c.done, 10*time.Second); got != c.want {
			t.Errorf("%q, and not %q", got, c.want)
		}
	}
}

func TestSnapshotUsage(t *testing.T) {
	if o := run(t, nil, "snapshot", "--help"); o.code != 0 || o.stdout != snapshotUsage {
		t.Errorf("%+v", o)
	}
	for _, c := range []struct{ name, usage, flag string }{{"save", saveUsage, "--cacert"}, {"status", statusUsage, "--write-out"}, {"restore", restoreUsage, "--bump-revision"}} {
		if o := run(t, nil, "snapshot", c.name, "--help"); o.code != 0 || !strings.HasPrefix(o.stdout, c.usage) || !strings.Contains(o.stdout, c.flag) || o.stderr != "" {
			t.Errorf("%+v", o)
		}
		for _, args := range [][]string{{}, {"a", "b"}, {"--nonsense", "a"}} {
			if o := run(t, nil, append([]string{"snapshot", c.name}, args...)...); o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, "keelson snapshot "+c.name+" --help") {
				t.Errorf("%s %v: %+v", c.name, args, o)
			}
		}
	}
	path := snapshotFile(t, 1, plain())
	for text, args := range map[string][]string{
		"there is no 'keelson snapshot load'": {"load"},
		"exactly one file":                    {"status"},
		"no format":                           {"status", path, "-w", "xml"},
		"--mark-compacted required":           {"restore", path, "--bump-revision", "5"},
		"disallowed":                          {"restore", path, "--mark-compacted"},
		"too much":                            {"restore", path, "--mark-compacted", "--bump-revision", "9223372036854775807"},
		"two places":                          {"restore", path, "--data-dir", "d", "--datastore", "postgres://db"},
		"only postgres":                       {"restore", path, "--datastore", "mysql://db"},
		"multiple":                            {"save", "x", "--endpoints", "a:1,b:1"},
		"go together":                         {"save", "x", "--cert", "c"},
	} {
		if o := run(t, nil, append([]string{"snapshot"}, args...)...); o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
	}
	if o := run(t, nil, "snapshot"); o.code != 2 || o.stdout != snapshotUsage {
		t.Errorf("%+v", o)
	}
	if o := run(t, nil, "help"); !strings.Contains(o.stdout, "keelson snapshot") {
		t.Errorf("%+v", o)
	}
}

// TestSnapshotRestore: the data are there, sound, and it is said what they are and what comes next.
func TestSnapshotRestore(t *testing.T) {
	meta := plain()
	meta.Leases = []etcdfile.Lease{{ID: 5, TTL: 600}}
	path := snapshotFile(t, 30, meta)
	base := t.TempDir()
	for i, c := range []struct {
		args  []string
		words []string
		check string
	}{
		{[]string{path}, []string{"revision 31, never compacted, 30 keys, 1 leases; 30 changes", "30 changes, all read back", "kube-apiserver", "--data-dir=" + filepath.Join(base, "0")}, "revision 31 with 30 revisions kept, never compacted, 30 keys, 1 leases, 0 users, 0 roles, 1 members"},
		{[]string{"--bump-revision", "1000", path, "--mark-compacted"}, []string{"revision 1031, compact revision 1031, 30 keys", "was 31", "list anew"}, "compact revision 1031, 30 keys"},
		{[]string{"--skip-hash-check", bare(t, path)}, []string{"revision 31"}, "30 keys"},
		{
			[]string{path, "--name", "b", "--initial-cluster", "a=http://a:1,b=http://b:1", "--initial-advertise-peer-urls", "http://b:1", "--wal-dir", filepath.Join(base, "wal")},
			[]string{"Restore the same file with the same Keelson and the same flags on a,", "--name=b", "--wal-dir=", "--initial-cluster=a=http://a:1,b=http://b:1"}, "2 members",
		},
	} {
		dir := filepath.Join(base, fmt.Sprint(i))
		o := run(t, nil, append([]string{"snapshot", "restore", "--data-dir", dir}, c.args...)...)
		if o.code != 0 || o.stderr != "" {
			t.Fatalf("%+v", o)
		}
		for _, w := range c.words {
			if !strings.Contains(o.stdout, w) {
				t.Errorf("%v: %q is not in\n%s", c.args, w, o.stdout)
			}
		}
		if o := run(t, nil, "check", "--data-dir", dir); o.code != 0 || !strings.Contains(o.stdout, c.check) {
			t.Errorf("%+v", o)
		}
	}
	// The place that etcdutl takes if none is given.
	t.Chdir(t.TempDir())
	if o := run(t, nil, "snapshot", "restore", path, "--name", "here"); o.code != 0 {
		t.Errorf("%+v", o)
	}
	if _, err := os.Stat(filepath.Join("here.etcd", "member", "keelson.db")); err != nil {
		t.Error(err)
	}
}

// TestSnapshotRestoreRefuses: what cannot be restored, in words that help, with nothing left of it.
func TestSnapshotRestoreRefuses(t *testing.T) {
	path := snapshotFile(t, 300, plain())
	whole := contents(t, path)
	flip := func(at int) []byte {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		return b
	}
	auth := plain()
	auth.Auth = etcdfile.Auth{Enabled: true, Revision: 3, Users: []*authpb.User{{Name: []byte("root"), Roles: []string{"root"}}}, Roles: []*authpb.Role{{Name: []byte("root")}}}
	used := bare(t, path)
	holder, err := os.Open(used)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := syscall.Flock(int(holder.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	dir := filepath.Join(base, "data")
	for text, args := range map[string][]string{
		"cut off or altered":            {written(t, whole[:1000])},
		"snapshot missing hash but":     {bare(t, path)},
		"altered, or its copy":          {written(t, flip(len(whole)/2))},
		"its copy is not whole":         {written(t, flip(len(whole)-1))},
		"is not of etcd":                {written(t, make([]byte, 8192)), "--skip-hash-check"},
		"authentication enabled":        {snapshotFile(t, 1, auth)},
		"stop it first":                 {used, "--skip-hash-check"},
		"no such file":                  {path + "x"},
		"couldn't find local name":      {path, "--name", "c", "--initial-cluster", "a=http://a:1"},
		"--initial-advertise-peer-urls": {path, "--initial-cluster", "default=http://127.0.0.1:1", "--initial-advertise-peer-urls", "http://127.0.0.1:2"},
	} {
		o := run(t, nil, append([]string{"snapshot", "restore", "--data-dir", dir}, args...)...)
		if o.code != 1 || o.stdout != "" || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
		if left, err := os.ReadDir(base); err != nil || len(left) > 0 {
			t.Fatalf("%s: it leaves %v, %v", text, left, err)
		}
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if o := run(t, nil, "snapshot", "restore", path, "--data-dir", dir); o.code != 1 || !strings.Contains(o.stderr, "not empty") {
		t.Errorf("%+v", o)
	}
	if left, err := os.ReadDir(base); err != nil || len(left) != 1 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// TestSnapshotRestoreDamaged: every snapshot that was cut at a page, and any whose bits were flipped, is refused and leaves nothing.
func TestSnapshotRestoreDamaged(t *testing.T) {
	path := snapshotFile(t, 2000, plain())
	whole := contents(t, path)
	base := t.TempDir()
	refused := func(what string, b []byte, args ...string) {
		t.Helper()
		o := run(t, nil, append([]string{"snapshot", "restore", "--data-dir", filepath.Join(base, "data"), written(t, b)}, args...)...)
		if o.code != 1 || o.stdout != "" || o.stderr == "" {
			t.Fatalf("%s: %+v", what, o)
		}
		if left, err := os.ReadDir(base); err != nil || len(left) > 0 {
			t.Fatalf("%s: it leaves %v, %v", what, left, err)
		}
	}
	page := os.Getpagesize()
	for n := 0; n < len(whole)-etcdfile.HashSize; n += page {
		refused(fmt.Sprint("cut at ", n), whole[:n])
		refused(fmt.Sprint("cut at ", n, ", and believed"), whole[:n], "--skip-hash-check")
		refused(fmt.Sprint("cut behind ", n), whole[:n+etcdfile.HashSize])
		refused(fmt.Sprint("cut in a page at ", n), whole[:n+1000])
	}
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	for range 400 {
		b := append([]byte(nil), whole...)
		at := r.IntN(len(b))
		b[at] ^= 1 << r.IntN(8)
		refused(fmt.Sprint("a bit at ", at), b)
	}
	if o := run(t, nil, "snapshot", "restore", "--data-dir", filepath.Join(base, "data"), path); o.code != 0 {
		t.Errorf("%+v", o)
	}
}
