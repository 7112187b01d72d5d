package process

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(Command{Name: "script", Path: "/bin/sh", Args: []string{"-c", script}, LogDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestAwaitLogSeesWhatIsPrinted(t *testing.T) {
	p := start(t, "echo one; echo two >&2; exec sleep 60")
	for _, text := range []string{"one", "two"} {
		if err := p.AwaitLog(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if tail := p.Tail(1); !strings.Contains(tail, "two") || strings.Contains(tail, "one\n") {
		t.Errorf("the last line is %q", tail)
	}
}

func TestAwaitLogEndsWithTheProcess(t *testing.T) {
	p := start(t, "exit 3")
	if err := p.AwaitLog(t.Context(), "never"); !errors.Is(err, ErrExited) {
		t.Errorf("got %v", err)
	}
}

func TestAwaitLogReadsOnlyThisStart(t *testing.T) {
	dir := t.TempDir()
	for _, script := range []string{"echo old", "exec sleep 60"} {
		p, err := Start(Command{Name: "script", Path: "/bin/sh", Args: []string{"-c", script}, LogDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if script == "echo old" {
			<-p.Done()
			continue
		}
		t.Cleanup(p.Kill)
		if output, err := p.Output(); err != nil || output != "" {
			t.Errorf("got %q, %v", output, err)
		}
	}
}

func TestAwaitGivesTheLastFinding(t *testing.T) {
	finding := errors.New("not yet")
	ctx, cancel := context.WithCancel(t.Context())
	err := Await(ctx, "something", func(ctx context.Context) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		defer cancel()
		return finding
	})
	if !errors.Is(err, finding) {
		t.Errorf("got %v", err)
	}
}

func TestStopKillsWhatDoesNotStop(t *testing.T) {
	p := start(t, "trap '' TERM; echo ready; while :; do sleep 1; done")
	if err := p.AwaitLog(t.Context(), "ready"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	<-p.Done()
}

func TestResidentBytes(t *testing.T) {
	if n, err := ResidentBytes(os.Getpid()); err != nil || n < 1<<20 || n > 1<<40 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := ResidentBytes(-1); err == nil {
		t.Error("a process that cannot be has memory")
	}
}

func TestFreePortsAreDifferent(t *testing.T) {
	ports, err := FreePorts(10)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] || port == 0 {
			t.Errorf("port %d twice in %v", port, ports)
		}
		seen[port] = true
	}
}
