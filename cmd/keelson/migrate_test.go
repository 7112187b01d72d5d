package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/migrate"
)

func TestMigrate(t *testing.T) {
	dir := store(t, put("a", 2), put("b", 3))
	base := t.TempDir()
	snapshot, state := filepath.Join(base, "snapshot"), filepath.Join(base, "state.db")
	o := run(t, nil, "migrate", "--from", dir, "--to", "snapshot:"+snapshot)
	if o.code != 0 || o.stderr != "" || !strings.Contains(o.stdout, "revision 3, never compacted, 2 keys, 2 changes") || !strings.Contains(o.stdout, "\nequal: all revisions") || strings.Contains(o.stdout, "LOST") {
		t.Errorf("%+v", o)
	}
	o = run(t, nil, "migrate", "--from", snapshot, "--to", "kine+sqlite:"+state, "--json")
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	var plan struct{ Plan migrate.Plan }
	var proof struct{ Proof migrate.Proof }
	if len(lines) != 2 {
		t.Fatalf("%+v", o)
	}
	if err := json.Unmarshal([]byte(lines[0]), &plan); err != nil || plan.Plan.Source.Keys != 2 || len(plan.Plan.Kept) == 0 {
		t.Errorf("%v: %s", err, lines[0])
	}
	if err := json.Unmarshal([]byte(lines[1]), &proof); err != nil || proof.Proof.Source != proof.Proof.Target || proof.Proof.Target.Keys != 2 || o.code != 0 {
		t.Errorf("%v: %s", err, lines[1])
	}
	o = run(t, nil, "migrate", "--from", snapshot, "--to", "kine+sqlite:"+state)
	if o.code != 1 || !strings.Contains(o.stderr, "there is a table kine already") {
		t.Errorf("over what is there: %+v", o)
	}
}

// TestMigrateLoss: what loses something is told, and not done without --yes.
func TestMigrateLoss(t *testing.T) {
	second := put("a", 3)
	second.Meta = append([]byte{3, 0, 1, 2, 0, 1}, "a"...) // created at revision 2, version 2
	dir := store(t, put("a", 2), second)
	state := filepath.Join(t.TempDir(), "state.db")
	args := []string{"migrate", "--from", dir, "--to", "kine+sqlite:" + state}
	if o := run(t, nil, args...); o.code != 1 || !strings.Contains(o.stdout, "LOST  versions") || !strings.Contains(o.stderr, "nothing was written") {
		t.Errorf("%+v", o)
	}
	if o := run(t, nil, append(args, "--dry-run")...); o.code != 0 || !strings.Contains(o.stdout, "LOST  versions") {
		t.Errorf("%+v", o)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("it was written")
	}
	if o := run(t, nil, append(args, "--yes")...); o.code != 0 || !strings.Contains(o.stdout, "\nequal: ") {
		t.Errorf("%+v", o)
	}
}

// TestMigrateSecrets: what must not be on the command line may be in files and in the environment.
func TestMigrateSecrets(t *testing.T) {
	p := &program{environ: []string{"ETCDCTL_USER=ann", "ETCDCTL_PASSWORD=secret", "ETCDCTL_CACERT=ca", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY=true"}}
	c, err := p.parseMigrate([]string{"--from", "https://h:1", "--to", "kine+mysql://u@tcp(h)/d", "--cert", "c", "--to-password-file", "f"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (migrate.Client{CACert: "ca", Cert: "c", User: "ann:secret", InsecureSkipTLSVerify: true}); c.opts.Client != want || c.opts.To.PasswordFile != "f" || c.opts.From.PasswordFile != "" {
		t.Errorf("%+v", c.opts)
	}
	c, err = p.parseMigrate([]string{"--from", "https://h:1", "--to", "https://h:2", "--user", "bob:x", "--to-user", "carl:y"})
	if err != nil || c.opts.Client.User != "bob:x" || c.opts.TargetClient.User != "carl:y" || c.opts.TargetClient.CACert != "" {
		t.Errorf("%+v, %v", c.opts, err)
	}
	if _, err := p.parseMigrate([]string{"--from", "https://h:1", "--to", "dir:x", "--from-password-file", "f"}); err == nil {
		t.Error("a server was given the password of a database")
	}
}

// TestMigrateUsers: each server is told the user that is meant for it, who has a password.
func TestMigrateUsers(t *testing.T) {
	dir := store(t, put("a", 2))
	secret := func(password string) (path string) {
		path = filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	x, y, empty := secret("x:1"), secret("y"), secret("")
	exported := []string{"ETCDCTL_USER=ann", "ETCDCTL_PASSWORD=secret"}
	both, out, in := []string{"--from", "https://h:1", "--to", "http://h:2"}, []string{"--from", "https://h:1", "--to", "snapshot:s"}, []string{"--from", dir, "--to", "http://h:2"}
	for _, c := range []struct {
		environ, args, more []string
		from, to            string
		refused             string
	}{
		{environ: exported, args: both, from: "ann:secret"},
		{environ: exported, args: in, from: "ann"}, // whom nobody is told
		{environ: []string{"ETCDCTL_USER=ann:secret"}, args: both, from: "ann:secret"},
		{environ: []string{"ETCDCTL_USER=ann"}, args: both, refused: "user ann has no password"},
		{environ: []string{"ETCDCTL_USER=ann"}, args: both, more: []string{"--from-password-file", x}, from: "ann:x:1"},
		{environ: exported, args: both, more: []string{"--user", "bob"}, from: "bob:secret", to: "bob:secret"},
		{environ: exported, args: both, more: []string{"--user", ""}},
		{environ: exported, args: in, more: []string{"--user", "bob"}, from: "bob", to: "bob:secret"},
		{environ: exported, args: both, more: []string{"--to-user", "carl"}, refused: "user carl has no password"},
		{environ: exported, args: both, more: []string{"--to-user", "carl", "--to-password-file", y}, from: "ann:secret", to: "carl:y"},
		{environ: exported, args: both, more: []string{"--to-password-file", y}, refused: "no user's name"},
		{args: both, more: []string{"--user", "bob", "--from-password-file", x}, from: "bob:x:1", to: "bob:x:1"},
		{args: both, more: []string{"--user", "bob", "--from-password-file", x, "--to-password-file", y}, from: "bob:x:1", to: "bob:y"},
		{args: out, more: []string{"--user", "bob", "--from-password-file", x}, from: "bob:x:1", to: "bob"},
		{args: both, more: []string{"--user", "bob:x", "--from-password-file", x}, refused: "user bob has two passwords"},
		{args: both, more: []string{"--user", "bob:"}, refused: "user bob has no password"},
		{args: both, more: []string{"--user", ":x"}, refused: "no user's name"},
		{args: in, more: []string{"--to-user", "carl", "--to-password-file", empty}, refused: "user carl has no password"},
		{args: in, more: []string{"--to-user", "carl", "--to-password-file", empty + "none"}, refused: "no such file"},
	} {
		p := &program{environ: c.environ}
		got, err := p.parseMigrate(append(slices.Clone(c.args), c.more...))
		switch {
		case c.refused != "":
			if err == nil || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", c, err)
			}
		case err != nil || got.opts.Client.User != c.from || got.opts.TargetClient.User != c.to:
			t.Errorf("%q: %v, %+v", c, err, got)
		}
	}
}

func TestMigrateUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"needs --from and --to":       {"--from", "x"},
		"no such file":                {"--from", filepath.Join(t.TempDir(), "x"), "--to", "dir:y"},
		"does not say what is to be":  {"--from", "http://127.0.0.1:1", "--to", "y"},
		"takes no argument":           {"--from", "http://127.0.0.1:1", "--to", "dir:y", "z"},
		"--wal-dir is for":            {"--from", "http://127.0.0.1:1", "--to", "dir:y", "--wal-dir", "z"},
		"initial-advertise-peer-urls": {"--from", "http://127.0.0.1:1", "--to", "dir:y", "--initial-advertise-peer-urls", "z"},
		"not defined":                 {"--form", "x"},
	} {
		if o := run(t, nil, append([]string{"migrate"}, args...)...); o.code != 2 || !strings.Contains(o.stderr, want) {
			t.Errorf("%q: %+v", args, o)
		}
	}
	if o := run(t, nil, "migrate", "--help"); o.code != 0 || !strings.Contains(o.stdout, "--renumber") || o.stderr != "" {
		t.Errorf("%+v", o)
	}
}
