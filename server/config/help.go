package config

import (
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"

	"go.etcd.io/etcd/api/v3/version"
)

const helpWidth = 100

// UsageLine is the hint that follows an error of the command line.
const UsageLine = "'keelson --help' lists all options."

// Help writes the flags by group, each with its default.
func Help(w io.Writer) error {
	o := Default()
	f := newFlags(&o)
	text := &strings.Builder{}
	fmt.Fprint(text, `Usage:

  keelson [flags]

Start a server. The flags are etcd's, and so is what they mean. Each can be given by the environment
instead: --data-dir is ETCD_DATA_DIR. The --experimental-* names of older releases are understood.
`)
	for _, g := range f.groups {
		fmt.Fprintf(text, "\n%s:\n", g.title)
		for _, name := range g.flags {
			fl := f.Lookup(name)
			fmt.Fprintf(text, "  --%s%s\n", name, defaultOf(fl))
			wrap(text, fl.Usage)
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func defaultOf(fl *flag.Flag) string {
	if b, ok := fl.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
		return "=" + fl.DefValue
	}
	return " '" + fl.DefValue + "'"
}

// wrap writes text in indented lines.
func wrap(w *strings.Builder, text string) {
	const indent = "      "
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line)+len(word) > helpWidth && line != indent {
			fmt.Fprintln(w, strings.TrimRight(line, " "))
			line = indent
		}
		line += word + " "
	}
	fmt.Fprintln(w, strings.TrimRight(line, " "))
}

// Build is what a binary knows of its making.
type Build struct {
	// Version is Keelson's own.
	Version string
	// Commit is the commit that it was built from, if known.
	Commit string
}

// EtcdVersion is the version of etcd whose behaviour and API this server has.
func EtcdVersion() string { return version.Version }

// Version writes etcd's lines, which scripts read, and then Keelson's own.
func Version(w io.Writer, b Build) error {
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	_, err := fmt.Fprintf(w, "etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\nKeelson Version: %s\n",
		EtcdVersion(), commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, b.Version)
	return err
}
