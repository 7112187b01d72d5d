package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/test/pg"
)

// kills is how often a restore is killed on each kind of datastore.
const kills = 20

// large makes a snapshot of some megabytes.
func large(t *testing.T) (path string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 7))
	return write(t, &etcdfile.Meta{Compact: -1, Version: etcdfile.StorageVersion}, func(add func(etcdfile.Row)) {
		value := make([]byte, 300)
		for i := range int64(15_000) {
			for b := range value {
				value[b] = byte(rng.Uint32())
			}
			kv := mvcc.AppendKeyValue(nil, fmt.Sprintf("key%06d", i), &mvcc.Version{Main: i + 2, Create: i + 2, Count: 1}, value)
			add(etcdfile.Row{Revision: etcdfile.Revision{Main: i + 2}, KeyValue: kv})
		}
	})
}

// killed runs a restore and kills it at a random moment of the time that one takes, or a little later. It tells whether it had ended.
func killed(t *testing.T, rng *rand.Rand, takes time.Duration, args []string) (ended bool) {
	t.Helper()
	cmd := exec.Command(tool(t, "keelson"), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Duration(rng.Int64N(int64(takes+takes/2))), func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
		return false
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out.Bytes())
	}
	return true
}

func random(t *testing.T) *rand.Rand {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

// TestKilled: a restore that is killed leaves nothing at its place, or all, and does not stand in the way of the next.
func TestKilled(t *testing.T) {
	path, rng := large(t), random(t)
	base := t.TempDir()
	data, wal := filepath.Join(base, "data"), filepath.Join(base, "wal")
	args := []string{
		"snapshot", "restore", path, "--data-dir", data, "--wal-dir", wal, "--name", "a", "--initial-advertise-peer-urls", "http://127.0.0.1:1",
		"--initial-cluster", "a=http://127.0.0.1:1,b=http://127.0.0.1:2",
	}
	whole := func() {
		t.Helper()
		if out := run(t, "keelson", "check", "--data-dir", data); !bytes.Contains(out, []byte("15000 keys")) || !bytes.HasPrefix(out, []byte("sound")) {
			t.Fatalf("%s", out)
		}
		if entries, err := os.ReadDir(wal); err != nil || len(entries) == 0 {
			t.Fatalf("%v, %v", entries, err)
		}
		if err := errors.Join(os.RemoveAll(data), os.RemoveAll(wal)); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	run(t, "keelson", args...)
	takes := time.Since(begun)
	whole()
	ended := 0
	for range kills {
		done := killed(t, rng, takes, args)
		_, err := os.Stat(filepath.Join(data, "member"))
		if done && err != nil {
			t.Fatalf("it has ended, and: %v", err)
		}
		if err == nil {
			ended++
			whole()
		}
	}
	run(t, "keelson", args...)
	if left, err := filepath.Glob(filepath.Join(base, "*", "*")); err != nil || len(left) != 2 {
		t.Errorf("in the end there is %q, %v", left, err)
	}
	whole()
	t.Logf("%d of %d had ended; one takes %v", ended, kills, takes)
}

// TestKilledPostgres: the same in a database: there is no log of the name, or the whole.
func TestKilledPostgres(t *testing.T) {
	path, rng := large(t), random(t)
	server := pg.Run(t, pg.Options{})
	args := []string{"snapshot", "restore", path, "--datastore", server.URL("postgres")}
	schemas := func() string {
		t.Helper()
		got, err := server.Query(t.Context(), "SELECT coalesce(string_agg(nspname, ' ' ORDER BY nspname), '') FROM pg_namespace WHERE nspname LIKE 'keelson%'")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	whole := func() {
		t.Helper()
		if out := run(t, "keelson", "check", "--datastore", server.URL("postgres")); !bytes.Contains(out, []byte("15000 keys")) || !bytes.HasPrefix(out, []byte("sound")) {
			t.Fatalf("%s", out)
		}
		if _, err := server.Query(t.Context(), "DROP SCHEMA keelson CASCADE"); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	run(t, "keelson", args...)
	takes := time.Since(begun)
	whole()
	ended := 0
	for range kills {
		done := killed(t, rng, takes, args)
		// What it had sent is done, or undone.
		if err := server.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keelson'", "0"); err != nil {
			t.Fatal(err)
		}
		switch got := schemas(); {
		case got == "keelson":
			ended++
			whole()
		case done || got != "" && got != "keelson.restoring":
			t.Fatalf("ended %v: there is %q", done, got)
		}
	}
	run(t, "keelson", args...)
	if got := schemas(); got != "keelson" {
		t.Errorf("in the end there is %s", got)
	}
	whole()
	t.Logf("%d of %d had ended; one takes %v", ended, kills, takes)
}

// TestRestoreAtOnce: of two restores to one place one is refused, or comes second.
func TestRestoreAtOnce(t *testing.T) {
	path := large(t)
	server := pg.Run(t, pg.Options{})
	for _, place := range [][]string{{"--data-dir", filepath.Join(t.TempDir(), "data")}, {"--datastore", server.URL("postgres")}} {
		type result struct {
			out []byte
			err error
		}
		results := make(chan result)
		for range 3 {
			go func() {
				out, err := exec.Command(tool(t, "keelson"), append([]string{"snapshot", "restore", path}, place...)...).CombinedOutput()
				results <- result{out, err}
			}()
		}
		done := 0
		for range 3 {
			r := <-results
			switch {
			case r.err == nil:
				done++
			case strings.Contains(string(r.out), "under way"), strings.Contains(string(r.out), "another process"), strings.Contains(string(r.out), "not empty"), strings.Contains(string(r.out), "already"):
			default:
				t.Errorf("%v: %s", r.err, r.out)
			}
		}
		if done != 1 {
			t.Errorf("%v: %d of three were done", place, done)
		}
		if out := run(t, "keelson", append([]string{"check"}, place...)...); !bytes.Contains(out, []byte("15000 keys")) {
			t.Errorf("%s", out)
		}
	}
}
