//go:build peers

package membership

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func peer(t *testing.T, name string) string {
	path, err := filepath.Abs("../../.build/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (make peers builds it)", err)
	}
	return path
}

type started struct {
	Member  string `json:"local-member-id"`
	Cluster string `json:"cluster-id"`
	Address string `json:"address"`
	Msg     string `json:"msg"`
}

// start runs a real etcd until the test ends and returns the first log line that the test wants.
func start(t *testing.T, want func(started) bool, args ...string) started {
	args = append(args, "--data-dir", t.TempDir(), "--listen-client-urls", "http://127.0.0.1:0", "--advertise-client-urls", "http://127.0.0.1:1")
	cmd := exec.CommandContext(t.Context(), peer(t, "etcd"), args...)
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
	var said strings.Builder
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		var line started
		if json.Unmarshal(lines.Bytes(), &line) == nil && want(line) {
			go func() {
				for lines.Scan() {
				}
			}()
			return line
		}
	}
	t.Fatalf("etcd ended before it said so:\n%s", said.String())
	return started{}
}

// TestEtcdSaysSo proves the table of ids on a real etcd.
func TestEtcdSaysSo(t *testing.T) {
	for _, f := range foundings() {
		t.Run(f.name+" "+f.cluster+" "+f.token, func(t *testing.T) {
			got := start(t, func(s started) bool { return s.Cluster != "" && s.Member != "" }, "--name", f.name,
				"--initial-cluster", f.cluster, "--initial-cluster-token", f.token,
				"--initial-advertise-peer-urls", f.urls(), "--listen-peer-urls", "http://127.0.0.1:0")
			if got.Member != f.member || got.Cluster != f.id {
				t.Errorf("etcd says member %q and cluster %q, the table %q and %q", got.Member, got.Cluster, f.member, f.id)
			}
		})
	}
}

// TestEtcdAddsAMember has a real etcd add a member and finds the second that its id was made in.
func TestEtcdAddsAMember(t *testing.T) {
	ready := start(t, func(s started) bool { return strings.HasPrefix(s.Msg, "serving client traffic") }, "--listen-peer-urls", "http://127.0.0.1:0")
	before := time.Now()
	out, err := exec.CommandContext(t.Context(), peer(t, "etcdctl"), "--endpoints", ready.Address, "-w", "json",
		"member", "add", "new", "--peer-urls", "http://127.0.0.1:5,http://127.0.0.1:4", "--learner").Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var added struct {
		Member struct {
			ID uint64
		} `json:"member"`
	}
	if err := json.Unmarshal(out, &added); err != nil {
		t.Fatal(err)
	}
	for at := before; at.Unix() <= time.Now().Unix(); at = at.Add(time.Second) {
		if uint64(AddedMemberID([]string{"http://127.0.0.1:4", "http://127.0.0.1:5"}, at)) == added.Member.ID {
			return
		}
	}
	t.Errorf("etcd gave the id %s", strconv.FormatUint(added.Member.ID, 16))
}

func (f founding) urls() string {
	i := slices.IndexFunc(f.founders(), func(m Founder) bool { return m.Name == f.name })
	return strings.Join(f.founders()[i].PeerURLs, ",")
}
