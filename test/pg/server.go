package pg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keelson-io/keelson/test/ports"
)

// Options say what server to start. The zero value is a fast one for functional tests.
type Options struct {
	// Settings are lines of postgresql.conf. They win over those that this package makes.
	Settings map[string]string
	// Durable leaves fsync on, as Postgres has it by default. Without it a commit survives the death of Postgres, by
	// Kill too, but not that of the machine: right for everything but measurements of speed and broken disks.
	Durable bool
	// TLS makes the server accept connections with TLS beside those without: with the password, or, as
	// TLSUser, with a client certificate. See TLSURL.
	TLS bool
}

// Server is one PostgreSQL server. It keeps its data, its port and its URLs when it is stopped and started.
type Server struct {
	workshop *workshop
	opts     Options
	dir      string
	port     int
	proc     *process // the last one; nil before the first
}

// Start starts a server with an empty database called postgres, and returns when it accepts connections.
func Start(ctx context.Context, opts Options) (*Server, error) {
	w, err := openWorkshop()
	if err != nil {
		return nil, fmt.Errorf("pg: %w", err)
	}
	s, err := newServer(w, opts)
	if err != nil {
		return nil, fmt.Errorf("pg: %w", err)
	}
	if err := s.create(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("pg: %w", err), s.Close())
	}
	return s, nil
}

func newServer(w *workshop, opts Options) (*Server, error) {
	dir, err := w.newDir("server")
	if err != nil {
		return nil, err
	}
	opts.Settings = maps.Clone(opts.Settings)
	return &Server{workshop: w, opts: opts, dir: dir}, nil
}

func (s *Server) create(ctx context.Context) error {
	if _, err := run(ctx, s.workshop.command(s.dir, "/bin/cp", "-R", s.workshop.template(), s.data())); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return err
	}
	if s.opts.Durable { // or the copy would be written while speed is measured
		if _, err := run(ctx, s.workshop.command(s.dir, "initdb", "--sync-only", "--pgdata="+s.data())); err != nil {
			return err
		}
	}
	if err := s.startAnywhere(ctx); err != nil {
		return err
	}
	if s.opts.TLS {
		_, err := s.Query(ctx, "CREATE ROLE "+TLSUser+" SUPERUSER LOGIN")
		return err
	}
	return nil
}

// configure appends to postgresql.conf, where the last line for a name counts, and writes pg_hba.conf.
func (s *Server) configure() error {
	var conf, access strings.Builder
	setting := func(name, value string) { fmt.Fprintf(&conf, "%s = %s\n", name, quote(value)) }
	setting("log_line_prefix", "%m [%p] %q%u@%d ")
	setting("max_connections", "100")
	if !s.opts.Durable {
		setting("fsync", "off")
	}
	if s.opts.TLS {
		setting("ssl", "on")
		setting("ssl_ca_file", s.workshop.tls.CA)
		setting("ssl_cert_file", s.workshop.tls.serverCert)
		setting("ssl_key_file", s.workshop.tls.serverKey)
		fmt.Fprintf(&access, "hostssl all %s 127.0.0.1/32 cert\n", TLSUser)
		fmt.Fprintf(&access, "hostnossl all %s 127.0.0.1/32 reject\n", TLSUser)
	}
	for _, name := range slices.Sorted(maps.Keys(s.opts.Settings)) {
		setting(name, s.opts.Settings[name])
	}
	for _, kind := range []string{"local all all", "host all all 127.0.0.1/32", "host replication all 127.0.0.1/32"} {
		fmt.Fprintf(&access, "%s scram-sha-256\n", kind)
	}
	path := filepath.Join(s.data(), "postgresql.conf")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return errors.Join(
		s.workshop.writeFile(path, append(old, "\n"+conf.String()...)),
		s.workshop.writeFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(access.String())))
}

// startAnywhere starts the server on a port that it finds. It is called once in a server's life.
func (s *Server) startAnywhere(ctx context.Context) error {
	for try := 0; ; try++ {
		var err error
		if s.port, err = ports.Free(); err != nil {
			return err
		}
		err = s.start(ctx)
		if err == nil || !errors.Is(err, errExited) || !ports.Taken(s.port) || try == 5 {
			return err
		}
	}
}

// start runs the server until it accepts connections. What says where it listens is on the command line, so that
// a standby, which begins with the configuration of its primary, has its own.
func (s *Server) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := s.workshop.command(s.data(), "postgres", "-D", s.data(), "-p", strconv.Itoa(s.port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+s.socketDir(), "-c", "cluster_name="+s.Name())
	proc, err := launch(cmd, s.logPath())
	if err != nil {
		return err
	}
	s.proc = proc
	err = proc.await(ctx, s.ready)
	if err == nil {
		return nil
	}
	if killErr := s.Kill(); killErr != nil {
		err = errors.Join(err, killErr)
	}
	return fmt.Errorf("%w; its log ends:\n%s", err, s.LogTail())
}

// ready reads what pg_ctl reads: the last line of the lock file tells the server's state.
func (s *Server) ready() bool {
	b, err := os.ReadFile(s.lockFile())
	if err != nil {
		return false
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) < 8 || lines[0] != strconv.Itoa(s.proc.cmd.Process.Pid) {
		return false
	}
	status := strings.TrimSpace(lines[7])
	return status == "ready" || status == "standby"
}

func (s *Server) data() string     { return filepath.Join(s.dir, "data") }
func (s *Server) logPath() string  { return filepath.Join(s.dir, "server.log") }
func (s *Server) lockFile() string { return filepath.Join(s.data(), "postmaster.pid") }

// Name is what the server calls itself: its cluster_name, and the name under which a standby replicates.
func (s *Server) Name() string { return filepath.Base(s.dir) }

// DataDir is the server's data directory.
func (s *Server) DataDir() string { return s.data() }

// Address is the host and port that the server listens on.
func (s *Server) Address() string { return ports.At(s.port) }

// Password is that of Superuser.
func (s *Server) Password() string { return s.workshop.password }

// LogTail is the end of what the server has printed.
func (s *Server) LogTail() string { return tail(s.logPath()) }

// URL is for clients of a database of this server: as Superuser, with the password, by TCP and without TLS.
func (s *Server) URL(database string) string {
	return clientURL(s.Address(), url.UserPassword(Superuser, s.Password()), database, url.Values{"sslmode": {"disable"}})
}

// clientURL is a URL for clients that connect to an address.
func clientURL(address string, user *url.Userinfo, database string, query url.Values) string {
	encoded := strings.ReplaceAll(query.Encode(), "+", "%20") // libpq takes a plus as it is
	u := url.URL{Scheme: "postgres", User: user, Host: address, Path: "/" + database, RawQuery: encoded}
	return u.String()
}

// SocketURL is like URL, by the server's Unix socket.
func (s *Server) SocketURL(database string) string {
	query := url.Values{"host": {s.socketDir()}, "port": {strconv.Itoa(s.port)}}
	return clientURL("", url.UserPassword(Superuser, s.Password()), database, query)
}

// socketDir is empty, which means no socket, where the name would be too long for one.
func (s *Server) socketDir() string {
	const longest, name = 107, "/.s.PGSQL.12345.lock"
	if len(s.dir)+len(name) > longest {
		return ""
	}
	return s.dir
}

// Running says whether the server runs. It does when it is paused.
func (s *Server) Running() bool { return s.proc.running() }

// Restart starts the server again, on the same data and the same port, and returns when it accepts connections.
// One that runs is stopped before.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(ctx); err != nil {
		return err
	}
	// The process that the lock file names is gone, but its number may be somebody else's by now.
	if err := os.Remove(s.lockFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pg: restart: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("pg: restart: %w", err)
	}
	return nil
}

// Stop shuts the server down in order, as a service manager does: clients are disconnected, a checkpoint is made.
// When ctx ends before it is done the server is killed, which is an error.
func (s *Server) Stop(ctx context.Context) error {
	if !s.proc.running() {
		return nil
	}
	s.signalAll(syscall.SIGCONT)
	s.proc.signal(syscall.SIGINT)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-s.proc.exited:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("pg: the server did not stop: %w", ctx.Err()), s.Kill())
	}
}

// Kill ends all processes of the server at once, by SIGKILL, and returns when they are gone.
func (s *Server) Kill() error {
	if s.proc == nil {
		return nil
	}
	s.proc.signal(syscall.SIGSTOP) // it must neither see its children die nor beget more
	s.signalAll(syscall.SIGKILL)
	s.proc.signal(syscall.SIGKILL)
	<-s.proc.exited
	deadline := time.Now().Add(patience)
	for s.signalAll(syscall.SIGKILL) > 0 {
		if time.Now().After(deadline) {
			return errors.New("pg: killed processes do not end")
		}
		time.Sleep(pollInterval / 10) // they are init's children now: there is no signal of their end
	}
	return nil
}

// signalAll signals all processes of the server and returns their number.
func (s *Server) signalAll(sig syscall.Signal) int {
	pids := workingIn(s.data())
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // an error here means that it is gone
	}
	return len(pids)
}

// Close kills the server and removes its directory.
func (s *Server) Close() error {
	if err := s.Kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("pg: close: %w", err)
	}
	return nil
}

// quote makes a value of postgresql.conf, or a string of SQL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
