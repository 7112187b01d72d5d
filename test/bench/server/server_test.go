package server

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseFigure(t *testing.T) {
	status := []byte("Name:\tetcd\nVmHWM:\t  9 kB\nVmRSS:\t   24680 kB\nThreads:\t8\n")
	if got, err := parseFigure(status, "VmRSS"); err != nil || got != 24680 {
		t.Errorf("VmRSS = %d, %v, want 24680", got, err)
	}
	account := []byte("rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n")
	if got, err := parseFigure(account, "write_bytes"); err != nil || got != 4096 {
		t.Errorf("write_bytes = %d, %v, want 4096", got, err)
	}
	if _, err := parseFigure(account, "VmRSS"); !errors.Is(err, ErrNoFigure) {
		t.Errorf("a figure that is not there gives %v, want ErrNoFigure", err)
	}
}

func TestKineFullDiffersFromKineInSynchronousAlone(t *testing.T) {
	p := ports{client: "127.0.0.1:1"}
	full := strings.Join(kineFullArgs(p, Options{}), " ")
	if !strings.Contains(full, "_synchronous=FULL") || !strings.HasPrefix(full, strings.Join(kineArgs(p, Options{}), " ")) {
		t.Errorf("kine FULL is started with %q", full)
	}
}

// sleeper is a stand-in for a server: a shell that runs the script.
func sleeper(script string) Spec {
	return Spec{Name: "sleeper", Binary: "/bin/sh", args: func(ports, Options) []string { return []string{"-c", script} }}
}

func TestProcessIsStoppedAndItsAccountRead(t *testing.T) {
	dir := t.TempDir()
	spec := sleeper(`exec sleep 600`)
	p, err := Start(spec, Options{Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	if rss, err := ReadRSS(p.Pid()); err != nil || rss <= 0 {
		t.Errorf("ReadRSS = %d, %v, want more than nothing", rss, err)
	}
	if _, err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
	select {
	case <-p.Exited():
	default:
		t.Error("Stop returned before the process had ended")
	}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(p.Pid()))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the process is still there after Stop: %v", err)
	}
}

func TestProcessThatEndsByItselfIsAnError(t *testing.T) {
	dir := t.TempDir()
	p, err := Start(sleeper(`exit 3`), Options{Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if _, err := p.Stop(t.Context()); !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "3") {
		t.Errorf("Stop = %v, want ErrExited with the exit status", err)
	}
}

func TestFreePortsDiffer(t *testing.T) {
	p, err := freePorts()
	if err != nil || p.client == p.peer {
		t.Errorf("freePorts() = %v, %v, want two different ports", p, err)
	}
}

func TestMembersAreToldOfEachOther(t *testing.T) {
	spec := RaftSpecs("bin")[0]
	c, err := NewCluster(spec)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, m := range c.members {
		o := Options{Dir: "dir", Cluster: c, Member: i}
		p, err := o.ports()
		if err != nil || p != m || seen[p.client] || seen[p.peer] || p.client == p.peer {
			t.Errorf("member %d is at %v, %v, want a place of its own", i, p, err)
		}
		seen[p.client], seen[p.peer] = true, true
		args := strings.Join(spec.args(p, o), " ")
		for _, want := range []string{
			"--name=" + memberName(i) + " ", "--listen-client-urls=http://" + m.client + " ", "--initial-advertise-peer-urls=http://" + m.peer + " ",
			"--initial-cluster=member-1=http://" + c.members[0].peer + ",member-2=http://" + c.members[1].peer + ",member-3=http://" + c.members[2].peer,
		} {
			if !strings.Contains(args, want) {
				t.Errorf("member %d is started with %q, which lacks %q", i, args, want)
			}
		}
	}
}

func TestAKilledProcessIsNoError(t *testing.T) {
	dir := t.TempDir()
	p, err := Start(sleeper(`exec sleep 600`), Options{Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop after Kill: %v", err)
	}
	if err := p.Kill(); !errors.Is(err, ErrExited) {
		t.Errorf("a second Kill gives %v, want ErrExited", err)
	}
}

func TestLargestOfManyNumbers(t *testing.T) {
	if n, err := largest("7\n12\n9"); n != 12 || err != nil {
		t.Errorf("largest = %d, %v, want 12", n, err)
	}
	if _, err := largest("7\nno\n"); err == nil {
		t.Error("what is no number is taken for one")
	}
}

func TestPostgresIsDurableAndItsConnectionsAreCounted(t *testing.T) {
	sentence, err := DescribePostgres(t.Context())
	if err != nil || !strings.HasPrefix(sentence, "PostgreSQL 1") {
		t.Fatalf("DescribePostgres = %q, %v", sentence, err)
	}
	p, err := StartPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	if n, err := p.Connections(t.Context(), 2, 10*time.Millisecond); n != 0 || err != nil {
		t.Errorf("%d connections of nobody, %v", n, err)
	}
	if !strings.HasSuffix(p.URL(1), "&application_name=bench-2") {
		t.Errorf("the second server's URL is %q", p.URL(1))
	}
	asleep := make(chan error, 1)
	go func() {
		_, err := p.server.Query(t.Context(), "SET application_name = 'bench-2'; SELECT pg_sleep(600)")
		asleep <- err
	}()
	if err := p.server.Await(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1"); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Connections(t.Context(), 2, 10*time.Millisecond); n != 1 || err != nil {
		t.Errorf("%d connections of the second server, %v, want 1", n, err)
	}
	if n, err := p.Connections(t.Context(), 1, 10*time.Millisecond); n != 1 || err != nil {
		t.Errorf("%d connections under another name, %v, want 1", n, err)
	}
	if err := p.Close(log); err != nil {
		t.Fatal(err)
	}
	if err := <-asleep; err == nil {
		t.Error("Postgres lives on after Close")
	}
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "ready to accept connections") {
		t.Errorf("the log of Postgres is %q, %v", text, err)
	}
}
