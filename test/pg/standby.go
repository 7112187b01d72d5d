package pg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Standby starts a server that replicates this one by streaming, and returns when it does. Reads are served by it. Its
// name in synchronous_standby_names is its Name. It has the settings of its primary but for that one: once
// promoted, it waits for nobody.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	standby, err := newServer(s.workshop, s.opts)
	if err != nil {
		return nil, fmt.Errorf("pg: standby: %w", err)
	}
	if err := standby.follow(ctx, s); err != nil {
		return nil, errors.Join(fmt.Errorf("pg: standby: %w", err), standby.Close())
	}
	return standby, nil
}

func (s *Server) follow(ctx context.Context, primary *Server) error {
	backup := s.workshop.command(s.dir, "pg_basebackup", "--dbname="+primary.URL(Superuser), "--pgdata="+s.data(),
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-password")
	if _, err := run(ctx, backup); err != nil {
		return err
	}
	auto := filepath.Join(s.data(), "postgresql.auto.conf")
	old, err := os.ReadFile(auto)
	if err != nil {
		return err
	}
	if err := s.workshop.writeFile(auto, append(old, "synchronous_standby_names = ''\n"...)); err != nil {
		return err
	}
	if err := s.startAnywhere(ctx); err != nil {
		return err
	}
	return primary.Await(ctx, "SELECT state FROM pg_stat_replication WHERE application_name = "+quote(s.Name()), "streaming")
}

// Promote makes a standby a server of its own, which takes writes. It returns when it does.
func (s *Server) Promote(ctx context.Context) error {
	done, err := s.Query(ctx, "SELECT pg_promote(true, 60)")
	if err == nil && done != "t" {
		err = errors.New("pg: promote: not done in time")
	}
	return err
}
