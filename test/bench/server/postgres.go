package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/keelson-io/keelson/test/pg"
)

// ErrNotDurable says that a Postgres would not keep what it has acknowledged.
var ErrNotDurable = errors.New("server: Postgres is not durable")

// Postgres is a PostgreSQL server on a data directory of its own, with Postgres' defaults in all that costs or gives
// speed. Every run of a load gets a fresh one: nobody inherits another's checkpoints, dead rows or recycled
// segments of the write-ahead log, and what the run before has not yet written to disk is gone with its files.
type Postgres struct{ server *pg.Server }

// StartPostgres starts one, in a second or two, with its files on the disk. It takes more connections than by default, since
// kine needs them; that costs the others nothing.
func StartPostgres(ctx context.Context) (*Postgres, error) {
	s, err := pg.Start(ctx, pg.Options{Durable: true, Settings: map[string]string{"max_connections": strconv.Itoa(kineAtMost)}})
	if err != nil {
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	return &Postgres{s}, nil
}

// DescribePostgres starts one, makes sure that it keeps what it acknowledges, and says in a sentence what was started.
func DescribePostgres(ctx context.Context) (string, error) {
	p, err := StartPostgres(ctx)
	if err != nil {
		return "", err
	}
	out, err := p.server.Query(ctx, "SHOW fsync; SHOW synchronous_commit; SHOW full_page_writes; SHOW server_version")
	if err := errors.Join(err, p.Close("")); err != nil {
		return "", err
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 4 || lines[0] != "on" || lines[1] != "on" || lines[2] != "on" {
		return "", fmt.Errorf("%w: fsync, synchronous_commit, full_page_writes, version: %q", ErrNotDurable, lines)
	}
	version, _, _ := strings.Cut(lines[3], " ") // the rest is the packager's
	return "PostgreSQL " + version + ", a fresh one for each run, with its defaults (fsync and synchronous_commit are on) but for max_connections, which kine needs to be larger.", nil
}

// URL is that of an empty database, for the i-th of the servers that share it. Its connections are known by that.
func (p *Postgres) URL(i int) string {
	return p.server.URL(pg.Superuser) + "&application_name=" + url.QueryEscape(application(i))
}

// application names the connections of the i-th server.
func application(i int) string { return "bench-" + strconv.Itoa(i+1) }

// Connections samples pg_stat_activity at equal distances for some time, and gives the most connections that any one of
// the servers had. Connections that are under none of the servers' names are everybody's.
func (p *Postgres) Connections(ctx context.Context, servers int, during time.Duration) (int, error) {
	const samples = 6
	var script strings.Builder
	for range samples {
		fmt.Fprintf(&script, "DO $$ BEGIN PERFORM pg_sleep(%g); END $$;\n", during.Seconds()/samples)
		for i := range servers {
			script.WriteString("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
			for other := range servers {
				if other != i {
					fmt.Fprintf(&script, " AND application_name <> '%s'", application(other))
				}
			}
			script.WriteString(";\n")
		}
	}
	out, err := p.server.Query(ctx, script.String()) // one connection for all of it: it shall not be felt
	if err != nil {
		return 0, fmt.Errorf("count connections: %w", err)
	}
	return largest(out)
}

// largest gives the largest of the numbers, of which each has a line.
func largest(lines string) (int, error) {
	most := 0
	for line := range strings.Lines(lines) {
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return 0, fmt.Errorf("count connections: %w", err)
		}
		most = max(most, n)
	}
	return most, nil
}

// Close kills the server, removes its data, and appends the end of its log to a file, unless that has no name.
func (p *Postgres) Close(log string) error {
	tail := p.server.LogTail()
	if err := p.server.Close(); err != nil {
		return fmt.Errorf("end Postgres: %w", err)
	}
	if log == "" {
		return nil
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("keep the log of Postgres: %w", err)
	}
	_, err = fmt.Fprintf(f, "\nThe log of Postgres ends:\n%s", tail)
	return errors.Join(err, f.Close())
}
