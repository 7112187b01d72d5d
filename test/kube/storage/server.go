package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keelson-io/keelson/test/kube/process"
)

const (
	// ready is what etcd, and so Keelson, logs when it accepts requests.
	ready = "ready to serve client requests"
	// portTaken is in the log of a server whose port somebody took first.
	portTaken = "address already in use"

	startTimeout = time.Minute
	stopTimeout  = 20 * time.Second
	startTries   = 5
)

// Options say how a server is run.
type Options struct {
	// Binary is the program; empty means the one that Binary finds.
	Binary string
	// Dir gets the data directory and the log. It must exist.
	Dir string
	// Flags are added to the command line.
	Flags []string
	// Name is the server's name, default if empty; servers that share a Datastore have different ones.
	Name string
	// Datastore is where the server keeps its data. Empty means what STORAGE_DATASTORE says, or else Dir.
	Datastore Datastore
	// Secure makes the client URL https; the flags name the certificates.
	Secure bool
	// Detached lets the server outlive the process that starts it.
	Detached bool
}

// Server is a storage server. It is not safe for use by several goroutines.
type Server struct {
	options    Options
	name       string
	clientPort int
	peerPort   int
	process    *process.Process
}

// Start starts a server with an empty or existing data directory on free ports of 127.0.0.1, and returns
// when it accepts requests.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Binary == "" {
		binary, err := Binary()
		if err != nil {
			return nil, err
		}
		o.Binary = binary
	}
	if o.Datastore.URL == "" {
		var err error
		if o.Datastore, err = fromEnvironment(ctx); err != nil {
			return nil, err
		}
	}
	if o.Name == "" {
		o.Name = "default"
	}
	s := &Server{options: o, name: filepath.Base(o.Binary)}
	if o.Name != "default" {
		s.name += "-" + o.Name
	}
	for try := 1; ; try++ {
		ports, err := process.FreePorts(2)
		if err != nil {
			return nil, err
		}
		s.clientPort, s.peerPort = ports[0], ports[1]
		err = s.run(ctx)
		if err == nil {
			return s, nil
		}
		if try == startTries || !errors.Is(err, errPortTaken) {
			return nil, fmt.Errorf("%w\n%s", err, s.Tail(30))
		}
	}
}

var errPortTaken = errors.New("port taken")

// run starts the process and waits until it serves.
func (s *Server) run(ctx context.Context) error {
	p, err := process.Start(process.Command{
		Name:     s.name,
		Path:     s.options.Binary,
		Args:     s.arguments(),
		LogDir:   s.options.Dir,
		Detached: s.options.Detached,
	})
	if err != nil {
		return err
	}
	s.process = p
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err = p.AwaitLog(ctx, ready)
	if err == nil {
		return nil
	}
	p.Kill()
	if output, readErr := p.Output(); readErr == nil && strings.Contains(output, portTaken) {
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

func (s *Server) arguments() []string {
	peer := fmt.Sprintf("http://127.0.0.1:%d", s.peerPort)
	return slices.Concat([]string{
		"--name=" + s.options.Name,
		"--data-dir=" + filepath.Join(s.options.Dir, s.name+".data"),
		"--listen-client-urls=" + s.Endpoint(),
		"--advertise-client-urls=" + s.Endpoint(),
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + s.options.Name + "=" + peer,
	}, s.options.Datastore.flags(), s.options.Flags)
}

// Lose removes the data of a server that has ended; one on a datastore gets another, empty one.
func (s *Server) Lose(another Datastore) error {
	if s.options.Datastore.URL != "" {
		s.options.Datastore = another
		return nil
	}
	return os.RemoveAll(filepath.Join(s.options.Dir, s.name+".data"))
}

// Place gives the flags by which keelson snapshot restore puts data where the server looks for them.
func (s *Server) Place() []string { return Place(s.arguments()) }

// Place gives those of a server's flags that say where its data are, and of which member.
func Place(arguments []string) []string {
	names := []string{"--data-dir=", "--name=", "--initial-cluster=", "--initial-advertise-peer-urls="}
	if slices.ContainsFunc(arguments, func(a string) bool { return strings.HasPrefix(a, "--datastore=") }) {
		names = []string{"--datastore=", "--datastore-name="}
	}
	return slices.DeleteFunc(slices.Clone(arguments), func(a string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(a, name) })
	})
}

// Name is the program's name, with the server's own if it has one.
func (s *Server) Name() string { return s.name }

// Endpoint is the client URL.
func (s *Server) Endpoint() string {
	scheme := "http"
	if s.options.Secure {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, s.clientPort)
}

// PID is the process id of the running server.
func (s *Server) PID() int { return s.process.PID() }

// Done is closed when the running server is gone.
func (s *Server) Done() <-chan struct{} { return s.process.Done() }

// Kill ends the server as kill -9 does.
func (s *Server) Kill() { s.process.Kill() }

// Restart starts a server that was killed or stopped again, on its data directory and its ports.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("restart: %w\n%s", err, s.Tail(30))
	}
	return nil
}

// Stop ends the server as an operator does. A server that does not end in time is killed, and that is an error.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return s.process.Stop(ctx)
}

// Tail is the end of the server's log.
func (s *Server) Tail(lines int) string {
	return process.Tail(filepath.Join(s.options.Dir, s.name+".log"), lines)
}

// Binary finds the server to run: what STORAGE_SERVER says, or Keelson as `make build` leaves it.
func Binary() (string, error) {
	binary := os.Getenv("STORAGE_SERVER")
	if binary == "" {
		dir, err := BinDir()
		if err != nil {
			return "", err
		}
		binary = filepath.Join(dir, "keelson")
	}
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("no storage server: %w (run `make build`, or set STORAGE_SERVER)", err)
	}
	return filepath.Abs(binary)
}

// BinDir is where the Makefile puts programs: .build/bin under the root of the repository.
func BinDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "test", "kube", "go.mod")); err == nil {
			return filepath.Join(dir, ".build", "bin"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository")
		}
		dir = parent
	}
}
