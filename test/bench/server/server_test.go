package server

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
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
	full := strings.Join(kineFullArgs(p, "d"), " ")
	if !strings.Contains(full, "_synchronous=FULL") || !strings.HasPrefix(full, strings.Join(kineArgs(p, "d"), " ")) {
		t.Errorf("kine FULL is started with %q", full)
	}
}

// sleeper is a stand-in for a server: a shell that runs the script.
func sleeper(script string) Spec {
	return Spec{Name: "sleeper", Binary: "/bin/sh", args: func(ports, string) []string { return []string{"-c", script} }}
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
