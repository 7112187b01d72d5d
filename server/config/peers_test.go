//go:build peers

package config

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// etcd is the real one, as `make peers` builds it.
func etcd(t *testing.T) string {
	path, err := filepath.Abs("../../.build/bin/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (make peers builds it)", err)
	}
	return path
}

// run starts etcd in a directory of its own and returns its exit code and output. One that does start is ended.
func run(t *testing.T, args ...string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, etcd(t), args...)
	cmd.Dir = t.TempDir()
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(output)
}

// TestEtcdSaysSo proves the table of answers on a real etcd.
func TestEtcdSaysSo(t *testing.T) {
	for _, a := range answers() {
		t.Run(a.args, func(t *testing.T) {
			args := strings.Fields(a.args)
			exit, output := run(t, args...)
			if exit != a.exit {
				t.Errorf("exit code: got %d, want %d", exit, a.exit)
			}
			for line := range strings.SplitSeq(output, "\n") {
				var entry struct{ Error string }
				if line == a.says || json.Unmarshal([]byte(line), &entry) == nil && entry.Error == a.says {
					return
				}
			}
			t.Errorf("etcd does not say %q but:\n%s", a.says, output)
		})
	}
}

// TestEveryFlagOfEtcd takes the flags from etcd's own help.
func TestEveryFlagOfEtcd(t *testing.T) {
	_, help := run(t, "--help")
	o := Default()
	f := newFlags(&o)
	found := regexp.MustCompile(`(?m)^  --([a-z0-9-]+)`).FindAllStringSubmatch(help, -1)
	if len(found) < 100 {
		t.Fatalf("only %d flags in etcd's help", len(found))
	}
	for _, m := range found {
		if f.Lookup(m[1]) == nil {
			t.Errorf("no flag --%s", m[1])
		}
	}
}
