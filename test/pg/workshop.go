package pg

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// Superuser is the name of the superuser of every server.
const Superuser = "postgres"

// guardScript waits until this process is gone, however it went, and removes what is left: processes that work
// under the directory (paused ones do not notice that their postmaster is gone), and the directory.
const guardScript = `cat >/dev/null
for try in 1 2 3; do
	for cwd in $(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1/*" 2>/dev/null); do
		pid=${cwd#/proc/}
		kill -9 "${pid%/cwd}" 2>/dev/null
	done
	rm -rf "$1" 2>/dev/null && exit
done`

// workshop is what all servers of this process share.
type workshop struct {
	installation
	// dir holds the template and the servers' directories. The guard removes it.
	dir      string
	password string
	// guard's other end is the standard input of the guard. It is closed by nobody but the kernel.
	guard io.Closer

	mu   sync.Mutex
	made int // directories so far
	tls  TLSFiles
}

// openWorkshop prepares the workshop with the first server. An error stays: what is missing stays missing.
var openWorkshop = sync.OnceValues(newWorkshop)

func newWorkshop() (*workshop, error) {
	found, err := findInstallation()
	if err != nil {
		return nil, err
	}
	tmp, err := filepath.EvalSymlinks(os.TempDir()) // as /proc tells working directories
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(tmp, "keelson-pg-")
	if err != nil {
		return nil, err
	}
	w := &workshop{installation: found, dir: dir, password: "s/" + rand.Text()}
	if w.guard, err = startGuard(dir); err != nil {
		return nil, err
	}
	if err := w.own(dir); err != nil {
		return nil, err
	}
	if w.tls, err = w.makeTLS(); err != nil {
		return nil, fmt.Errorf("keys for TLS: %w", err)
	}
	if err := w.makeTemplate(); err != nil {
		return nil, err
	}
	return w, nil
}

// startGuard starts the script that cleans up after this process. It has a session of its own: who ends this
// process by a signal to its group does not end the guard. Its end is waited for by init.
func startGuard(dir string) (io.Closer, error) {
	cmd := exec.Command("/bin/sh", "-c", guardScript, "guard", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard of %s: %w", dir, err)
	}
	return in, nil
}

func (w *workshop) template() string { return filepath.Join(w.dir, "template") }

// makeTemplate makes the data directory that all others are copies of.
func (w *workshop) makeTemplate() error {
	passwordFile := filepath.Join(w.dir, "password")
	if err := w.writeFile(passwordFile, []byte(w.password)); err != nil {
		return err
	}
	_, err := run(context.Background(), w.command(w.dir, "initdb", "--pgdata="+w.template(), "--username="+Superuser,
		"--pwfile="+passwordFile, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"))
	return err
}

// newDir makes a directory for a server. The number in its name is not used twice.
func (w *workshop) newDir(kind string) (string, error) {
	w.mu.Lock()
	w.made++
	dir := filepath.Join(w.dir, fmt.Sprintf("%s%d", kind, w.made))
	w.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, w.own(dir)
}
