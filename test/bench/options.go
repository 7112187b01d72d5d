package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keelson-io/keelson/test/bench/load"
	"github.com/keelson-io/keelson/test/bench/server"
)

var errUsage = errors.New("wrong usage")

// fullRounds is how many rounds a table for the README needs.
const fullRounds = 3

// options are the command line.
type options struct {
	// root is the repository: binaries are in .build/bin below it, results go to .build/bench, the table to README.md.
	root string
	// rounds is how often each load runs on each server.
	rounds int
	// scale multiplies durations and numbers of keys.
	scale float64
	// connections is how many connections the clients of a load share.
	connections int
	// profile is a directory for CPU profiles of servers that have them; empty for none.
	profile string
	// loads and specs are what was asked for, in the order of the table.
	loads []load.Load
	specs []server.Spec
	// whole says that nothing was left out, so the table may go into the README.
	whole bool
}

// readme is where the table goes.
func (o options) readme() string { return filepath.Join(o.root, "README.md") }

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.root, "root", ".", "the repository's root")
	flags.IntVar(&o.rounds, "rounds", fullRounds, "how often each load runs on each server")
	flags.Float64Var(&o.scale, "scale", 1, "multiplies durations and numbers of keys, for a quick look")
	flags.IntVar(&o.connections, "connections", load.Connections, "how many connections the clients of a load share")
	flags.StringVar(&o.profile, "profile", "", "directory for CPU profiles of etcd and keelson during each load")
	only := flags.String("only", "", "comma-separated loads (default all)")
	servers := flags.String("servers", "", "comma-separated servers (default all)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.rounds < 1 || o.scale <= 0 || o.connections < 1 {
		return o, fmt.Errorf("%w: no arguments, at least one round and one connection, and a scale above 0", errUsage)
	}
	var err error
	if o.root, err = filepath.Abs(o.root); err != nil {
		return o, fmt.Errorf("find the repository: %w", err)
	}
	if o.profile != "" {
		if o.profile, err = filepath.Abs(o.profile); err != nil {
			return o, fmt.Errorf("find the directory for profiles: %w", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return o, fmt.Errorf("find the bench's own executable: %w", err)
	}
	o.loads, err = choose(load.All(), *only, func(l load.Load) string { return l.Name })
	if err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	specs := server.Specs(filepath.Join(o.root, ".build", "bin"), self)
	o.specs, err = choose(specs, *servers, func(s server.Spec) string { return s.Name })
	if err != nil {
		return o, fmt.Errorf("-servers: %w", err)
	}
	o.whole = *only == "" && *servers == "" && o.scale == 1 && o.rounds >= fullRounds && o.profile == "" &&
		o.connections == load.Connections
	return o, nil
}

// choose keeps those of all whose names are listed, in the order of all; an empty list keeps all.
func choose[T any](all []T, list string, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	wanted := strings.Split(list, ",")
	var names []string
	var kept []T
	for _, item := range all {
		names = append(names, name(item))
		if slices.Contains(wanted, name(item)) {
			kept = append(kept, item)
		}
	}
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return nil, fmt.Errorf("%w: %q is none of %s", errUsage, w, strings.Join(names, ", "))
		}
	}
	return kept, nil
}
