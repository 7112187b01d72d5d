package pg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/keelson-io/keelson/test/ports"
)

// BouncerOptions say how pgbouncer pools. The zero value pools transactions over few connections.
type BouncerOptions struct {
	// PoolMode is session, transaction or statement. Empty means transaction.
	PoolMode string
	// PoolSize bounds the connections to each database. Zero means 5.
	PoolSize int
	// MaxPreparedStatements lets clients prepare statements in transaction mode. Zero means that they cannot. Versions of
	// pgbouncer before 1.21 know no other, and refuse to start with one.
	MaxPreparedStatements int
	// Settings are lines of the section pgbouncer of its configuration. They win over those that this package makes.
	Settings map[string]string
}

// Bouncer is a pgbouncer in front of a server, for all its databases. While the server is down, clients wait, for two
// minutes unless the setting query_wait_timeout says otherwise.
type Bouncer struct {
	server *Server
	dir    string
	port   int
	proc   *process
}

// StartBouncer starts a pgbouncer, and returns when it accepts connections. The server need not run.
func StartBouncer(ctx context.Context, server *Server, opts BouncerOptions) (*Bouncer, error) {
	program, err := findBouncer()
	if err != nil {
		return nil, fmt.Errorf("pg: %w", err)
	}
	dir, err := server.workshop.newDir("bouncer")
	if err != nil {
		return nil, fmt.Errorf("pg: bouncer: %w", err)
	}
	b := &Bouncer{server: server, dir: dir}
	if err := b.startAnywhere(ctx, program, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("pg: bouncer: %w", err), b.Close())
	}
	return b, nil
}

// findBouncer looks beside the path as well: Debian has it among the programs of the administrator.
func findBouncer() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("pgbouncer: %w", ErrNotInstalled)
}

// takesPrepared says whether the program knows the setting max_prepared_statements, which came with 1.21.
func takesPrepared(program string) (bool, error) {
	out, err := exec.Command(program, "--version").Output() // PgBouncer 1.18.0
	if err != nil {
		return false, err
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "PgBouncer %d.%d", &major, &minor); err != nil {
		return false, fmt.Errorf("version of pgbouncer: %w", err)
	}
	return major > 1 || minor >= 21, nil
}

func (b *Bouncer) startAnywhere(ctx context.Context, program string, opts BouncerOptions) error {
	for try := 0; ; try++ {
		var err error
		if b.port, err = ports.Free(); err != nil {
			return err
		}
		if err := b.configure(program, opts); err != nil {
			return err
		}
		err = b.start(ctx, program)
		if err == nil || !errors.Is(err, errExited) || !ports.Taken(b.port) || try == 5 {
			return err
		}
	}
}

func (b *Bouncer) configure(program string, opts BouncerOptions) error {
	settings := map[string]string{
		"listen_addr":               "127.0.0.1",
		"listen_port":               strconv.Itoa(b.port),
		"unix_socket_dir":           "",
		"auth_type":                 "scram-sha-256",
		"auth_file":                 b.path("users"),
		"pool_mode":                 "transaction",
		"default_pool_size":         "5",
		"max_client_conn":           "1000",
		"server_login_retry":        "1", // so many seconds after a failed connection to the server it tries another
		"ignore_startup_parameters": "extra_float_digits",
	}
	if opts.PoolMode != "" {
		settings["pool_mode"] = opts.PoolMode
	}
	if opts.PoolSize != 0 {
		settings["default_pool_size"] = strconv.Itoa(opts.PoolSize)
	}
	known, err := takesPrepared(program)
	if err != nil {
		return err
	}
	if known || opts.MaxPreparedStatements != 0 {
		settings["max_prepared_statements"] = strconv.Itoa(opts.MaxPreparedStatements)
	}
	maps.Copy(settings, opts.Settings)
	var ini strings.Builder
	fmt.Fprintf(&ini, "[databases]\n* = host=127.0.0.1 port=%d\n[pgbouncer]\n", b.server.port)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&ini, "%s = %s\n", name, settings[name])
	}
	users := fmt.Sprintf("%q %q\n", Superuser, b.server.Password())
	w := b.server.workshop
	return errors.Join(w.writeFile(b.path("ini"), []byte(ini.String())), w.writeFile(b.path("users"), []byte(users)))
}

// start runs pgbouncer until somebody listens on its port and it has not ended for want of it.
func (b *Bouncer) start(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	proc, err := launch(b.server.workshop.command(b.dir, program, b.path("ini")), b.path("log"))
	if err != nil {
		return err
	}
	b.proc = proc
	err = proc.await(ctx, func() bool {
		conn, err := net.Dial("tcp", b.Address())
		return err == nil && conn.Close() == nil && strings.Contains(b.LogTail(), "process up")
	})
	if err == nil {
		return nil
	}
	b.kill()
	return fmt.Errorf("%w; its log ends:\n%s", err, b.LogTail())
}

func (b *Bouncer) path(name string) string { return filepath.Join(b.dir, "pgbouncer."+name) }

// Address is the host and port that pgbouncer listens on.
func (b *Bouncer) Address() string { return ports.At(b.port) }

// LogTail is the end of what pgbouncer has printed.
func (b *Bouncer) LogTail() string { return tail(b.path("log")) }

// URL is for clients of a database of the server, by way of pgbouncer.
func (b *Bouncer) URL(database string) string {
	return clientURL(b.Address(), url.UserPassword(Superuser, b.server.Password()), database, url.Values{"sslmode": {"disable"}})
}

// Close ends pgbouncer, and with it the connections of its clients, and removes its directory.
func (b *Bouncer) Close() error {
	b.kill()
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("pg: close: %w", err)
	}
	return nil
}

func (b *Bouncer) kill() {
	if b.proc.running() {
		b.proc.signal(syscall.SIGKILL)
		<-b.proc.exited
	}
}
