package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrExited says that the server's process ended by itself.
var ErrExited = errors.New("server: the process has ended")

// stopTimeout is how long a server may take to end after SIGTERM before it is killed.
const stopTimeout = 60 * time.Second

// Options say where one process keeps its things.
type Options struct {
	// Dir is the data directory and the working directory; it is made when it is missing.
	Dir string
	// Log is the file to which the process's output is appended.
	Log string
	// Pprof asks for /debug/pprof where the server can give it.
	Pprof bool
	// Database is the URL of the database for a server that needs one.
	Database string
	// Cluster is the cluster of which the process is a member, and Member its place there; nil for a server that is no member.
	Cluster *Cluster
	Member  int
}

// Process is a running server. Its methods may be called from several goroutines, Stop and Kill from one at a time.
type Process struct {
	// Client is the host:port that serves the etcd API.
	Client string
	// Exec is the moment just before the process was started.
	Exec time.Time

	cmd     *exec.Cmd
	exited  chan struct{} // closed when the process has ended but is not yet reaped
	atExit  IO            // valid once exited is closed
	log     string
	stopped bool
}

// Start starts the server and returns at once, usually before it serves.
func Start(spec Spec, opts Options) (*Process, error) {
	// kine makes ./db only for its default endpoint; an empty directory harms nobody else.
	if err := os.MkdirAll(filepath.Join(opts.Dir, "db"), 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory of %s: %w", spec.Name, err)
	}
	logFile, err := os.OpenFile(opts.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", spec.Name, err)
	}
	defer logFile.Close()
	p, err := opts.ports()
	if err != nil {
		return nil, err
	}
	args := spec.args(p, opts)
	if opts.Pprof && spec.Pprof != "" {
		args = append(args, spec.Pprof)
	}
	cmd := exec.Command(spec.Binary, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = opts.Dir, logFile, logFile
	// The server dies with the benchmark, and a Ctrl-C reaches it through Stop alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	proc := &Process{Client: p.client, cmd: cmd, exited: make(chan struct{}), log: opts.Log, Exec: time.Now()}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	go proc.await()
	return proc, nil
}

// await closes exited when the process has ended. It leaves it unreaped, so that its I/O account can be read to the end.
func (p *Process) await() {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.atExit, _ = ReadIO(p.cmd.Process.Pid) // all zero when the account of a dead process cannot be read
	close(p.exited)
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Stop asks the process to end, waits for that, and kills it when it takes too long, which is an error. It gives the
// process's I/O account at its very end. A second Stop does nothing.
func (p *Process) Stop(ctx context.Context) (IO, error) {
	if p.stopped {
		return p.atExit, nil
	}
	p.stopped = true
	select {
	case <-p.exited:
		_ = p.cmd.Wait()
		return p.atExit, fmt.Errorf("%w: %v, see %s", ErrExited, p.cmd.ProcessState, p.log)
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	var killed error
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		killed = err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		killed = fmt.Errorf("did not end on SIGTERM: %w", ctx.Err())
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	_ = p.cmd.Wait() // how a server words its end in an exit code is its own affair
	return p.atExit, killed
}

// Kill ends the process as kill -9 does and waits until it has ended. To stop it afterwards does nothing.
func (p *Process) Kill() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%w: before it was killed, see %s", ErrExited, p.log)
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill a server: %w", err)
	}
	p.stopped = true
	<-p.exited
	_ = p.cmd.Wait() // it was killed
	return nil
}

// ports are those of the member's place in its cluster, and new ones for a server that is no member.
func (o Options) ports() (ports, error) {
	if o.Cluster != nil {
		return o.Cluster.members[o.Member], nil
	}
	return freePorts()
}

// freePorts finds two ports that nobody listens on at this moment.
func freePorts() (ports, error) {
	var found [2]string
	for i := range found {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports{}, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // both stay open until both are known, so that they differ
		found[i] = l.Addr().String()
	}
	return ports{client: found[0], peer: found[1]}, nil
}
