//go:build peers

package metrics

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/test/ports"
)

// shape is what a metric is like, its values aside.
type shape struct {
	kind   string
	labels string   // the names, in order
	bounds []string // of a histogram's buckets, in order
}

var sample = regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+$`)

// shapes reads what /metrics says.
func shapes(t *testing.T, text io.Reader, into map[string]*shape) {
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "# TYPE "); ok {
			name, kind, _ := strings.Cut(name, " ")
			if into[name] == nil {
				into[name] = &shape{kind: kind}
			}
			continue
		}
		m := sample.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name := m[1]
		if into[name] == nil {
			name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		}
		s := into[name]
		if s == nil {
			t.Fatalf("%s has no type", m[1])
		}
		var labels []string
		for _, l := range regexp.MustCompile(`(\w+)="((?:[^"\\]|\\.)*)"`).FindAllStringSubmatch(m[2], -1) {
			switch {
			case l[1] != "le":
				labels = append(labels, l[1])
			case !slices.Contains(s.bounds, l[2]):
				s.bounds = append(s.bounds, l[2])
			}
		}
		slices.Sort(labels)
		s.labels = strings.Join(labels, ",")
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// rare are what etcd shows only once there is something to count, and a cluster of which one member dies has not.
func rare() map[string]bool {
	names := map[string]bool{}
	for _, name := range []string{
		"etcd_debugging_server_alarms", "etcd_server_client_requests_total", "etcd_server_range_duration_seconds",
		"etcd_server_learner_promote_failures", "etcd_network_peer_received_failures_total",
	} {
		names[name] = true
	}
	for _, way := range []string{"send", "receive"} {
		for _, what := range []string{"success", "failures", "inflights_total", "total_duration_seconds"} {
			names["etcd_network_snapshot_"+way+"_"+what] = true
		}
	}
	return names
}

// TestEtcdSaysSo proves the table of metrics on a real etcd: on two members of three, after the third has died. What this server has of them has etcd's labels and buckets.
func TestEtcdSaysSo(t *testing.T) {
	urls := startEtcds(t)
	has := map[string]*shape{}
	deadline := time.Now().Add(time.Minute)
	for has["etcd_network_peer_round_trip_time_seconds"] == nil || has["etcd_network_peer_sent_failures_total"] == nil || has["etcd_network_disconnected_peers_total"] == nil {
		if time.Now().After(deadline) {
			t.Error("the member's death does not show")
			break
		}
		time.Sleep(100 * time.Millisecond)
		for _, url := range urls {
			resp, err := http.Get(url + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			shapes(t, resp.Body, has)
			resp.Body.Close()
		}
	}
	f := newFixture(t)
	f.raiseAlarm()
	f.m.Started("unary", "/etcdserverpb.KV/Put", "3.7")
	f.m.Handled("unary", "/etcdserverpb.Cluster/MemberPromote", rpctypes.ErrGRPCMemberNotLearner, 0)
	page := httptest.NewRecorder()
	promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	here := map[string]*shape{}
	shapes(t, page.Body, here)

	rare := rare()
	for _, e := range etcdsMetrics(t) {
		s := has[e.name]
		delete(has, e.name)
		switch {
		case s == nil && rare[e.name]:
			continue
		case s == nil:
			t.Errorf("etcd has no %s", e.name)
			continue
		case s.kind != e.kind:
			t.Errorf("%s is a %q in etcd, and the table says %q", e.name, s.kind, e.kind)
		}
		if h := here[e.name]; h != nil && strings.HasPrefix(e.name, "etcd_") && (h.labels != s.labels || !slices.Equal(h.bounds, s.bounds)) {
			t.Errorf("%s has the labels %s and buckets %v here, and %s and %v in etcd", e.name, h.labels, h.bounds, s.labels, s.bounds)
		}
	}
	for name, s := range has {
		t.Errorf("%s %s is not in the table", name, s.kind)
	}
}

// startEtcds runs a real etcd of three members, kills one when all are connected, and gives the client URLs of the others.
func startEtcds(t *testing.T) []string {
	path, err := filepath.Abs("../../.build/bin/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (make peers builds it)", err)
	}
	const members = 3
	var clients, peers, initial []string
	for i := range members {
		clients, peers = append(clients, freeURL(t)), append(peers, freeURL(t))
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	var cmds []*exec.Cmd
	for i := range members {
		cmd := exec.CommandContext(t.Context(), path, "--data-dir", t.TempDir(), "--name", fmt.Sprintf("m%d", i), "--metrics=extensive", "--log-outputs", "/dev/null",
			"--listen-client-urls", clients[i], "--advertise-client-urls", clients[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--initial-cluster", strings.Join(initial, ","))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		cmds = append(cmds, cmd)
	}
	// The last but the leader dies: the leader goes on sending to it.
	deadline := time.Now().Add(time.Minute)
	for {
		if time.Now().After(deadline) {
			t.Fatal("the cluster is not whole")
		}
		time.Sleep(100 * time.Millisecond)
		leader, whole := -1, 0
		for i, url := range clients {
			resp, err := http.Get(url + "/metrics")
			if err != nil {
				continue
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if strings.Contains(string(text), "\netcd_server_is_leader 1\n") {
				leader = i
			}
			if strings.Count(string(text), "\netcd_network_active_peers{") == members-1 && strings.Contains(string(text), "\netcd_cluster_version{") {
				whole++
			}
		}
		if leader < 0 || whole < members {
			continue
		}
		dies := members - 1
		if leader == dies {
			dies = 0
		}
		cmds[dies].Process.Kill()
		return slices.Delete(clients, dies, dies+1)
	}
}

func freeURL(t *testing.T) string { return "http://" + ports.Address(t) }
