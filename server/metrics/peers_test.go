//go:build peers

package metrics

import (
	"bufio"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestEtcdSaysSo proves the table of metrics on a real etcd.
func TestEtcdSaysSo(t *testing.T) {
	resp, err := http.Get(startEtcd(t) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	has := map[string]string{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "# TYPE "); ok {
			name, kind, _ := strings.Cut(name, " ")
			has[name] = kind
		}
	}
	// etcd shows these only once there is something to count.
	late := map[string]bool{"etcd_debugging_server_alarms": true, "etcd_server_client_requests_total": true, "etcd_server_range_duration_seconds": true}
	for _, e := range etcdsMetrics(t) {
		if kind, ok := has[e.name]; kind != e.kind && (ok || !late[e.name]) {
			t.Errorf("%s is a %q in etcd, and the table says %q", e.name, kind, e.kind)
		}
		delete(has, e.name)
	}
	for name, kind := range has {
		t.Errorf("%s %s is not in the table", name, kind)
	}
}

// startEtcd runs a real etcd until the test ends and returns its client URL.
func startEtcd(t *testing.T) string {
	path, err := filepath.Abs("../../.build/bin/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (make peers builds it)", err)
	}
	var urls [2]string
	for i := range urls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		urls[i] = "http://" + l.Addr().String()
		l.Close()
	}
	cmd := exec.CommandContext(t.Context(), path, "--data-dir", t.TempDir(), "--name", "m1", "--metrics=extensive",
		"--listen-client-urls", urls[0], "--advertise-client-urls", urls[0],
		"--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1], "--initial-cluster", "m1="+urls[1])
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
	for ready := 0; ready < 2 && lines.Scan(); {
		var line struct{ Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil &&
			(line.Msg == "ready to serve client requests" || line.Msg == "cluster version is updated") {
			ready++
		}
	}
	go func() {
		for lines.Scan() {
		}
	}()
	return urls[0]
}
