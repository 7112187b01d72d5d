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
	"github.com/keelson-io/keelson/test/bench/report"
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
	// tables are what was asked for of each table: those that have no load or no server left are left out.
	tables []report.Table
	// whole says that nothing was left out of them, so that they may go into the README.
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
	tables := flags.String("table", "", "comma-separated tables, of sqlite, postgres and raft (default all)")
	keelson := flags.String("keelson", "", "another executable than .build/bin/keelson to measure as Keelson")
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
	o.tables, err = choose(report.Tables(filepath.Join(o.root, ".build", "bin"), self), *tables, func(t report.Table) string { return t.Name })
	if err != nil {
		return o, fmt.Errorf("-table: %w", err)
	}
	if err := o.narrow(*only, *servers); err != nil {
		return o, err
	}
	if err := o.replaceKeelson(*keelson); err != nil {
		return o, err
	}
	o.whole = *only == "" && *servers == "" && o.scale == 1 && o.rounds >= fullRounds && o.profile == "" &&
		o.connections == load.Connections && *keelson == ""
	return o, nil
}

// replaceKeelson has the servers that are Keelson run another executable; an empty path leaves them as they are.
func (o *options) replaceKeelson(path string) error {
	if path == "" {
		return nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find the executable to measure: %w", err)
	}
	for _, t := range o.tables {
		for i := range t.Servers {
			if filepath.Base(t.Servers[i].Binary) == "keelson" {
				t.Servers[i].Binary = path
			}
		}
	}
	return nil
}

// narrow keeps the loads and servers that are listed, in each table those that it has. Every name must be in some table.
func (o *options) narrow(loads, servers string) error {
	loadName := func(l load.Load) string { return l.Name }
	specName := func(s server.Spec) string { return s.Name }
	var allLoads []load.Load
	var allSpecs []server.Spec
	for _, t := range o.tables {
		allLoads, allSpecs = append(allLoads, t.Loads...), append(allSpecs, t.Servers...)
	}
	if _, err := choose(allLoads, loads, loadName); err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if _, err := choose(allSpecs, servers, specName); err != nil {
		return fmt.Errorf("-servers: %w", err)
	}
	var kept []report.Table
	for _, t := range o.tables {
		t.Loads, t.Servers = listed(t.Loads, loads, loadName), listed(t.Servers, servers, specName)
		if len(t.Loads) > 0 && len(t.Servers) > 0 {
			kept = append(kept, t)
		}
	}
	o.tables = kept
	if len(kept) == 0 {
		return fmt.Errorf("%w: no table has one of these loads and one of these servers", errUsage)
	}
	return nil
}

// choose keeps those of all whose names are listed, in the order of all; an empty list keeps all. What is listed must be there.
func choose[T any](all []T, list string, name func(T) string) ([]T, error) {
	var names []string
	for _, item := range all {
		names = append(names, name(item))
	}
	if list != "" {
		for w := range strings.SplitSeq(list, ",") {
			if !slices.Contains(names, w) {
				return nil, fmt.Errorf("%w: %q is none of %s", errUsage, w, strings.Join(names, ", "))
			}
		}
	}
	return listed(all, list, name), nil
}

// listed keeps those of all whose names are listed, in the order of all; an empty list keeps all.
func listed[T any](all []T, list string, name func(T) string) []T {
	if list == "" {
		return all
	}
	wanted := strings.Split(list, ",")
	var kept []T
	for _, item := range all {
		if slices.Contains(wanted, name(item)) {
			kept = append(kept, item)
		}
	}
	return kept
}
