package restore

import (
	"context"
	"errors"
	"testing"

	"github.com/keelson-io/keelson/drivers/postgres"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/test/pg"
)

// TestDatabase: what a log in Postgres has that was restored is what the file has; what is there already is not touched, and what fails leaves nothing.
func TestDatabase(t *testing.T) {
	f := taken(t, filled(t))
	server := pg.Run(t, pg.Options{})
	schemas := func(want string) {
		t.Helper()
		got, err := server.Query(t.Context(), "SELECT coalesce(string_agg(nspname, ' ' ORDER BY nspname), '') FROM pg_namespace WHERE nspname LIKE 'keelson%'")
		if err != nil || got != want {
			t.Errorf("there is %q, %v, and not %q", got, err, want)
		}
	}
	o := config.Default()
	o.Datastore = server.URL("postgres")
	lost, err := etcdfile.Open(saved(t, filled(t)), etcdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	lost.Close() // so that its rows cannot be read
	if _, err := Database(t.Context(), lost, &o, Options{}, discard()); err == nil {
		t.Error("a file that cannot be read was restored")
	}
	schemas("")
	// Members are those that are started on it.
	stand, err := Database(t.Context(), f, &o, Options{Members: members(1)}, discard())
	if err != nil || stand.Revision != f.Meta().Revision || stand.Rows != int64(len(rows(t, f))) {
		t.Errorf("%+v, %v", stand, err)
	}
	schemas("keelson")
	if _, err := Database(t.Context(), f, &o, Options{}, discard()); !errors.Is(err, postgres.ErrExists) {
		t.Errorf("where there is one: %v", err)
	}
	o.DatastoreName = "keelson_bumped"
	bumped, err := Database(t.Context(), f, &o, Options{Bump: 50}, discard())
	if err != nil || bumped.Revision != stand.Revision+50 {
		t.Errorf("%+v, %v", bumped, err)
	}
	schemas("keelson keelson_bumped")
	log, err := postgres.Open(t.Context(), postgres.Options{URL: o.Datastore, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- log.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	s := serve(t, log)
	if h, err := s.HashKV(t.Context(), 0); err != nil || h.Sum != stand.Hash || h.Current != stand.Revision {
		t.Errorf("%+v, %v", h, err)
	}
}
