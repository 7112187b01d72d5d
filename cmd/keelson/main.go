// Keelson is an etcd v3 server on SQL. See keelson help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
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
	name, command := p.command(p.args)
	if command == nil {
		return p.serve(ctx)
	}
	return p.end(name, command(ctx, p.args[len(strings.Fields(name)):]))
}

// command gives the command that the first arguments name, if they do.
func (p *program) command(args []string) (name string, command func(context.Context, []string) error) {
	commands := map[string]func(context.Context, []string) error{
		"version":          p.version,
		"help":             p.help,
		"check":            p.check,
		"snapshot":         p.snapshot,
		"snapshot save":    p.snapshotSave,
		"snapshot status":  p.snapshotStatus,
		"snapshot restore": p.snapshotRestore,
		"history":          p.history,
		"rewind":           p.rewind,
		"migrate":          p.migrate,
		"backup":           p.backup,
	}
	for n := min(2, len(args)); n > 0; n-- {
		name := strings.Join(args[:n], " ")
		if command, ok := commands[name]; ok {
			return name, command
		}
	}
	return "", nil
}

// end tells the error of a command, if it has not printed its help or its findings, and gives the exit code.
func (p *program) end(name string, err error) int {
	usage := errors.As(err, new(errUsage))
	if err != nil && !errors.Is(err, flag.ErrHelp) && !errors.Is(err, errFindings) {
		fmt.Fprintf(p.stderr, "keelson: %s: %v\n", name, err)
		if usage {
			fmt.Fprintf(p.stderr, "'keelson %s --help' says how it is used.\n", name)
		}
	}
	switch {
	case usage:
		return 2
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	}
	return 1
}
