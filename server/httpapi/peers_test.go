//go:build peers

package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// start runs a real etcd until the test ends and returns its URLs.
func start(t *testing.T) map[string]string {
	path, err := filepath.Abs("../../.build/bin/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (make peers builds it)", err)
	}
	urls := map[string]string{}
	for _, name := range []string{"client", "metrics", "peer"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		urls[name] = "http://" + l.Addr().String()
		l.Close()
	}
	cmd := exec.CommandContext(t.Context(), path, "--data-dir", t.TempDir(), "--name", "m1", "--enable-pprof",
		"--listen-client-urls", urls["client"], "--advertise-client-urls", urls["client"],
		"--listen-peer-urls", urls["peer"], "--initial-advertise-peer-urls", urls["peer"], "--initial-cluster", "m1="+urls["peer"],
		"--listen-metrics-urls", urls["metrics"])
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	// The versions are decided, and requests served, when both have been said.
	for missing := []string{"ready to serve client requests", "cluster version is updated"}; len(missing) > 0 && lines.Scan(); {
		var line struct{ Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil {
			missing = slices.DeleteFunc(missing, func(s string) bool { return s == line.Msg })
		}
	}
	go func() {
		for lines.Scan() {
		}
	}()
	return urls
}

// TestEtcdSaysSo proves the table of answers on a real etcd.
func TestEtcdSaysSo(t *testing.T) {
	urls := start(t)
	raised := 0
	for _, q := range questions() {
		for ; raised < len(q.alarms); raised++ {
			resp := send(t, urls["client"], question{method: "POST", path: "/v3/maintenance/alarm",
				body: fmt.Sprintf(`{"action":"ACTIVATE","memberID":"1","alarm":%q}`, q.alarms[raised])})
			if resp.StatusCode != 200 {
				t.Fatalf("alarm: %s", resp.Status)
			}
		}
		q.expect(t, send(t, urls[q.url], q))
	}
}
