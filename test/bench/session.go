package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/keelson-io/keelson/test/bench/load"
	"github.com/keelson-io/keelson/test/bench/report"
	"github.com/keelson-io/keelson/test/bench/server"
)

var (
	errNotBuilt = errors.New("a server is not built: make build peers")
	errFailed   = errors.New("runs of keelson, or of what it is compared with, have failed")
)

// session measures one table.
type session struct {
	opts    options
	table   report.Table
	log     *slog.Logger
	out     string // .build/bench
	data    string // a directory of this session alone, deleted at the end
	logs    string // the servers' output
	values  *load.Values
	results *report.Results
}

func newSession(ctx context.Context, opts options, table report.Table, log *slog.Logger) (*session, error) {
	for _, spec := range table.Servers {
		if _, err := os.Stat(spec.Binary); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errNotBuilt, spec.Name, err)
		}
	}
	if opts.whole {
		if err := table.CheckREADME(opts.readme()); err != nil {
			return nil, err
		}
	}
	s := &session{opts: opts, table: table, log: log, out: filepath.Join(opts.root, ".build", "bench"), values: load.NewValues()}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory for results: %w", err)
	}
	if opts.profile != "" {
		if err := os.MkdirAll(opts.profile, 0o755); err != nil {
			return nil, fmt.Errorf("make the directory for profiles: %w", err)
		}
	}
	s.results = report.New(table)
	s.results.Date, s.results.Rounds, s.results.Scale = time.Now().UTC(), opts.rounds, opts.scale
	return s, s.describe(ctx)
}

// describe says what the figures are measured on: the machine, with the disk that has the data, and the database.
func (s *session) describe(ctx context.Context) error {
	dir := s.out
	var err error
	if s.table.Name == report.Postgres {
		dir = os.TempDir() // test/pg has its data there
		if s.results.Software, err = server.DescribePostgres(ctx); err != nil {
			return err
		}
	}
	s.results.Machine, err = report.DescribeMachine(dir)
	return err
}

func (s *session) run(ctx context.Context) error {
	var err error
	if s.data, err = os.MkdirTemp(s.out, "data-"); err != nil {
		return fmt.Errorf("make a data directory: %w", err)
	}
	defer os.RemoveAll(s.data)
	if s.logs, err = os.MkdirTemp(s.out, "logs-"); err != nil {
		return fmt.Errorf("make a directory for logs: %w", err)
	}
	// All are read from disk once, whenever they were built.
	for _, spec := range s.table.Servers {
		if err := spec.Uncache(); err != nil {
			return err
		}
	}
	for round := range s.opts.rounds {
		for _, l := range s.table.Loads {
			if l.Elsewhere() {
				continue
			}
			if err := s.turn(ctx, round, l); err != nil {
				return err
			}
		}
	}
	return s.finish()
}

// turn runs one load on all servers, beginning with another one in each round.
func (s *session) turn(ctx context.Context, round int, l load.Load) error {
	for i := range s.table.Servers {
		spec := s.table.Servers[(i+round)%len(s.table.Servers)]
		if l.Without[spec.Name] != "" {
			continue
		}
		figures, err := s.once(ctx, round, spec, l)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.log.Error("failed", "round", round+1, "load", l.Name, "server", spec.Name, "error", err)
			s.results.Failures = append(s.results.Failures,
				report.Failure{Round: round + 1, Load: l.Name, Server: spec.Name, Error: err.Error()})
		}
		s.results.Add(l, spec.Name, figures)
	}
	return nil
}

func (s *session) once(ctx context.Context, round int, spec server.Spec, l load.Load) (load.Figures, error) {
	dir, err := os.MkdirTemp(s.data, l.Name+"-"+spec.Name+"-")
	if err != nil {
		return nil, fmt.Errorf("make a data directory: %w", err)
	}
	defer os.RemoveAll(dir)
	name := fmt.Sprintf("%s-%s-%d", l.Name, spec.Name, round+1)
	r := &load.Run{
		Spec: spec, Scale: s.opts.scale, Connections: s.opts.connections, Values: s.values, Log: s.log,
		Dir: dir, Keep: filepath.Join(s.data, "keep-"+l.Name+"-"+spec.Name),
		LogFile: filepath.Join(s.logs, name+".log"),
	}
	if s.opts.profile != "" {
		r.Profile = filepath.Join(s.opts.profile, name+".pprof")
	}
	begin := time.Now()
	figures, err := l.Do(ctx, r)
	if err == nil {
		s.log.Info("measured", append([]any{"round", round + 1, "server", spec.Name}, shown(l, figures, time.Since(begin))...)...)
	}
	return figures, err
}

// shown lists figures for the log.
func shown(l load.Load, figures load.Figures, took time.Duration) []any {
	ids := make([]string, 0, len(figures))
	for _, m := range l.Measures {
		if _, ok := figures[m.ID]; ok {
			ids = append(ids, m.ID)
		}
	}
	sort.Strings(ids)
	var out []any
	for _, id := range ids {
		out = append(out, id, fmt.Sprintf("%.6g", figures[id]))
	}
	return append(out, "took", took.Round(100*time.Millisecond))
}

// finish writes the results. Floors that are not met are for the reader to see; a failed run of keelson or
// etcd is an error.
func (s *session) finish() error {
	for _, l := range s.table.Loads {
		if l.Elsewhere() {
			if err := s.results.AddElsewhere(l, s.out); err != nil {
				return err
			}
		}
	}
	path := filepath.Join(s.out, "results-"+s.table.Name+"-"+s.results.Date.Format("20060102-150405")+".json")
	if err := s.results.WriteJSON(path); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	table := s.results.Markdown()
	fmt.Println(table)
	s.log.Info("results written", "json", path, "logs", s.logs)
	if !s.results.Judgeable() {
		return fmt.Errorf("%w, see above; the README keeps its table", errFailed)
	}
	if !s.opts.whole {
		s.log.Info("the README keeps its table: this was not a whole run")
		return nil
	}
	return s.table.WriteREADME(s.opts.readme(), table)
}
