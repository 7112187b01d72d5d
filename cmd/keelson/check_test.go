package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/sqllog/verify"
)

// output is what one run of the program did.
type output struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, environ []string, args ...string) output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := program{args: args, environ: environ, stdout: &stdout, stderr: &stderr}
	return output{p.run(t.Context()), stdout.String(), stderr.String()}
}

// store makes a store with these entries in a data directory.
func store(t *testing.T, entries ...drivers.Entry) (dataDir string) {
	t.Helper()
	dataDir = t.TempDir()
	log := openStore(t, dataDir)
	if len(entries) > 0 {
		if err := log.Append(t.Context(), drivers.End{}, &drivers.Batch{ID: drivers.BatchID{1}, Entries: entries}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dataDir
}

func openStore(t *testing.T, dataDir string) *sqlite.Log {
	t.Helper()
	path, err := server.DatabasePath(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	log, err := sqlite.Open(context.WithoutCancel(t.Context()), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// put is a put of the one-byte value v at a revision, the first of its key.
func put(key string, main byte) drivers.Entry {
	return drivers.Entry{Kind: mvcc.KindPut, Meta: append([]byte{main, 0, 0, 1, 0, 1}, key...), Value: []byte("v")}
}

func TestCheckSound(t *testing.T) {
	dir := store(t, put("a", 2), put("b", 3))
	want := "sound: 2 entries up to position 2 (scrubbed up to 0), revision 3 with 2 revisions kept, never compacted, 2 keys, 0 leases, 0 users, 0 roles, 0 members\n"
	for _, o := range []output{
		run(t, nil, "check", "--data-dir", dir),
		run(t, []string{"ETCD_DATA_DIR=" + dir}, "check"),
	} {
		if o.code != 0 || o.stdout != want || o.stderr != "" {
			t.Errorf("%+v", o)
		}
	}
}

func TestCheckFindings(t *testing.T) {
	dir := store(t, put("a", 2), put("b", 4), drivers.Entry{Kind: mvcc.KindCompaction, Meta: []byte{2}})
	o := run(t, nil, "check", "--data-dir", dir)
	want := "I2: position 2: revision 4 follows revision 2\n" +
		"1 findings: 3 entries up to position 3 (scrubbed up to 0), revision 4 with 2 revisions kept, compact revision 2, 2 keys, 0 leases, 0 users, 0 roles, 0 members\n"
	if o.code != 1 || o.stdout != want || o.stderr != "" {
		t.Errorf("%+v", o)
	}
	o = run(t, nil, "check", "--data-dir", dir, "--json")
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	var f verify.Finding
	var s verify.Summary
	if o.code != 1 || len(lines) != 2 || json.Unmarshal([]byte(lines[0]), &f) != nil || json.Unmarshal([]byte(lines[1]), &s) != nil {
		t.Fatalf("%+v", o)
	}
	if f != (verify.Finding{Rule: "I2", Position: 2, Text: "revision 4 follows revision 2"}) || s.Findings != 1 || s.Keys != 2 {
		t.Errorf("%+v, %+v", f, s)
	}
}

// TestCheckBounded: a store with a finding for every entry does not flood the terminal.
func TestCheckBounded(t *testing.T) {
	entries := make([]drivers.Entry, maxShown+5)
	for i := range entries {
		entries[i] = drivers.Entry{Kind: 99, Meta: []byte{1}}
	}
	o := run(t, nil, "check", "--data-dir", store(t, entries...))
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	if o.code != 1 || len(lines) != maxShown+2 || lines[maxShown] != "... and 5 more" {
		t.Errorf("%d, %d lines, then %q", o.code, len(lines), lines[len(lines)-2:])
	}
}

// TestCheckRefuses: what is no stopped server's store, and that nothing is made.
func TestCheckRefuses(t *testing.T) {
	empty, etcd, foreign, served := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Join(etcd, "member", "wal"), filepath.Join(foreign, "member")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(foreign, "member", "keelson.db"), []byte(strings.Repeat("text ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	log := openStore(t, served)
	defer log.Close()
	for dir, text := range map[string]string{
		empty: "there is no store under", etcd: "etcd", foreign: drivers.ErrForeign.Error(), served: drivers.ErrLocked.Error(),
	} {
		if o := run(t, nil, "check", "--data-dir", dir); o.code != 1 || o.stdout != "" || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("the check left %v in an empty directory (%v)", left, err)
	}
}

func TestCheckUsage(t *testing.T) {
	for _, args := range [][]string{{"check", "--nonsense"}, {"check", "somewhere"}, {"check", "--datastore", "mysql://db"}} {
		if o := run(t, nil, args...); o.code != 2 || o.stdout != "" || !strings.Contains(o.stderr, "keelson check --help") {
			t.Errorf("%v: %+v", args, o)
		}
	}
	o := run(t, nil, "check", "--help")
	if o.code != 0 || !strings.HasPrefix(o.stdout, checkUsage) || !strings.Contains(o.stdout, "--json") {
		t.Errorf("%+v", o)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"--help"}} {
		o := run(t, nil, args...)
		commands, flags := strings.Index(o.stdout, "keelson check"), strings.Index(o.stdout, "--data-dir")
		if o.code != 0 || commands < 0 || flags < commands {
			t.Errorf("%v: code %d, the commands at %d, the flags at %d", args, o.code, commands, flags)
		}
	}
}
