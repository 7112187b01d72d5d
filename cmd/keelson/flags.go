package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// flags are those of one command. Each is defined together with its line of the help, in the order of the help.
type flags struct {
	program *program
	set     *flag.FlagSet
	help    strings.Builder
	err     error // of the environment; parse gives it
}

// flags begins the flags of a command whose help begins with a text.
func (p *program) flags(usage string) *flags {
	f := &flags{program: p, set: flag.NewFlagSet("", flag.ContinueOnError)}
	f.set.SetOutput(io.Discard)
	f.help.WriteString(usage)
	return f
}

// own defines the flags that a syntax such as "-n, --name VALUE" names, and writes their line of the help; without a text there is none.
// The variables that they set come in the order of the names, the last for all names that are left. Until then they have what is usual.
func (f *flags) own(syntax, text string, to ...any) { f.define("", syntax, text, to) }

// client defines flags of etcdctl's, for which the environment may have a value.
func (f *flags) client(syntax, text string, to ...any) { f.define("ETCDCTL_", syntax, text, to) }

// server defines flags of the server's, for which the environment may have a value.
func (f *flags) server(syntax, text string, to ...any) { f.define("ETCD_", syntax, text, to) }

func (f *flags) define(prefix, syntax, text string, to []any) {
	if text != "" {
		fmt.Fprintf(&f.help, "  %-31s %s\n", syntax, text)
	}
	n := 0
	for _, word := range strings.Fields(syntax) {
		if !strings.HasPrefix(word, "-") {
			continue
		}
		name, _, _ := strings.Cut(strings.Trim(word, "-,"), "=")
		f.bind(name, to[min(n, len(to)-1)])
		if n++; prefix != "" {
			f.read(name, prefix+strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
		}
	}
}

// bind has a flag set a variable.
func (f *flags) bind(name string, to any) {
	switch to := to.(type) {
	case *string:
		f.set.StringVar(to, name, *to, "")
	case *bool:
		f.set.BoolVar(to, name, *to, "")
	case *int:
		f.set.IntVar(to, name, *to, "")
	case *int64:
		f.set.Int64Var(to, name, *to, "")
	case *uint64:
		f.set.Uint64Var(to, name, *to, "")
	case *time.Duration:
		f.set.DurationVar(to, name, *to, "")
	case func(string) error:
		f.set.Func(name, "", to)
	default:
		f.set.Var(to.(flag.Value), name, "")
	}
}

// read gives a flag the value that the environment has for it.
func (f *flags) read(name, variable string) {
	text := f.program.getenv(variable)
	if text == "" {
		return
	}
	if err := f.set.Lookup(name).Value.Set(text); err != nil {
		f.err = errors.Join(f.err, usageError("%s is not what --%s takes: %v", variable, name, err))
	}
}

// getenv gives a variable of the environment that the program was given.
func (p *program) getenv(name string) (value string) {
	for _, e := range p.environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// parse parses flags that may come before, between and behind other arguments, as etcdctl's do, and gives those. It prints the help that is asked for.
func (f *flags) parse(args []string) (rest []string, err error) {
	for {
		switch err := f.set.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(f.program.stdout, f.help.String())
			return nil, err
		case err != nil:
			return nil, errUsage{err}
		}
		n := len(args) - f.set.NArg()
		if f.set.NArg() == 0 || n > 0 && args[n-1] == "--" {
			return append(rest, f.set.Args()...), f.err
		}
		rest, args = append(rest, f.set.Arg(0)), f.set.Args()[1:]
	}
}

// parseAlone parses the flags of a command that takes nothing else.
func (f *flags) parseAlone(args []string) error {
	rest, err := f.parse(args)
	if err == nil && len(rest) > 0 {
		return usageError("it takes no argument such as %q", rest[0])
	}
	return err
}

// parseFile parses the flags of a command that takes a file.
func (f *flags) parseFile(args []string) (file string, err error) {
	rest, err := f.parse(args)
	switch {
	case err != nil:
		return "", err
	case len(rest) != 1:
		return "", usageError("it takes exactly one file, and was given %d: %q", len(rest), rest)
	}
	return rest[0], nil
}

// given tells whether the arguments have a flag.
func (f *flags) given(name string) (yes bool) {
	f.set.Visit(func(g *flag.Flag) { yes = yes || g.Name == name })
	return yes
}

// errUsage says that a command was given in a wrong way.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

func usageError(format string, args ...any) error { return errUsage{fmt.Errorf(format, args...)} }
