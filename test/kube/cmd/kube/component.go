package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/test/kube/process"
)

const endTimeout = 30 * time.Second

// component is a process that an earlier start left running.
type component struct {
	name string
	pid  int
}

func (p place) pidFile(name string) string { return filepath.Join(p.dir, name+".pid") }

func (p place) remember(c component) error {
	return os.WriteFile(p.pidFile(c.name), []byte(strconv.Itoa(c.pid)+"\n"), 0o644)
}

// lock keeps two starts from meeting.
func (p place) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(p.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another `make kube` or `make kube-down` is at work: %w", err)
	}
	return func() { f.Close() }, nil
}

// running are the components that are alive, kube-apiserver first.
func (p place) running() ([]component, error) {
	files, err := filepath.Glob(p.pidFile("*"))
	if err != nil {
		return nil, err
	}
	var running []component
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if p.owns(pid) {
			running = append(running, component{name: strings.TrimSuffix(filepath.Base(file), ".pid"), pid: pid})
		}
	}
	slices.SortStableFunc(running, func(a, b component) int {
		return cmp.Compare(order(a), order(b))
	})
	return running, nil
}

// order is the order in which components end.
func order(c component) int {
	if c.name == "kube-apiserver" {
		return 0
	}
	return 1
}

// owns says whether the process is one of ours: its id may long be somebody else's. Ours have the
// directory on their command line.
func (p place) owns(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(strings.Split(string(b), "\x00"), func(argument string) bool {
		_, value, _ := strings.Cut(argument, "=")
		return value == p.dir || filepath.Dir(value) == p.dir
	})
}

// end stops a component and forgets it.
func (p place) end(ctx context.Context, c component) error {
	if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end %s: %w", c.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	err := process.Await(ctx, "the end of "+c.name, func(context.Context) error {
		if p.owns(c.pid) {
			return errors.New("still running")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w (process %d)", err, c.pid)
	}
	return os.Remove(p.pidFile(c.name))
}
