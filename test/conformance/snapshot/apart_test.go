package snapshot

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/test/conformance/launch"
)

// one is a member of three, by its flags.
type one struct {
	t         *testing.T
	name, dir string
	flags     []string
}

// three gives the flags of the members of a cluster.
func three(t *testing.T) (all []*one) {
	t.Helper()
	var pairs []string
	urls := addresses(t, 3)
	for i, u := range urls {
		pairs = append(pairs, fmt.Sprintf("m%d=%s", i, u))
	}
	for i, u := range urls {
		all = append(all, &one{t, fmt.Sprint("m", i), t.TempDir(), []string{"--initial-cluster=" + strings.Join(pairs, ","), "--initial-advertise-peer-urls=" + u, "--listen-peer-urls=" + u}})
	}
	return all
}

// restore puts what a file has in the place of what it has.
func (o *one) restore(path string, more ...string) {
	o.t.Helper()
	data := filepath.Join(o.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		o.t.Fatal(err)
	}
	run(o.t, "keelson", append([]string{"snapshot", "restore", path, "--data-dir", data, "--name", o.name, o.flags[0], o.flags[1]}, more...)...)
}

// together starts some, of which none serves without the others.
func together(t *testing.T, some ...*one) (members []*server) {
	t.Helper()
	processes, errs := make([]*launch.Process, len(some)), make(chan error)
	for i, o := range some {
		go func() {
			var err error
			processes[i], err = launch.Start(t.Context(), launch.Options{Binary: tool(t, "keelson"), Dir: o.dir, Name: o.name, Flags: o.flags})
			errs <- err
		}()
	}
	for range some {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range processes {
		members = append(members, connect(t, p))
	}
	return members
}

// says starts one that is not to serve, waits until its log says something, and that of others too, and ends it.
func (o *one) says(what string, others ...*server) {
	o.t.Helper()
	c := exec.CommandContext(o.t.Context(), tool(o.t, "keelson"), append([]string{
		"--name", o.name, "--data-dir", filepath.Join(o.dir, "data"), "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1",
	}, o.flags...)...)
	out, err := c.StderrPipe()
	if err != nil {
		o.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		o.t.Fatal(err)
	}
	var all bytes.Buffer
	found := false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		fmt.Fprintln(&all, lines.Text())
		found = strings.Contains(lines.Text(), what)
	}
	for _, s := range others {
		for found && o.t.Context().Err() == nil && !strings.Contains(s.LogTail(), what) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if !found {
		o.t.Errorf("%s does not say %q:\n%s", o.name, what, all.String())
	}
}

const (
	elsewhere = "was restored from another snapshot than this member"
	before    = "has already been bootstrapped"
)

// TestApart: a member that was restored from another snapshot than the others, or by other flags, or not at all, is kept apart by both sides, and what a majority was restored from is served. A member that
// is restored once more after it has served is refused.
func TestApart(t *testing.T) {
	original, from := filled(t, 91)
	saved := original.save()
	original.txn(put("later", []byte("v"), 0))
	later := original.save()
	all := three(t)
	all[0].restore(saved)
	all[1].restore(saved)
	all[2].restore(later)
	members := together(t, all[0], all[1])
	all[2].says(elsewhere, members...)
	all[2].restore(saved, "--bump-revision", "1000", "--mark-compacted")
	all[2].says(elsewhere)
	if err := os.RemoveAll(filepath.Join(all[2].dir, "data")); err != nil {
		t.Fatal(err)
	}
	all[2].says(elsewhere)
	for i, m := range members {
		if r, err := m.Range(t.Context(), &pb.RangeRequest{Key: []byte("later")}); err != nil || r.Count > 0 {
			t.Errorf("m%d has %v, %v", i, r, err)
		}
	}
	all[2].restore(saved)
	third := together(t, all[2])[0]
	third.settled(members[0])
	same(t, third, members[1], from)

	if err := third.Kill(); err != nil {
		t.Fatal(err)
	}
	all[2].restore(saved)
	all[2].says(before)
}
