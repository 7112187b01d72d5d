package pg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// ErrNotInstalled means that the programs of PostgreSQL, or pgbouncer, are not on this machine.
var ErrNotInstalled = errors.New("not installed; make postgres installs it, or says how")

// minVersion is the oldest major version of PostgreSQL that is accepted.
const minVersion = 15

// binEnv names the directory of the programs, in place of a search.
const binEnv = "KEELSON_PG_BINDIR"

// installation is where the programs are, and who runs them.
type installation struct {
	bin   string
	major int
	// runAs is nil where programs run as oneself.
	runAs *syscall.Credential
}

// findInstallation looks for the programs where test/tools/postgres looks.
func findInstallation() (installation, error) {
	runAs, err := unprivileged()
	if err != nil {
		return installation{}, err
	}
	for _, dir := range binDirs() {
		if major, err := versionOf(dir); err == nil && major >= minVersion {
			return installation{bin: dir, major: major, runAs: runAs}, nil
		}
	}
	return installation{}, fmt.Errorf("PostgreSQL %d or later: %w", minVersion, ErrNotInstalled)
}

func binDirs() []string {
	if dir := os.Getenv(binEnv); dir != "" {
		return []string{dir}
	}
	var dirs []string
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is sound
	sort.Slice(found, func(i, j int) bool { return debianMajor(found[i]) > debianMajor(found[j]) })
	dirs = append(dirs, found...)
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

// debianMajor is 15 for /usr/lib/postgresql/15/bin.
func debianMajor(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir))) // 0 sorts last
	return n
}

// versionOf is the major version of the programs in dir, if all are there.
func versionOf(dir string) (int, error) {
	for _, name := range []string{"initdb", "psql", "pg_basebackup"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return 0, err
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output() // postgres (PostgreSQL) 15.18 (Debian …)
	if err != nil {
		return 0, err
	}
	_, version, _ := strings.Cut(string(out), ") ")
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	return strconv.Atoi(version[:max(end, 0)])
}

// unprivileged is whom root runs the programs as, nil for everybody else.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var failed error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			failed = err
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("no user to run Postgres, which does not run as root: %w", failed)
}

// own gives paths to the user that runs the programs.
func (i installation) own(paths ...string) error {
	if i.runAs == nil {
		return nil
	}
	for _, path := range paths {
		if err := os.Lchown(path, int(i.runAs.Uid), int(i.runAs.Gid)); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file that only the programs, and root, can read.
func (i installation) writeFile(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return i.own(path)
}

// command prepares a program of PostgreSQL, or the one with an absolute path. It works in dir, and takes nothing that is
// meant for other clients of Postgres from the environment or from a home directory.
func (i installation) command(dir, name string, args ...string) *exec.Cmd {
	if !filepath.IsAbs(name) {
		name = filepath.Join(i.bin, name)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "HOME=") && !strings.HasPrefix(e, "LC_") && !strings.HasPrefix(e, "LANG") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+dir, "PGPASSFILE="+filepath.Join(dir, "none"), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: i.runAs, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command to its end, or to that of ctx, and returns what it printed on its standard output.
func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	name := filepath.Base(cmd.Path)
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = cmd.Process.Kill() // an error here means that it is gone
		<-done
		err = ctx.Err()
	}
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
