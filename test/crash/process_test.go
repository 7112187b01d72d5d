package crash

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/ports"
)

var (
	binDir     = flag.String("bin", "../../.build/bin", "directory of the server's binary")
	serverName = flag.String("server", "keelson", "the binary under test; etcd proves the tests themselves")
)

// readyLine is what etcd logs when it accepts requests.
const readyLine = "ready to serve client requests"

// patience bounds every wait for a server or a watcher. It is no measure of speed.
const patience = time.Minute

// server starts one binary on one data directory, one process after the other, on the same address.
type server struct {
	binary string
	flags  []string
	data   string
	log    string
	client string // host:port
	peer   string

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	err    error         // of its end; valid once exited is closed
	ready  chan struct{} // closed when it serves
}

// newServer prepares a server with a data directory under dir.
func newServer(tb testing.TB, dir string, flags ...string) *server {
	tb.Helper()
	binary, err := filepath.Abs(filepath.Join(*binDir, *serverName))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		tb.Fatalf("%v: make build builds keelson, make peers builds etcd", err)
	}
	s := &server{binary: binary, flags: flags, data: filepath.Join(dir, "data"), log: filepath.Join(tb.TempDir(), "server.log")}
	s.client, s.peer = ports.Address(tb), ports.Address(tb)
	tb.Cleanup(func() {
		if err := s.kill(); err != nil {
			tb.Error(err)
		}
		if tb.Failed() {
			tb.Logf("the server's log ends:\n%s", s.logTail())
		}
	})
	return s
}

func (s *server) args() []string {
	return append([]string{
		"--name=default",
		"--data-dir=" + s.data,
		"--listen-client-urls=http://" + s.client,
		"--advertise-client-urls=http://" + s.client,
		"--listen-peer-urls=http://" + s.peer,
		"--initial-advertise-peer-urls=http://" + s.peer,
		"--initial-cluster=default=http://" + s.peer,
	}, s.flags...)
}

// launch starts a process and does not wait for it.
func (s *server) launch() error {
	logFile, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return errors.Join(err, logFile.Close())
	}
	cmd := exec.Command(s.binary, s.args()...)
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, in.Close(), out.Close(), logFile.Close())
	}
	in.Close()
	s.cmd, s.exited, s.ready = cmd, make(chan struct{}), make(chan struct{})
	copied := make(chan struct{})
	go copyLog(out, logFile, s.ready, copied)
	go func(exited chan struct{}) {
		<-copied
		s.err = cmd.Wait()
		close(exited)
	}(s.exited)
	return nil
}

// copyLog copies the output to the log until it ends, and tells when the server is ready.
func copyLog(out, log *os.File, ready, copied chan struct{}) {
	defer close(copied)
	defer log.Close()
	defer out.Close()
	served := sync.OnceFunc(func() { close(ready) })
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		_, _ = io.WriteString(log, line) // a log that cannot be written must not stop the server
		if strings.Contains(line, readyLine) {
			served()
		}
		if err != nil {
			return
		}
	}
}

// start starts a process and waits until it serves.
func (s *server) start(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-s.ready:
		return nil
	case <-s.exited:
		return fmt.Errorf("the server ended before it was ready: %v; its log ends:\n%s", s.err, s.logTail())
	case <-ctx.Done():
		return fmt.Errorf("the server is not ready: %w; its log ends:\n%s", ctx.Err(), s.logTail())
	}
}

// kill ends the process as a crash does.
func (s *server) kill() error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.exited
	return nil
}

// terminate asks the process to end. It may end well, or as etcd does by the signal itself once all is done.
func (s *server) terminate() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := s.wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	return err
}

// wait waits for a process that ends by itself.
func (s *server) wait() error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-s.exited:
		return s.err
	case <-timeout.C:
		return fmt.Errorf("the server has not ended after %v", patience)
	}
}

func (s *server) logTail() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
