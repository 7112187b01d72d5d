package etcd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	binDir = flag.String("bin", "../../.build/bin", "directory of the servers, etcdctl and etcdutl")
	server = flag.String("server", "keelson", "the binary under test; etcd proves the lists")
)

const upstream = "go.etcd.io/etcd/tests/v3"

// TestOne runs etcd's tests where a cluster whose size a test does not choose has one member.
func TestOne(t *testing.T) { runCommon(t, "one", oneMember(t)) }

// TestCluster runs etcd's tests as they are: such a cluster has three members.
func TestCluster(t *testing.T) { runCommon(t, "cluster", copyUpstream(t)) }

// runCommon runs, on the server under test, the tests of a copy of upstream's module that the lists give to a run.
func runCommon(t *testing.T, name, dir string) {
	t.Helper()
	chosen := readLists(t, name)
	binary := buildTests(t, dir)
	for _, fault := range chosen.faults(listTests(t, binary, dir)) {
		t.Error(fault)
	}
	t.Logf("%d tests and cases are left out, see LEFT_OUT.md", len(chosen.leftOut))

	var patterns []string
	for _, test := range slices.Sorted(maps.Keys(chosen.run)) {
		pattern := "^" + test + "$"
		if cases := chosen.run[test]; cases != all {
			pattern += "/" + cases
		}
		patterns = append(patterns, pattern)
	}
	results := runTests(t, binary, dir, strings.Join(patterns, "|"))
	for test, cases := range chosen.run {
		t.Run(test, func(t *testing.T) { results.judge(t, test, cases) })
	}
}

func goOutput(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// copyUpstream copies etcd's module of tests. (go build takes no overlay of files in the module cache.)
func copyUpstream(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(goOutput(t, "list", "-m", "-f", "{{.Dir}}", upstream))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// oneMember is a copy with one number changed: the size of a cluster that a test does not choose.
func oneMember(t *testing.T) string {
	t.Helper()
	dir := copyUpstream(t)
	config := filepath.Join(dir, "framework", "config", "cluster.go")
	src, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	const upstreamSize, size = "ClusterSize:         3,", "ClusterSize:         1,"
	if bytes.Count(src, []byte(upstreamSize)) != 1 {
		t.Fatalf("%s no longer says %q once", config, upstreamSize)
	}
	if err := os.Remove(config); err != nil { // the copy is as unwritable as the cache
		t.Fatal(err)
	}
	write(t, config, bytes.Replace(src, []byte(upstreamSize), []byte(size), 1))
	return dir
}

// buildTests compiles the copy of etcd's test package, with this module's versions.
func buildTests(t *testing.T, dir string) string {
	t.Helper()
	tmp := t.TempDir()
	modfile := filepath.Join(tmp, "upstream.mod")
	for from, to := range map[string]string{"go.mod": modfile, "go.sum": filepath.Join(tmp, "upstream.sum")} {
		src, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to, src)
	}
	goOutput(t, "mod", "edit", "-replace="+upstream+"="+dir, modfile)
	binary := filepath.Join(tmp, "common.test")
	goOutput(t, "test", "-c", "-tags=e2e", "-modfile="+modfile, "-o", binary, upstream+"/common")
	return binary
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// binaries returns a directory where the server under test is called etcd.
func binaries(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for link, name := range map[string]string{"etcd": *server, "etcdctl": "etcdctl", "etcdutl": "etcdutl"} {
		target, err := filepath.Abs(filepath.Join(*binDir, name))
		if err == nil {
			_, err = os.Stat(target)
		}
		if err != nil {
			t.Fatalf("%v: make build builds keelson, make peers builds etcd, etcdctl and etcdutl", err)
		}
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func listTests(t *testing.T, binary, dir string) []string {
	t.Helper()
	cmd := exec.Command(binary, "-test.list=.*")
	cmd.Dir = filepath.Join(dir, "common")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// results are etcd's own verdicts, by test.
type results struct {
	verdict map[string]string   // "pass", "fail" or "skip"
	output  map[string][]string // what a test and its subtests wrote
	log     string
}

// runTests runs etcd's tests. Their directory is upstream's, for the fixtures.
func runTests(t *testing.T, binary, dir, pattern string) *results {
	t.Helper()
	log := filepath.Join(t.ArtifactDir(), "common.log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "test2json", "-t", binary, "-test.v=test2json",
		"-test.run="+pattern, "-test.timeout=20m", "-bin-dir="+binaries(t))
	cmd.Dir = filepath.Join(dir, "common")
	cmd.Stdout = out
	cmd.Stderr = out
	runErr := cmd.Run() // what failed is in the results
	r, err := readResults(log)
	if err != nil {
		t.Fatalf("%v (%v)", err, runErr)
	}
	return r
}

func readResults(log string) (*results, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &results{verdict: map[string]string{}, output: map[string][]string{}, log: log}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // not of test2json: what a server wrote
		}
		top, _, _ := strings.Cut(e.Test, "/")
		switch e.Action {
		case "pass", "fail", "skip":
			r.verdict[e.Test] = e.Action
		case "output":
			r.output[top] = append(r.output[top], e.Output)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", log, err)
	}
	return r, nil
}

// judge passes a test that has run and passed, with the cases that were chosen.
func (r *results) judge(t *testing.T, name, cases string) {
	depth := 0
	if cases != all {
		depth = 1 + strings.Count(cases, "/")
	}
	ran := false
	tables := map[string]bool{} // of which a case has passed
	for test, verdict := range r.verdict {
		if (test == name || strings.HasPrefix(test, name+"/")) && verdict == "pass" {
			ran = ran || strings.Count(test, "/") >= depth
			tables[path.Dir(test)] = true
		}
	}
	for test, verdict := range r.verdict {
		switch {
		case test != name && !strings.HasPrefix(test, name+"/"), verdict == "pass":
		case verdict == "skip" && strings.Count(test, "/") > 1 && tables[path.Dir(test)]:
			// A single case of a table that etcd's test itself passes over.
		default:
			t.Errorf("%s: %s", test, verdict)
		}
	}
	if !ran {
		t.Errorf("%s was not run: %q", name, r.verdict[name])
	}
	if t.Failed() {
		t.Logf("its output:\n%s", tail(strings.Join(r.output[name], ""), 8000))
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
