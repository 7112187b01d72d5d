package cluster

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	binDir      = flag.String("bin", "../../../.build/bin", "directory of the servers' binaries")
	serverName  = flag.String("server", cmp.Or(os.Getenv("CLUSTER_SERVER"), "keelson"), "binary to test, in -bin or with a path; CLUSTER_SERVER in the environment is the same")
	serverFlags = flag.String("server-flags", os.Getenv("CLUSTER_SERVER_FLAGS"), "more flags for each server, between blanks; CLUSTER_SERVER_FLAGS is the same")
	long        = flag.Bool("long", os.Getenv("CLUSTER_LONG") != "", "all faults, on three and on five members, several times")
	seed        = flag.Uint64("seed", 0, "seed of everything random; 0 takes the time")
)

// inside is set in the environment of the tests that are in their namespaces; it is the directory for what is kept.
const inside = "CLUSTER_INSIDE"

// A thread that was in another namespace may end, but never the one that the kernel takes for the process.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	if err := settleIn(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter runs this binary again in namespaces of its own. All processes that it starts end with it.
func enter() int {
	scratch, err := os.MkdirTemp("", "cluster-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	defer os.RemoveAll(scratch)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+os.TempDir(), "TMPDIR="+scratch)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster: the tests need namespaces, as root or with those of users allowed:", err)
		return 1
	}
	go func() {
		<-signals
		_ = cmd.Process.Kill() // it may have ended
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "cluster:", err)
	return 1
}

// settleIn keeps mounts to these namespaces, and turns the network on.
func settleIn() error {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("the command ip is missing (Debian and Ubuntu: apt-get install iproute2): %w", err)
	}
	return ip(nil, "link set lo up")
}

// binary is a server's path.
func binary(t *testing.T, path string) string {
	t.Helper()
	if !strings.Contains(path, "/") {
		path = filepath.Join(*binDir, path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: make build builds keelson, make peers builds etcd, make clock-server and make clock-etcd those whose clocks can be set", err)
	}
	return path
}

func theSeed() uint64 { return cmp.Or(*seed, uint64(time.Now().UnixNano())) }
