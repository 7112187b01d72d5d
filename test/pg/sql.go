package pg

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Query runs statements one by one in the database postgres, and returns what psql -At prints: a line for each
// row, columns parted by |. It stops at the first error.
func (s *Server) Query(ctx context.Context, sql string) (string, error) {
	return s.QueryIn(ctx, Superuser, sql)
}

// QueryIn is Query in another database.
func (s *Server) QueryIn(ctx context.Context, database, sql string) (string, error) {
	return s.queryURL(ctx, s.URL(database), sql)
}

func (s *Server) queryURL(ctx context.Context, url, sql string) (string, error) {
	cmd := s.workshop.command(s.dir, "psql", "--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only",
		"--set=ON_ERROR_STOP=1", "--file=-", url)
	cmd.Stdin = strings.NewReader(sql)
	out, err := run(ctx, cmd)
	if err != nil {
		return "", fmt.Errorf("pg: query: %w", err)
	}
	return strings.TrimSuffix(out, "\n"), nil
}

// Await asks until the answer is the one wanted.
func (s *Server) Await(ctx context.Context, sql, want string) error {
	for {
		got, err := s.Query(ctx, sql)
		if err == nil && got == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pg: %q answers %q, not %q (%v): %w", sql, got, want, err, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// CreateDatabase creates an empty database.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	_, err := s.Query(ctx, "CREATE DATABASE "+identifier(name))
	return err
}

func identifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
