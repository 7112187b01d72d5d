package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrExited is wrapped by what waits for a process that has ended instead.
var ErrExited = errors.New("process exited")

// pollInterval is how often a condition without a signal of its own is looked at.
const pollInterval = 50 * time.Millisecond

// tailWidth is where Tail cuts a line: some components print whole objects.
const tailWidth = 400

// Command says what to run, and how.
type Command struct {
	// Name is what the process is called in messages; its output goes to Name.log.
	Name string
	// Path is the program.
	Path string
	// Args are the program's arguments, without its name.
	Args []string
	// Env is added to the environment of the starting process.
	Env []string
	// LogDir is where the log goes. It must exist.
	LogDir string
	// Detached lets the process outlive the one that starts it.
	Detached bool
}

// LogFile is where the output of the command goes.
func (c Command) LogFile() string { return filepath.Join(c.LogDir, c.Name+".log") }

// Process is a running program.
type Process struct {
	command Command
	cmd     *exec.Cmd
	logFrom int64         // where in the log the output of this start begins
	done    chan struct{} // closed when the process is gone; err is set before
	err     error
}

// Start starts the command. The process runs until it ends by itself or by Stop or Kill.
func Start(c Command) (*Process, error) {
	log, err := os.OpenFile(c.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes(c.Detached)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &Process{command: c, cmd: cmd, logFrom: info.Size(), done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Name is the name that the command gave.
func (p *Process) Name() string { return p.command.Name }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process with SIGKILL and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // an error here means that it is gone
	<-p.done
}

// Stop ends the process with SIGTERM, and with SIGKILL when ctx ends first, which is an error.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("%s did not stop on SIGTERM: %w", p.Name(), ctx.Err())
	}
}

// AwaitLog returns when the process has printed text, with an error when it ends or ctx ends before.
func (p *Process) AwaitLog(ctx context.Context, text string) error {
	return p.Await(ctx, fmt.Sprintf("%q in the log", text), func(context.Context) error {
		output, err := p.Output()
		if err != nil {
			return err
		}
		if !strings.Contains(output, text) {
			return errors.New("not printed")
		}
		return nil
	})
}

// Await returns when check does without error. It gives up when the process or ctx ends.
func (p *Process) Await(ctx context.Context, what string, check func(context.Context) error) error {
	return Await(ctx, fmt.Sprintf("%s of %s", what, p.Name()), func(ctx context.Context) error {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return GiveUp(fmt.Errorf("%s: %w (%v)", p.Name(), ErrExited, p.err))
		default:
			return err
		}
	})
}

// Output is what the process has printed since it was started.
func (p *Process) Output() (string, error) {
	f, err := os.Open(p.command.LogFile())
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.Seek(p.logFrom, io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

// Tail is the last lines of the log, under a heading, for the message of a failure.
func (p *Process) Tail(lines int) string { return Tail(p.command.LogFile(), lines) }

// GiveUp makes an error that ends an Await at once.
func GiveUp(err error) error { return fatal{err} }

type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Await calls check until it returns no error, or one of GiveUp, or ctx ends; then the error is check's last one.
func Await(ctx context.Context, what string, check func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err // what is cut short by the end of ctx says nothing new
		}
		if f := (fatal{}); errors.As(err, &f) {
			return fmt.Errorf("awaiting %s: %w", what, f.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("awaiting %s: %w: %w", what, ctx.Err(), last)
		case <-ticker.C:
		}
	}
}

// Tail is the last lines of a file, under a heading with its name, for the message of a failure.
func Tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Sprintf("---- %s: %v\n", filepath.Base(file), err)
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		if len(line) > tailWidth {
			all[i] = line[:tailWidth] + "…"
		}
	}
	return fmt.Sprintf("---- the end of %s\n%s\n", filepath.Base(file), strings.Join(all, "\n"))
}
