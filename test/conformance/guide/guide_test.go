package guide

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/pg"
	"github.com/keelson-io/keelson/test/ports"
)

var binDir = flag.String("bin", "../../../.build/bin", "directory of keelson, etcdctl and etcdutl")

const page = "../../../docs/commands.md"

// node is a control plane node, or several: servers with kubeadm's certificates and flags, and the directories that the page names.
type node struct {
	t         *testing.T
	dir, bin  string
	tools     string // where etcdctl and etcdutl are looked for first
	members   []*member
	prelude   string   // of every shell
	datastore []string // flags; nil if the data directory has the data
}

type member struct {
	*launch.Process
	name, client, peer string
	data               string
}

func newNode(t *testing.T, members int, datastore ...string) *node {
	t.Helper()
	bin, err := filepath.Abs(*binDir)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: t.TempDir(), bin: bin, tools: bin, datastore: datastore}
	for _, d := range []string{"pki", "backups"} {
		if err := os.Mkdir(filepath.Join(n.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pki(t, filepath.Join(n.dir, "pki"))
	for i := range members {
		m := &member{name: fmt.Sprint("node", i+1), client: "https://" + ports.Address(t), peer: "https://" + ports.Address(t)}
		m.data = filepath.Join(n.dir, m.name)
		n.members = append(n.members, m)
	}
	n.start()
	return n
}

// initial is what --initial-cluster says.
func (n *node) initial() string {
	var all []string
	for _, m := range n.members {
		all = append(all, m.name+"="+m.peer)
	}
	return strings.Join(all, ",")
}

// start starts the members, as the manifests of kubeadm do.
func (n *node) start() {
	n.t.Helper()
	file := func(name string) string { return filepath.Join(n.dir, "pki", name) }
	var g errgroup.Group
	for _, m := range n.members {
		if err := os.MkdirAll(m.data, 0o700); err != nil {
			n.t.Fatal(err)
		}
		flags := append([]string{
			"--advertise-client-urls=" + m.client, "--listen-client-urls=" + m.client, "--listen-metrics-urls=http://127.0.0.1:0",
			"--cert-file=" + file("server.crt"), "--key-file=" + file("server.key"), "--client-cert-auth=true", "--trusted-ca-file=" + file("ca.crt"),
			"--peer-cert-file=" + file("peer.crt"), "--peer-key-file=" + file("peer.key"), "--peer-client-cert-auth=true", "--peer-trusted-ca-file=" + file("ca.crt"),
			"--initial-advertise-peer-urls=" + m.peer, "--listen-peer-urls=" + m.peer, "--initial-cluster=" + n.initial(),
			"--data-dir=" + m.data, "--feature-gates=InitialCorruptCheck=true", "--snapshot-count=10000", "--watch-progress-notify-interval=5s",
			"--quota-backend-bytes=20971520",
		}, n.datastore...)
		g.Go(func() (err error) {
			m.Process, err = launch.Start(n.t.Context(), launch.Options{Binary: filepath.Join(n.bin, "keelson"), Dir: m.data, Name: m.name, Flags: flags})
			return err
		})
	}
	err := g.Wait()
	for _, m := range n.members {
		if p := m.Process; p != nil {
			n.t.Cleanup(func() {
				if err := p.Kill(); err != nil {
					n.t.Error(err)
				}
				if n.t.Failed() {
					n.t.Logf("the end of the log of %s:\n%s", m.name, p.LogTail())
				}
			})
		}
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) stop() {
	n.t.Helper()
	for _, m := range n.members {
		if err := m.Stop(); err != nil {
			n.t.Error(err)
		}
	}
}

// sh runs a script on a member's node, and gives what it writes.
func (n *node) sh(m *member, script string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	local := strings.NewReplacer(
		"/etc/kubernetes/pki/etcd", filepath.Join(n.dir, "pki"),
		"/var/backups", filepath.Join(n.dir, "backups"),
		"/var/lib/etcd-restored", m.data+"-restored",
		"node1=https://127.0.0.1:2380", n.initial(),
		"--name=node1", "--name="+m.name,
		"https://127.0.0.1:2380", m.peer,
		"https://127.0.0.1:2379", m.client,
	)
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", local.Replace(n.prelude+script))
	cmd.Env = append(os.Environ(), "PATH="+n.tools+":"+n.bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return string(out)
}

// restore starts the members on what the block of the page has restored; on Postgres, which etcdutl knows nothing of, keelson restores.
func (n *node) restore(script string) {
	n.t.Helper()
	want := n.hash()
	n.sh(n.members[0], "etcdctl del /registry --prefix\n")
	for _, m := range n.members[1:] {
		n.sh(m, script)
	}
	n.stop()
	if n.datastore != nil {
		n.datastore[len(n.datastore)-1] = "--datastore-name=restored"
		n.sh(n.members[0], "keelson snapshot restore /var/backups/etcd.db "+strings.Join(n.datastore, " ")+"\n")
	} else {
		for _, m := range n.members {
			m.data += "-restored"
		}
	}
	n.start()
	if got := n.hash(); got != want {
		n.t.Errorf("restored: %s, and not %s", got, want)
	}
}

// hash is what HashKV says of all that is there.
func (n *node) hash() string {
	n.t.Helper()
	return regexp.MustCompile(`"hash":\d+`).FindString(n.sh(n.members[0], "etcdctl get none --write-out=json; etcdctl endpoint hashkv --write-out=json\n"))
}

// fill writes until there is no space.
func (n *node) fill() {
	n.t.Helper()
	n.sh(n.members[0], `
for i in $(seq 60); do
  head -c 1000000 /dev/zero | tr '\\0' x | etcdctl put /registry/large >/dev/null 2>&1 || exit 0
done
exit 1
`)
}

// expectation is what a block of the page has to write.
type expectation struct {
	heading string
	writes  []string // regular expressions
	before  func(n *node)
	after   func(n *node, script string)
}

func expectations(members int) []expectation {
	// Before 3.6 etcdutl counts what is in all buckets.
	rows := strings.Repeat(`[^\n]*started[^\n]*\n`, members)
	return []expectation{
		{heading: "Health", writes: []string{`https://127.0.0.1:\d+ is healthy: successfully committed proposal: took = `}},
		{heading: "Once for all that follows", after: func(n *node, script string) { n.prelude = script }},
		{heading: "Members and state", writes: []string{`[│|] +ID +[│|] +STATUS +[│|] +NAME +[│|][^\n]*\n[├+][^\n]*\n` + rows + `[└+]`, `IS LEADER`, `true`, `https://127.0.0.1:\d+, \d+`}},
		{
			heading: "What is in it", writes: []string{`/registry/a`, `"count":7`},
			before: func(n *node) {
				n.sh(n.members[0], "for k in a b c d e f g; do etcdctl put /registry/$k $k; done\n")
			},
		},
		{heading: "Save a snapshot", writes: []string{`Snapshot saved at `, `[│|] +HASH +[│|] +REVISION +[│|] +TOTAL KEYS +[│|]`, `[│|] +8 [│|] +(7|14) [│|]`}},
		{heading: "Restore it", after: (*node).restore},
		{heading: "Compact", writes: []string{`compacted revision \d+`}, before: (*node).fill},
		{heading: "Defragment", writes: []string{`Finished defragmenting etcd member\[https://127.0.0.1:\d+\]`, `IS LEADER`}},
		{
			heading: "No space", writes: []string{`memberID:\d+ +alarm:NOSPACE`},
			after: func(n *node, _ string) {
				if out := n.sh(n.members[0], "etcdctl alarm list 2>&-; etcdctl put /registry/after space 2>&-\n"); out != "OK\n" {
					n.t.Errorf("after it: %s", out)
				}
			},
		},
	}
}

func TestGuide(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { follow(t, newNode(t, 1)) })
	t.Run("raft", func(t *testing.T) { follow(t, newNode(t, 3)) })
	t.Run("postgres", func(t *testing.T) {
		follow(t, newNode(t, 1, "--datastore="+pg.Run(t, pg.Options{}).URL("postgres"), "--datastore-name=first"))
	})
}

// TestOldTools: operators do not change their tools with the server. Where a package has etcdctl alone, etcdutl is a newer one.
func TestOldTools(t *testing.T) {
	for _, tools := range []string{"etcd36", "etcd35", "distribution"} {
		t.Run(tools, func(t *testing.T) {
			n := newNode(t, 1)
			n.tools = filepath.Join(n.bin, tools)
			if _, err := os.Stat(filepath.Join(n.tools, "etcdctl")); err != nil {
				t.Fatalf("%v: make peers builds it", err)
			}
			t.Log(n.sh(n.members[0], "ETCDCTL_API=3 etcdctl version\n"))
			follow(t, n)
		})
	}
}

// follow does what the page says.
func follow(t *testing.T, n *node) {
	want := expectations(len(n.members))
	all := blocks(t, page)
	if len(all) != len(want) {
		t.Fatalf("the page has %d blocks, and %d are known", len(all), len(want))
	}
	for i, b := range all {
		e := want[i]
		if b.heading != e.heading {
			t.Fatalf("block %d stands under %q, and not %q", i, b.heading, e.heading)
		}
		if e.before != nil {
			e.before(n)
		}
		out := n.sh(n.members[0], b.script)
		for _, w := range e.writes {
			if !regexp.MustCompile(w).MatchString(out) {
				t.Errorf("%s: nothing like %q in\n%s", b.heading, w, out)
			}
		}
		if e.after != nil {
			e.after(n, b.script)
		}
	}
}
