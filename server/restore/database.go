package restore

import (
	"context"
	"errors"
	"log/slog"

	"github.com/keelson-io/keelson/drivers/postgres"
	"github.com/keelson-io/keelson/etcdfile"
	"github.com/keelson-io/keelson/server/config"
)

// Database makes the log that the options name in a Postgres database. It is at its place when all of it is in the database and was read back; a log that is
// there is not touched. The servers that are started on it found its cluster.
//
// After a kill there may be a schema of the log's name that ends in ".restoring", which the next Database removes.
func Database(ctx context.Context, f *etcdfile.File, opts *config.Options, o Options, logger *slog.Logger) (stand Stand, err error) {
	o.Members = nil
	draft, err := postgres.NewDraft(ctx, postgres.Options{
		URL: opts.Datastore, Name: opts.DatastoreName, PasswordFile: opts.DatastorePasswordFile, Logger: logger,
	})
	if err != nil {
		return Stand{}, err
	}
	defer func() { err = errors.Join(err, draft.Discard()) }()
	open := func(readOnly bool) (datastore, error) { return draft.Open(ctx, readOnly) }
	if _, stand, err = proven(ctx, open, f, o); err != nil {
		return Stand{}, err
	}
	return stand, draft.Publish(ctx)
}
