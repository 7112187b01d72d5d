package pg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errExited means that a server ended when it should not have.
var errExited = errors.New("the server exited")

// patience bounds the waits that nobody else bounds. It is no measure of speed.
const patience = time.Minute

// pollInterval is how often a condition without a signal of its own is looked at.
const pollInterval = 10 * time.Millisecond

// tailBytes is how much of a log is shown.
const tailBytes = 4096

// process is one run of a server program.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the program has ended
	err    error         // of its end; valid once exited is closed
}

// launch starts a program that appends what it prints to a log. It does not wait for anything.
func launch(cmd *exec.Cmd, logPath string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // an error here means that it is gone
}

// await returns when ready does with true. It gives up when the program or ctx ends.
func (p *process) await(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("%w: %v", errExited, p.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// workingIn lists the processes whose working directory is dir.
func workingIn(dir string) []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/cwd") // the pattern is sound
	for _, link := range links {
		cwd, err := os.Readlink(link)
		if err != nil || strings.TrimSuffix(cwd, " (deleted)") != dir {
			continue // gone, or somebody else's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// state is the letter that the kernel gives a process's state, "" when it is gone.
func state(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat), ") ") // programs named here have no parenthesis in their names
	return after[:min(1, len(after))]
}

// tail is the end of a log, for messages.
func tail(logPath string) string {
	b, err := os.ReadFile(logPath)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-tailBytes):])
}
