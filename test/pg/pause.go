package pg

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"
)

// Pause stops all processes of the server where they are, as a machine that hangs does, and returns when they have
// stopped. Connections stay open, and new ones are accepted by the kernel, but nothing is answered.
func (s *Server) Pause() error {
	if !s.proc.running() {
		return fmt.Errorf("pg: pause: %w", errExited)
	}
	s.proc.signal(syscall.SIGSTOP) // the postmaster first: afterwards no process comes along
	deadline := time.Now().Add(patience)
	for {
		s.signalAll(syscall.SIGSTOP)
		moving := s.moving()
		if moving == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pg: pause: %d processes do not stop", moving)
		}
		time.Sleep(pollInterval / 10) // there is no signal of the stop of what is not one's child
	}
}

// moving counts the server's processes that are not stopped.
func (s *Server) moving() int {
	n := 0
	for _, pid := range workingIn(s.data()) {
		if st := state(pid); st != "T" && st != "Z" && st != "" {
			n++
		}
	}
	return n
}

// Resume lets a paused server go on.
func (s *Server) Resume() error {
	if !s.proc.running() {
		return fmt.Errorf("pg: resume: %w", errExited)
	}
	s.signalAll(syscall.SIGCONT)
	return nil
}

// TerminateBackends ends the connections of all clients but its own, as an administrator or a failover does, and
// returns how many there were.
func (s *Server) TerminateBackends(ctx context.Context) (int, error) {
	n, err := s.Query(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(n)
}

// Set changes a setting for good, and returns when connections made from now on have it; those that are there
// take it with their next statement. It does not suffice for settings that need a restart.
func (s *Server) Set(ctx context.Context, name, value string) error {
	const loaded = "SELECT pg_conf_load_time()"
	before, err := s.Query(ctx, loaded)
	if err != nil {
		return err
	}
	if _, err := s.Query(ctx, "ALTER SYSTEM SET "+name+" = "+quote(value)+"; SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return s.Await(ctx, loaded+" > "+quote(before), "t")
}
