package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/keelson-io/keelson/migrate"
	"github.com/keelson-io/keelson/server/config"
)

// migrateCommand moves a store from one place to another.
type migrateCommand struct {
	from, to string
	// fromPassword and toPassword are files.
	fromPassword, toPassword string
	// exported says that the user is that of the environment, and password is the one there.
	exported bool
	password string
	opts     migrate.Options
	json     bool
}

const migrateUsage = `Usage:

  keelson migrate --from SOURCE --to TARGET [flags]

Move a store between etcd, Keelson and kine, and prove that all of it has arrived. What the target cannot keep is told
before anything is written, and needs --yes. Nothing is overwritten; a target that is broken off is not there, and the
command can be run again. The source is only read.

SOURCE and TARGET are one of:

  https://HOST:PORT[,…]            a running etcd or Keelson. As a target it is given the keys that live, at new revisions
  dir:PATH                         a data directory: of Keelson, or as a source also of an etcd that was stopped
  snapshot:PATH                    an etcd snapshot, as of etcdctl snapshot save; as a source also a bare member/snap/db
  postgres://…                     a Keelson log in Postgres, with its name as ?datastore-name=NAME, which must not be there as a target
  kine+sqlite:PATH                 kine's database, for k3s server/db/state.db
  kine+postgres://…                kine's database, as kine and k3s have it behind --endpoint and --datastore-endpoint
  kine+mysql://USER:PW@tcp(H:P)/DB the same, MySQL or MariaDB
  PATH                             a file or directory that is there; what it is, is found out

A password on the command line shows in the list of processes: name a file that has it, or give --user its one by
ETCDCTL_PASSWORD. ETCDCTL_USER, which the target is never told, _CACERT, _CERT, _KEY and _INSECURE_SKIP_TLS_VERIFY
are read too.

The exit code is 0 if both sides are equal, 1 if something failed or would be lost, 2 for wrong usage.

`

func (p *program) migrate(ctx context.Context, args []string) error {
	c, err := p.parseMigrate(args)
	if err != nil {
		return err
	}
	return c.run(ctx, p)
}

func (c *migrateCommand) define(f *flags) {
	o := &c.opts
	f.own("--from SOURCE", "where the store is", &c.from)
	f.own("--to TARGET", "where it is to be", &c.to)
	f.own("--yes", "go on although something is lost", &o.Accept)
	f.own("--dry-run", "say what would be done, and write nothing", &o.DryRun)
	f.own("--history", "give a running server all changes that are kept, in order, not only the keys that live", &o.History)
	f.own("--merge", "add to a running server that has keys; those of the same name are overwritten", &o.Merge)
	f.own("--renumber", "for kine: changes that share a revision get later ones, and all after them", &o.Renumber)
	f.own("--wal-dir DIR", "the --wal-dir of the server whose data directory the source is", &o.WALDir)
	f.own("--ignore-wal", "of a server that was not stopped cleanly, take what is in its database", &o.IgnoreWAL)
	f.own("--lost-quorum", "of a running server, take what it has, also if it lags behind its cluster or has no leader", &o.LostQuorum)
	f.own("--tmp-dir DIR", "where a copy of the source is made on the way; the system's temporary directory if not given", &o.TempDir)
	f.client("--cacert FILE", "the certificate authority of a running server", &o.Client.CACert)
	f.client("--cert FILE", "the certificate that it is shown", &o.Client.Cert)
	f.client("--key FILE", "the key of that certificate", &o.Client.Key)
	f.client("--user NAME[:PASSWORD]", "who it is told that this is", &o.Client.User)
	f.client("--insecure-skip-tls-verify", "believe any certificate", &o.Client.InsecureSkipTLSVerify)
	f.own("--to-cacert FILE", "as --cacert, for the target alone; if one of these is given, the target is given none of those", &o.TargetClient.CACert)
	f.own("--to-cert FILE", "as --cert, for the target alone", &o.TargetClient.Cert)
	f.own("--to-key FILE", "as --key, for the target alone", &o.TargetClient.Key)
	f.own("--to-user NAME[:PASSWORD]", "as --user, for the target alone", &o.TargetClient.User)
	f.own("--name NAME", "for a new data directory: the server's name, as etcd's flag; "+o.Member.Name+" if not given", &o.Member.Name)
	f.own("--initial-cluster NAME=URL[,…]", "the cluster that it begins: each member makes its directory of the same source", &o.Member.InitialCluster)
	f.own("--initial-cluster-token TOKEN", "what sets that cluster apart", &o.Member.InitialClusterToken)
	f.own("--initial-advertise-peer-urls URL[,…]", "the server's URLs in it", &o.Member.AdvertisePeerURLs)
	f.own("--datastore-password-file FILE", "where the password of postgres://… is", &o.Member.DatastorePasswordFile)
	f.own("--from-password-file FILE", "where the password is of the source's database, kine's or a Keelson's, or of its user NAME", &c.fromPassword)
	f.own("--to-password-file FILE", "the same for the target's", &c.toPassword)
	f.own("--json", "print the plan, what else is lost and the proof as JSON objects", &c.json)
}

func (p *program) parseMigrate(args []string) (*migrateCommand, error) {
	c := &migrateCommand{}
	c.opts.Member = config.Default()
	c.password = p.getenv("ETCDCTL_PASSWORD")
	f := p.flags(migrateUsage)
	c.define(f)
	switch err := f.parseAlone(args); {
	case err != nil:
		return nil, err
	case c.from == "" || c.to == "":
		return nil, usageError("it needs --from and --to")
	}
	c.exported = !f.given("user")
	if err := c.places(); err != nil {
		return nil, errUsage{err}
	}
	return c, nil
}

// places reads what flags name.
func (c *migrateCommand) places() (err error) {
	o := &c.opts
	if o.From, err = migrate.ParseSource(c.from); err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	if o.To, err = migrate.ParseTarget(c.to); err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	if o.WALDir != "" && o.From.Kind != migrate.KeelsonDir && o.From.Kind != migrate.EtcdDir {
		return fmt.Errorf("--wal-dir is for a data directory, and the source is %v", o.From)
	}
	if err := c.secrets(); err != nil {
		return err
	}
	o.Member.EnsureDefaults()
	return nil
}

// secrets gives the places and users their passwords, and the target what is the source's if it is given nothing of its own: not who is in the environment,
// which may be meant for any other server.
func (c *migrateCommand) secrets() (err error) {
	o := &c.opts
	insecure := o.Client.InsecureSkipTLSVerify
	password := "" // for the target's user
	if o.TargetClient == (migrate.Client{}) {
		o.TargetClient, password = o.Client, c.password
		switch {
		case c.exported:
			o.TargetClient.User = ""
		case o.From.Kind == migrate.Endpoint && o.To.Kind == migrate.Endpoint && c.toPassword == "":
			c.toPassword = c.fromPassword
		}
	}
	o.TargetClient.InsecureSkipTLSVerify = insecure
	for _, one := range []struct {
		place              *migrate.Place
		user               *string
		userFlag, fileFlag string
		file, password     string
	}{
		{&o.From, &o.Client.User, "--user", "--from-password-file", c.fromPassword, c.password},
		{&o.To, &o.TargetClient.User, "--to-user", "--to-password-file", c.toPassword, password},
	} {
		switch {
		case one.place.Kind == migrate.Endpoint:
			if *one.user, err = withPassword(*one.user, one.file, one.password); err != nil {
				return fmt.Errorf("%s and %s: %w", one.userFlag, one.fileFlag, err)
			}
		case one.file != "" && !one.place.Database():
			return fmt.Errorf("%s is for a database or the user of a server, and this is %v", one.fileFlag, one.place)
		default:
			one.place.PasswordFile = one.file
		}
	}
	return nil
}

// withPassword gives a user NAME the password that is in a file, or otherwise another one.
func withPassword(user, file, password string) (string, error) {
	name, told, isTold := strings.Cut(user, ":")
	switch {
	case user == "" && file == "":
		return "", nil
	case name == "":
		return "", errors.New("there is a password, and no user's name")
	case isTold && file != "":
		return "", fmt.Errorf("user %s has two passwords", name)
	case isTold:
		password = told
	case file != "":
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	if password == "" {
		return "", fmt.Errorf("user %s has no password", name)
	}
	return name + ":" + password, nil
}

func (c *migrateCommand) run(ctx context.Context, p *program) error {
	out := &migrateOutput{json: c.json, stdout: p.stdout, bar: newProgressLine(p.stderr)}
	c.opts.Plan, c.opts.Lost, c.opts.Progress = func(plan migrate.Plan) { out.plan(c, plan) }, out.lost, out.progress
	c.opts.Logger = slog.New(slog.DiscardHandler)
	start := time.Now()
	proof, err := migrate.Run(ctx, c.opts)
	out.bar.clear()
	switch {
	case errors.Is(err, migrate.ErrLoss):
		return fmt.Errorf("%w (nothing was written)", err)
	case proof.Of != "":
		out.proof(proof, time.Since(start))
	}
	return errors.Join(err, out.err)
}

// migrateOutput prints what is done.
type migrateOutput struct {
	json   bool
	stdout io.Writer
	bar    *progressLine
	err    error // the first failure to print

	step  string // that is under way
	since time.Time
}

func (o *migrateOutput) print(v any, lines ...string) {
	o.bar.clear()
	var err error
	if o.json {
		err = json.NewEncoder(o.stdout).Encode(v)
	} else {
		_, err = fmt.Fprintln(o.stdout, strings.Join(lines, "\n"))
	}
	if o.err == nil {
		o.err = err
	}
}

func (o *migrateOutput) plan(c *migrateCommand, p migrate.Plan) {
	s := p.Source
	lines := []string{
		fmt.Sprintf("from  %v: revision %d, %s, %d keys, %d changes (%d bytes), %d leases, %d users, %d roles",
			c.opts.From, s.Revision, compactedAt(s.Compact), s.Keys, s.Rows, s.Bytes, s.Leases, s.Users, s.Roles),
		fmt.Sprintf("to    %v", c.opts.To),
	}
	for _, part := range []struct {
		name  string
		texts []string
	}{{"kept", p.Kept}, {"LOST", p.Lost}, {"note", p.Notes}} {
		for _, text := range part.texts {
			lines = append(lines, part.name+"  "+text)
		}
	}
	o.print(map[string]migrate.Plan{"plan": p}, lines...)
}

// lost prints what turns out to be lost after the plan.
func (o *migrateOutput) lost(text string) {
	o.print(map[string]string{"lost": text}, "LOST  "+text)
}

func (o *migrateOutput) proof(p migrate.Proof, took time.Duration) {
	verdict := "equal"
	if p.Source != p.Target {
		verdict = "DIFFERENT"
	}
	line := func(name string, d migrate.Digest) string {
		revision := ""
		if d.Revision > 0 {
			revision = fmt.Sprintf("revision %d, ", d.Revision)
		}
		return fmt.Sprintf("%s  %s%d rows, %d keys, sha256 %s", name, revision, d.Rows, d.Keys, d.Hash)
	}
	hashkv := ""
	if p.HashKV != 0 {
		hashkv = fmt.Sprintf(", hashkv %d", p.HashKV)
	}
	others := ""
	if p.Others > 0 {
		others = fmt.Sprintf("; the target has %d other keys", p.Others)
	}
	o.print(map[string]migrate.Proof{"proof": p},
		line("source", p.Source), line("target", p.Target)+hashkv, fmt.Sprintf("%s: %s%s (%v)", verdict, p.Of, others, took.Round(time.Millisecond)))
}

// progress shows how far a step is, how fast it is, and when it will end.
func (o *migrateOutput) progress(step string, done, total int64) {
	now := time.Now()
	if step != o.step {
		o.step, o.since = step, now
	}
	o.bar.step(func() string {
		took := now.Sub(o.since)
		text := fmt.Sprintf("%s: %d", step, done)
		if total > 0 {
			text += fmt.Sprintf(" of %d (%d %%)", total, 100*done/total)
		}
		if done > 0 && took > 0 {
			rate := float64(done) / took.Seconds()
			text += fmt.Sprintf(", %.0f/s", rate)
			if total > done {
				text += fmt.Sprintf(", %v left", time.Duration(float64(total-done)/rate*float64(time.Second)).Round(time.Second))
			}
		}
		return text
	})
}
