package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "k8s.io/apiserver/pkg/storage/etcd3/testing" // what upstream's tests need is then in go.sum

	"github.com/keelson-io/keelson/test/kube/storage"
)

const apiserver = "k8s.io/apiserver"

// packages are those whose tests use a server, with the number of tests that they have at least.
var packages = map[string]int{
	apiserver + "/pkg/storage/etcd3":                  70,
	apiserver + "/pkg/storage/cacher":                 130,
	apiserver + "/pkg/storage/storagebackend/factory": 6,
}

func TestUpstreamPackages(t *testing.T) {
	binary, err := storage.Binary()
	if err != nil {
		t.Fatal(err)
	}
	modfile := replaceTestServer(t)
	for name, atLeast := range packages {
		t.Run(strings.TrimPrefix(name, apiserver+"/pkg/storage/"), func(t *testing.T) {
			if n := runPackage(t, name, modfile, binary); n < atLeast {
				t.Errorf("%d tests ran, want %d or more", n, atLeast)
			}
		})
	}
}

// replaceTestServer copies upstream's module with our file in the place of its testserver, and gives a
// go.mod that uses the copy.
func replaceTestServer(t *testing.T) (modfile string) {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := storage.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	// The place is always the same, so that go finds in its cache what it has compiled before.
	dir := filepath.Join(filepath.Dir(bin), "upstream")
	module := filepath.Join(dir, "apiserver")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	from := strings.TrimSpace(goTool(t, "list", "-m", "-f", "{{.Dir}}", apiserver))
	if err := copyTree(module, from); err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{
		filepath.Join(module, "pkg", "storage", "etcd3", "testserver", "test_server.go"): filepath.Join(root, "testserver", "server.go"),
		filepath.Join(dir, "go.mod"): filepath.Join(root, "go.mod"),
		filepath.Join(dir, "go.sum"): filepath.Join(root, "go.sum"),
	} {
		if err := copyFile(to, from); err != nil {
			t.Fatal(err)
		}
	}
	modfile = filepath.Join(dir, "go.mod")
	goTool(t, "mod", "edit", "-replace", apiserver+"="+module, modfile)
	return modfile
}

// runPackage runs the tests of one package, each as a test of its own, and says how many there were.
func runPackage(t *testing.T, name, modfile, binary string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-json", "-count=1", "-timeout=20m", "-mod=mod", "-modfile="+modfile, name)
	cmd.Env = append(os.Environ(), "STORAGE_SERVER="+binary)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	tests := 0
	failed := map[string]*strings.Builder{} // what is wrong, by test; what is of no test under ""
	output := map[string]*strings.Builder{} // by test and subtest
	for decoder := json.NewDecoder(bytes.NewReader(stdout)); ; {
		var event testEvent
		decodeErr := decoder.Decode(&event)
		if errors.Is(decodeErr, io.EOF) {
			break
		}
		if decodeErr != nil {
			t.Fatalf("go test: %v\n%s%s", decodeErr, stdout, &stderr)
		}
		top, _, _ := strings.Cut(event.Test, "/")
		switch event.Action {
		case "output", "build-output":
			write(output, event.Test, event.Output)
		case "fail", "skip":
			// Upstream skips parts of its tests where they cannot be; a whole test is never skipped.
			if event.Action == "fail" || event.Test == top {
				write(failed, top, fmt.Sprintf("%s %s\n%s\n", event.Action, event.Test, tail(fmt.Sprint(output[event.Test]), 100)))
			}
		}
		if event.ends() && event.Test != "" && event.Test == top {
			tests++
			t.Run(top, func(t *testing.T) {
				if failed[top] != nil {
					t.Error(failed[top])
				}
			})
		}
	}
	if err != nil && !t.Failed() {
		t.Errorf("go test: %v\n%s%s", err, tail(fmt.Sprint(failed[""]), 50), &stderr)
	}
	return tests
}

// testEvent is a line of what `go test -json` prints.
type testEvent struct{ Action, Test, Output string }

func (e testEvent) ends() bool { return e.Action == "pass" || e.Action == "fail" || e.Action == "skip" }

func write(to map[string]*strings.Builder, name, text string) {
	if to[name] == nil {
		to[name] = &strings.Builder{}
	}
	to[name].WriteString(text)
}

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// copyTree copies a tree of files that may be read-only to one that is not.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		return copyFile(target, path)
	})
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
