package load

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keelson-io/keelson/test/bench/server"
)

// Postgres lists the loads for servers that keep their data in Postgres: some of those of All, with what matters
// beside them there.
func Postgres() []Load {
	const (
		enough = 3 * time.Minute // with Postgres' start, and at kine's pace
		same   = "it is read as from one"
	)
	var loads []Load
	for _, name := range []string{"create-100", "get-100", "watch-10", "list"} {
		all := All()
		l := all[slices.IndexFunc(all, func(l Load) bool { return l.Name == name })]
		l.Timeout = enough
		switch name {
		case "create-100":
			l.Shares = []string{"create-100.share"}
			l.Measures = append(l.Measures,
				Measure{"create-100.share", "the same, share of the slower server", Share},
				Measure{"create-100.connections", "the same, connections of one server to Postgres", Number})
		case "list":
			l.Without = map[string]string{server.KeelsonPostgresTwo: same}
		}
		loads = append(loads, l)
	}
	return loads
}

// countConnections samples how many connections to the database the servers have from the plan's measure on, and gives a
// function that waits for the end of that and gives the most that one server had: 0 where there is no database.
func (n *node) countConnections(ctx context.Context, p plan) func() (int, error) {
	if n.database == nil {
		return func() (int, error) { return 0, nil }
	}
	most := 0
	done := make(chan error, 1)
	go func() {
		var err error
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(p.warm):
			most, err = n.database.Connections(ctx, len(n.procs), p.measure)
		}
		if err == nil && most == 0 {
			err = fmt.Errorf("%w: a server with a database and no connection to it", ErrWrong)
		}
		done <- err
	}()
	return func() (int, error) { err := <-done; return most, err }
}
