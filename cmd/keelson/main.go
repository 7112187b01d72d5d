// Keelson is an etcd v3 server on SQL. See keelson help.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends a stop that a disk keeps from ending, as such a signal does by itself.
	context.AfterFunc(ctx, stop)
	m := program{args: os.Args[1:], environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr}
	code := m.run(ctx)
	stop()
	os.Exit(code)
}

// program is one run of the command, with what it may touch of the outside.
type program struct {
	args           []string
	environ        []string
	stdout, stderr io.Writer
}

// run does what the arguments say and gives the exit code: 0, 1 for a failure, 2 for wrong usage.
func (p *program) run(ctx context.Context) int {
	if len(p.args) > 0 {
		switch p.args[0] {
		case "version":
			return p.version()
		case "help":
			return p.help()
		case "check":
			return p.check(ctx, p.args[1:])
		case "backup":
			return p.backup(ctx, p.args[1:])
		case "snapshot":
			return p.snapshot(ctx, p.args[1:])
		}
	}
	return p.serve(ctx)
}

func (p *program) fail(err error) int {
	fmt.Fprintln(p.stderr, "keelson:", err)
	return 1
}
