package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog/verify"
)

// checkCommand examines a store: the file of a stopped server, or a database, as it is at one moment.
type checkCommand struct {
	opts config.Options // of them those that say where the store is
	json bool
}

const checkUsage = `Usage:

  keelson check [--data-dir DIR | --datastore URL] [--json]

Examine a store without changing it: the invariants of its log, and of a file its pages too. The server on
a file must be stopped; a database is examined as it is at one moment, and its servers go on. Of a member of a
cluster it is the file alone: its Raft log, and other members, may have more.
Prints a line for each finding, and then what the store holds. The exit code is 0 if the
store is sound, 1 if something was found or the store could not be read, 2 for wrong usage.

`

// maxShown bounds the findings printed: a store broken from the start has one for every entry.
const maxShown = 1000

// errFindings ends a check that has told what it found.
var errFindings = errors.New("the store is not sound")

func (p *program) check(ctx context.Context, args []string) error {
	c, err := p.parseCheck(args)
	if err != nil {
		return err
	}
	log, err := c.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.run(ctx, p, log), log.Close())
}

func (p *program) parseCheck(args []string) (*checkCommand, error) {
	c := &checkCommand{opts: config.Default()}
	o := &c.opts
	o.EnsureDefaults()
	f := p.flags(checkUsage)
	f.server("--data-dir DIR", "the server's data directory; "+o.DataDir+" if not given", &o.DataDir)
	f.server("--datastore URL", "the database instead, as the server's flag of this name has it", &o.Datastore)
	f.server("--datastore-name NAME", "which log in it; "+o.DatastoreName+" if not given", &o.DatastoreName)
	f.server("--datastore-password-file FILE", "where its password is", &o.DatastorePasswordFile)
	f.own("--json", "one JSON object for each finding, and one for the summary", &c.json)
	if err := f.parseAlone(args); err != nil {
		return nil, err
	}
	if err := o.ValidateDatastore(); err != nil {
		return nil, errUsage{err}
	}
	return c, nil
}

// open opens the store for reading. Nothing is made where there is none.
func (c *checkCommand) open(ctx context.Context) (server.Datastore, error) {
	if c.opts.Datastore == "" {
		if _, err := os.Stat(filepath.Join(c.opts.DataDir, "member")); err != nil {
			return nil, fmt.Errorf("there is no store under %s: %w", c.opts.DataDir, err)
		}
		path, err := server.DatabasePath(c.opts.DataDir)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("there is no store under %s: %w", c.opts.DataDir, err)
		}
	}
	return server.OpenDatastore(ctx, c.opts, slog.New(slog.DiscardHandler), true)
}

func (c *checkCommand) run(ctx context.Context, p *program, log drivers.Log) error {
	out := checkOutput{json: c.json, stdout: p.stdout, bar: newProgressLine(p.stderr)}
	out.bar.say("checking the database")
	sum, err := verify.Walk(ctx, log, verify.Options{Report: out.finding, Progress: out.bar.show})
	out.bar.clear()
	if err != nil {
		return errors.Join(err, out.err)
	}
	out.summary(sum)
	if out.err == nil && sum.Findings > 0 {
		return errFindings
	}
	return out.err
}

// checkOutput prints what is found.
type checkOutput struct {
	json   bool
	stdout io.Writer
	bar    *progressLine
	shown  int
	err    error // the first failure to print
}

func (o *checkOutput) print(v any, line string) {
	o.bar.clear()
	var err error
	if o.json {
		err = json.NewEncoder(o.stdout).Encode(v)
	} else {
		_, err = fmt.Fprintln(o.stdout, line)
	}
	if o.err == nil {
		o.err = err
	}
}

func (o *checkOutput) finding(f verify.Finding) {
	if o.shown++; o.shown <= maxShown {
		o.print(f, f.String())
	}
}

func (o *checkOutput) summary(s verify.Summary) {
	if more := o.shown - maxShown; more > 0 && !o.json {
		o.print(nil, fmt.Sprintf("... and %d more", more))
	}
	verdict := "sound"
	if s.Findings > 0 {
		verdict = fmt.Sprintf("%d findings", s.Findings)
	}
	o.print(s, fmt.Sprintf("%s: %d entries up to position %d (scrubbed up to %d), revision %d with %d revisions kept, %s, %d keys, %d leases, %d users, %d roles, %d members",
		verdict, s.Entries, s.Position, s.Scrubbed, s.Revision, s.Revisions, compactedAt(s.Compact), s.Keys, s.Leases, s.Users, s.Roles, s.Members))
}

// progressLine is a line of a terminal that says how far something is. Without a terminal there is none.
type progressLine struct {
	w     io.Writer // nil without a terminal
	next  time.Time // when to show it again
	shown bool
}

// progressEvery keeps short walks silent and long ones readable.
const progressEvery = time.Second

func newProgressLine(w io.Writer) *progressLine {
	l := &progressLine{next: time.Now().Add(progressEvery)}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			l.w = w
		}
	}
	return l
}

func (l *progressLine) show(done, total int64) {
	if l.w == nil || total == 0 || time.Now().Before(l.next) {
		return
	}
	l.next = time.Now().Add(progressEvery)
	l.say(fmt.Sprintf("checking the log: %3d %%", 100*done/total))
}

// step shows what text gives, now and then.
func (l *progressLine) step(text func() string) {
	if l.w == nil || time.Now().Before(l.next) {
		return
	}
	l.next = time.Now().Add(progressEvery)
	l.say(text())
}

// say puts a text on the line.
func (l *progressLine) say(text string) {
	if l.w == nil {
		return
	}
	l.clear()
	l.shown = true
	fmt.Fprint(l.w, text)
}

// clear makes room for another line.
func (l *progressLine) clear() {
	if l.shown {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.shown = false
	}
}
