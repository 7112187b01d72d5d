package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Datastore is where servers keep their data, if not in their own directories: a name in a database.
type Datastore struct{ URL, Name string }

// flags are what a server that keeps its data there is given.
func (d Datastore) flags() []string {
	if d.URL == "" {
		return nil
	}
	return []string{"--datastore=" + d.URL, "--datastore-name=" + d.Name}
}

// database is the PostgreSQL of this process. It ends with it.
var database struct {
	sync.Mutex
	url   string
	names int
	stdin any // kept open
}

// Postgres gives an empty place in a real PostgreSQL, which is started when first asked for and ends with this process.
func Postgres(ctx context.Context) (Datastore, error) {
	database.Lock()
	defer database.Unlock()
	if database.url == "" {
		if err := startPostgres(ctx); err != nil {
			return Datastore{}, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
	database.names++
	return Datastore{database.url, fmt.Sprintf("test_%d", database.names)}, nil
}

// startPostgres runs the program of test/pg, which ends when its standard input does, and this process's end ends that.
func startPostgres(ctx context.Context) error {
	dir, err := BinDir()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(dir, "pg"))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !stop() {
		return errors.Join(err, ctx.Err(), cmd.Wait())
	}
	database.url, database.stdin = strings.TrimSpace(line), stdin
	return nil
}

// fromEnvironment is where servers keep their data that were not told: STORAGE_DATASTORE=postgres is a PostgreSQL.
func fromEnvironment(ctx context.Context) (Datastore, error) {
	switch where := os.Getenv("STORAGE_DATASTORE"); where {
	case "", "sqlite":
		return Datastore{}, nil
	case "postgres":
		return Postgres(ctx)
	default:
		return Datastore{}, fmt.Errorf("STORAGE_DATASTORE=%s is neither sqlite nor postgres", where)
	}
}
