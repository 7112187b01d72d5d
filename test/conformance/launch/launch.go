package launch

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/test/ports"
)

// readyLine is what etcd logs when it accepts requests.
const readyLine = "ready to serve client requests"

// ErrExited means that the process ended before it was asked to.
var ErrExited = errors.New("launch: the server exited")

// Options say what to start.
type Options struct {
	// Binary is the server's path.
	Binary string
	// Dir is an existing directory for the data and the log. The caller removes it.
	Dir string
	// Name is the server's name. Empty means default.
	Name string
	// Flags are appended to the flags that launch itself sets (addresses,
	// name and data directory), so they win.
	Flags []string
	// Env is appended to this process's environment.
	Env []string
	// StartTimeout bounds the wait for the ready line. Zero means 60 s.
	StartTimeout time.Duration
}

// Process is one server process. It keeps its addresses across restarts.
type Process struct {
	opts      Options
	cluster   string
	clientURL string
	peerURL   string
	cmd       *exec.Cmd
	exited    chan struct{} // closed when cmd.Wait has returned
	exitErr   error         // valid once exited is closed
}

// Start starts the server and returns when it has logged that it is ready.
func Start(ctx context.Context, opts Options) (*Process, error) {
	p, err := StartCluster(ctx, []Options{opts})
	if err != nil {
		return nil, err
	}
	return p[0], nil
}

// StartCluster starts several servers as one new cluster and returns when all have logged that they are ready.
func StartCluster(ctx context.Context, all []Options) ([]*Process, error) {
	var last error
	for range 3 { // a port found free may be taken before the server binds it
		members, err := newCluster(all)
		if err != nil {
			return nil, err
		}
		var g errgroup.Group
		for _, p := range members {
			g.Go(func() error { return p.run(ctx) })
		}
		if last = g.Wait(); last == nil {
			return members, nil
		}
		inUse := false
		for _, p := range members {
			inUse = inUse || p.addressInUse()
			if p.cmd != nil {
				last = errors.Join(last, p.Kill())
			}
		}
		if !inUse {
			break
		}
	}
	return nil, last
}

// newCluster prepares servers that know each other's addresses.
func newCluster(all []Options) ([]*Process, error) {
	var members []*Process
	var cluster []string
	for _, opts := range all {
		if _, err := os.Stat(opts.Binary); err != nil {
			return nil, fmt.Errorf("launch: no server binary: %w", err)
		}
		opts.StartTimeout, opts.Name = cmp.Or(opts.StartTimeout, time.Minute), cmp.Or(opts.Name, "default")
		p := &Process{opts: opts}
		if err := p.chooseAddresses(); err != nil {
			return nil, err
		}
		members, cluster = append(members, p), append(cluster, opts.Name+"="+p.peerURL)
	}
	for _, p := range members {
		p.cluster = strings.Join(cluster, ",")
	}
	return members, nil
}

func (p *Process) chooseAddresses() error {
	var urls [2]string
	for i := range urls {
		port, err := ports.Free()
		if err != nil {
			return fmt.Errorf("launch: %w", err)
		}
		urls[i] = "http://" + ports.At(port)
	}
	p.clientURL, p.peerURL = urls[0], urls[1]
	return nil
}

// Endpoint is the client address, host and port.
func (p *Process) Endpoint() string { return strings.TrimPrefix(p.clientURL, "http://") }

// PeerEndpoint is the peer address, host and port.
func (p *Process) PeerEndpoint() string { return strings.TrimPrefix(p.peerURL, "http://") }

// PID is the running process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// LogPath is the file that holds everything the server wrote to its outputs.
func (p *Process) LogPath() string { return filepath.Join(p.opts.Dir, "server.log") }

// LogTail returns the end of the log, for error messages.
func (p *Process) LogTail() string {
	b, err := os.ReadFile(p.LogPath())
	if err != nil {
		return err.Error()
	}
	if len(b) > 4096 {
		b = b[len(b)-4096:]
	}
	return string(b)
}

func (p *Process) addressInUse() bool {
	return strings.Contains(p.LogTail(), "address already in use")
}

func (p *Process) run(ctx context.Context) error {
	logFile, err := os.OpenFile(p.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("launch: open log: %w", err)
	}
	out, in := io.Pipe()
	args := append([]string{
		"--name=" + p.opts.Name,
		"--data-dir=" + filepath.Join(p.opts.Dir, "data"),
		"--listen-client-urls=" + p.clientURL,
		"--advertise-client-urls=" + p.clientURL,
		"--listen-peer-urls=" + p.peerURL,
		"--initial-advertise-peer-urls=" + p.peerURL,
		"--initial-cluster=" + p.cluster,
	}, p.opts.Flags...)
	cmd := exec.Command(p.opts.Binary, args...)
	cmd.Env = append(os.Environ(), p.opts.Env...)
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("launch: start %s: %w", p.opts.Binary, err), logFile.Close())
	}
	p.cmd, p.exited, p.exitErr = cmd, make(chan struct{}), nil
	ready := make(chan struct{})
	go scanLog(out, logFile, ready)
	go p.wait(in)
	return p.awaitReady(ctx, ready)
}

// wait ends the log pipe and announces the exit. It runs once per process.
func (p *Process) wait(in *io.PipeWriter) {
	p.exitErr = p.cmd.Wait()
	in.Close()
	close(p.exited)
}

// scanLog copies the server's output into its log file and signals the ready
// line. It ends with the pipe.
func scanLog(out io.Reader, logFile *os.File, ready chan<- struct{}) {
	defer logFile.Close()
	once := sync.OnceFunc(func() { close(ready) })
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadString('\n')
		// A log that cannot be written must not stop the server's output.
		_, _ = logFile.WriteString(line)
		if strings.Contains(line, readyLine) {
			once()
		}
		if err != nil {
			return
		}
	}
}

func (p *Process) awaitReady(ctx context.Context, ready <-chan struct{}) error {
	timeout := time.NewTimer(p.opts.StartTimeout)
	defer timeout.Stop()
	var err error
	select {
	case <-ready:
		return nil
	case <-p.exited:
		return fmt.Errorf("%w before it was ready: %v; its log ends:\n%s", ErrExited, p.exitErr, p.LogTail())
	case <-timeout.C:
		err = fmt.Errorf("launch: not ready after %v; its log ends:\n%s", p.opts.StartTimeout, p.LogTail())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, p.Kill())
}

// Exited is closed when the process has ended, for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Stop asks the process to end, as a service manager does, and waits.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

// Kill ends the process at once, as a crash does, and waits.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

func (p *Process) end(sig syscall.Signal) error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("launch: signal %v: %w", sig, err)
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(20 * time.Second):
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("launch: kill: %w", err)
	}
	<-p.exited
	return fmt.Errorf("launch: process %d did not end on %v", p.cmd.Process.Pid, sig)
}

// Pause stops the process where it is, until Resume.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Restart starts the ended process again on the same data and addresses.
func (p *Process) Restart(ctx context.Context) error {
	select {
	case <-p.exited:
	default:
		return errors.New("launch: restart of a running server")
	}
	return p.run(ctx)
}

// RestartWith is Restart with other Options.Flags, from then on.
func (p *Process) RestartWith(ctx context.Context, flags ...string) error {
	p.opts.Flags = flags
	return p.Restart(ctx)
}
