package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// networks counts them: one that is gone may take a while to be so.
var networks int

// network is a bridge to which all hosts are connected, and these tests.
type network struct {
	id    int
	hosts []*host
}

// host is a network namespace with one address.
type host struct {
	net       *network
	n         int
	namespace *os.File
}

// newNetwork makes a network without hosts.
func newNetwork(t *testing.T) *network {
	t.Helper()
	networks++
	n := &network{id: networks}
	err := errors.Join(
		ip(nil, "link add %s type bridge", n.bridge()),
		ip(nil, "addr add %s/24 dev %s", n.address(200), n.bridge()),
		ip(nil, "link set %s up", n.bridge()),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range n.hosts {
			_ = h.namespace.Close() // the last that holds it
		}
		if err := ip(nil, "link del %s", n.bridge()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *network) bridge() string       { return fmt.Sprintf("br%d", n.id) }
func (n *network) address(h int) string { return fmt.Sprintf("10.77.%d.%d", n.id, h) }
func (h *host) address() string         { return h.net.address(h.n) }
func (h *host) hardware(nobody bool) string {
	return fmt.Sprintf("02:00:00:%02x:%02x:%02x", truth[nobody], h.net.id, h.n)
}

var truth = map[bool]int{true: 1}

// add adds a host, which reaches all others.
func (n *network) add() (*host, error) {
	h := &host{net: n, n: len(n.hosts) + 1}
	err := apart(nil, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		h.namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	outer := fmt.Sprintf("v%d.%d", n.id, h.n)
	err = errors.Join(
		ipWith(h.namespace, "link add %s type veth peer name eth0 address %s netns /proc/self/fd/3", outer, h.hardware(false)),
		ip(nil, "link set %s master %s up", outer, n.bridge()),
		ip(h, "link set lo up"),
		ip(h, "addr add %s/24 dev eth0", h.address()),
		ip(h, "link set eth0 up"),
	)
	n.hosts = append(n.hosts, h)
	for _, other := range n.hosts {
		if other != h {
			err = errors.Join(err, h.reach(other, true), other.reach(h, true))
		}
	}
	return h, err
}

// reach lets a host's packets get to another one, or get lost: it sends them to hardware that is not there.
func (h *host) reach(other *host, ok bool) error {
	return ip(h, "neigh replace %s lladdr %s nud permanent dev eth0", other.address(), other.hardware(!ok))
}

// heal lets all reach all, at once.
func (n *network) heal() error {
	var errs []error
	for _, h := range n.hosts {
		for _, other := range n.hosts {
			if other != h {
				errs = append(errs, h.reach(other, true))
			}
		}
		_ = tc(h, "qdisc del dev eth0 root") // there is one only where the line was slow
	}
	return errors.Join(errs...)
}

// slow makes what hosts send late, and lose some of it. It returns how, empty if this kernel has no way.
func (n *network) slow() (string, error) {
	var last error
	for _, how := range []string{"netem delay 40ms 20ms loss 3%", "tbf rate 3mbit burst 8kb latency 150ms"} {
		last = nil
		for _, h := range n.hosts {
			last = errors.Join(last, tc(h, "qdisc replace dev eth0 root %s", how))
		}
		if last == nil {
			return how, nil
		}
	}
	return "", last
}

// apart runs a function on a thread of its own in a host's namespace, nil is these tests'. The thread ends with it.
func apart(h *host, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: its namespace is not the others'
		if h != nil {
			if err := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- fmt.Errorf("enter a network namespace: %w", err)
				return
			}
		}
		done <- f()
	}()
	return <-done
}

func ip(h *host, format string, args ...any) error {
	return apart(h, func() error { return command(nil, "ip", format, args...) })
}

// ipWith has a file as descriptor 3.
func ipWith(file *os.File, format string, args ...any) error {
	return command([]*os.File{file}, "ip", format, args...)
}

func tc(h *host, format string, args ...any) error {
	return apart(h, func() error { return command(nil, "tc", format, args...) })
}

func command(files []*os.File, name, format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	cmd := exec.Command(name, strings.Fields(line)...)
	cmd.ExtraFiles = files
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, line, err, out)
	}
	return nil
}
