package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keelson-io/keelson/drivers"
)

var (
	// ErrExists says that there is a log of the name already.
	ErrExists = errors.New("there is a log of this name already")
	// ErrBusy says that somebody else makes a log of the name.
	ErrBusy = errors.New("another process is making a log of this name")
)

// Draft is a log that is made beside the place where it is to be, and gets there whole or not at all. No Open finds it before Publish: its schema has a name that
// Options.Name cannot have. What is left of one whose process was killed is removed by the next NewDraft for the same name.
//
// It belongs to one goroutine.
type Draft struct {
	place *Log          // of the name that it is for; only its connections are used
	claim *pgxpool.Conn // its transaction lasts as long as the draft and holds the name among drafts
	opts  Options       // of the draft itself
	last  []string      // position and batch of the last row, once it is to be published
}

// draftSuffix is behind the names of drafts' schemas. No log's name has a dot.
const draftSuffix = ".restoring"

// claimSQL begins a draft's transaction. It has neither a snapshot nor an id, so nobody waits for it, however long it lasts. A pooler in transaction
// mode keeps a connection for it, which it would not do for a lock of a session.
const claimSQL = beginSQL + `;
SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true),
	set_config('tcp_keepalives_idle', '5', true), set_config('tcp_keepalives_interval', '2', true), set_config('tcp_keepalives_count', '3', true),
	set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '0', true), set_config('statement_timeout', '0', true),
	` + transactionTimeoutSQL

// NewDraft begins a log for Options.Name, which must not be there. Discard must be called, also after Publish.
//
// Errors: ErrExists, ErrBusy, those of Open.
func NewDraft(ctx context.Context, opts Options) (*Draft, error) {
	opts = opts.withDefaults()
	opts.ReadOnly = false
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	place, err := newLog(opts)
	if err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	d := &Draft{place: place, opts: opts}
	d.opts.Name += draftSuffix
	if err = place.connect(); err == nil {
		err = d.begin(ctx)
	}
	if err != nil {
		d.end()
		return nil, fmt.Errorf("make the log %s: %w", opts.Name, classify(err))
	}
	return d, nil
}

// begin takes the name and makes sure that nothing is at either place.
func (d *Draft) begin(ctx context.Context) (err error) {
	if d.claim, err = d.place.acquire(ctx); err != nil {
		return err
	}
	err = d.claimed(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		if err := run(ctx, c, claimSQL); err != nil {
			return err
		}
		row, err := one(ctx, c, "SELECT pg_try_advisory_xact_lock("+d.lock()+")::text")
		switch {
		case err != nil:
			return err
		case row[0] != "true":
			return ErrBusy
		}
		return run(ctx, c, "SAVEPOINT held")
	})
	if err == nil {
		err = d.vacant(ctx)
	}
	if err != nil {
		return err
	}
	return d.remove(ctx)
}

// lock is the advisory lock that the one draft for a name holds.
func (d *Draft) lock() string {
	return fmt.Sprintf("%d, hashtext(%s)", migrationLock, quoteLiteral(d.place.opts.Name))
}

// thereSQL counts what there is of a log in a schema. By the catalogue's indexes on names.
const thereSQL = "SELECT count(*)::text FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.relname IN ('log', 'head', 'servers') AND n.nspname = "

// vacant is ErrExists if anything of a log is at the place.
func (d *Draft) vacant(ctx context.Context) error {
	return d.claimed(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		row, err := one(ctx, c, thereSQL+quoteLiteral(d.place.opts.Name))
		if err == nil && row[0] != "0" {
			err = ErrExists
		}
		return err
	})
}

// claimed runs fn in the claim's transaction, which cannot be begun again.
func (d *Draft) claimed(ctx context.Context, fn func(context.Context, *pgconn.PgConn) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.opts.Answer)
	defer cancel()
	return fn(ctx, d.claim.Conn().PgConn())
}

// remove removes a draft, where there is one. What its process had sent when it was killed ends first.
func (d *Draft) remove(ctx context.Context) error {
	return d.place.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		row, err := one(ctx, c, "SELECT count(*)::text FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND r.relname NOT IN ('log', 'head', 'servers') AND n.nspname = "+quoteLiteral(d.opts.Name))
		switch {
		case err != nil:
			return err
		case row[0] != "0":
			return fmt.Errorf("%w: schema %s has tables of somebody else's", drivers.ErrForeign, d.opts.Name)
		}
		return run(ctx, c, "DROP SCHEMA IF EXISTS "+d.schema()+" CASCADE")
	})
}

func (d *Draft) schema() string { return pgx.Identifier{d.opts.Name}.Sanitize() }

// Open opens the draft, to be written, or with readOnly for inspection. It must be closed before Publish and Discard.
func (d *Draft) Open(ctx context.Context, readOnly bool) (*Log, error) {
	opts := d.opts
	opts.ReadOnly = readOnly
	l, err := newLog(opts)
	if err == nil {
		if err = l.open(ctx); err != nil {
			err = errors.Join(classify(err), l.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the draft of the log %s: %w", d.place.opts.Name, err)
	}
	return l, nil
}

// publishSQL moves a draft's tables to their place, and its indexes with them.
const publishSQL = `ALTER TABLE {draft}.log SET SCHEMA {schema};
ALTER TABLE {draft}.head SET SCHEMA {schema};
ALTER TABLE {draft}.servers SET SCHEMA {schema};
DROP SCHEMA {draft};
COMMIT`

// Publish puts the draft at its place, in one transaction. If a log has come there meanwhile, as by a server that was started, it is ErrExists, and that log
// stays as it is. Who makes a log where there is none (migrate) holds the same lock, and looks again when it has it.
func (d *Draft) Publish(ctx context.Context) error {
	err := d.publish(ctx)
	if err != nil && !errors.Is(err, ErrExists) && !aborted(err) {
		// The commit may have been done all the same.
		done, derr := d.published(ctx)
		switch {
		case derr != nil:
			err = fmt.Errorf("%w: %w (and then: %w)", drivers.ErrUncertain, err, derr)
		case done:
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("publish the log %s: %w", d.place.opts.Name, classify(err))
	}
	return nil
}

func (d *Draft) publish(ctx context.Context) error {
	err := d.claimed(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		return run(ctx, c, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", migrationLock))
	})
	if err == nil {
		err = d.vacant(ctx)
	}
	if err == nil {
		err = d.mark(ctx)
	}
	if err != nil {
		return err
	}
	return d.claimed(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		// Making a schema needs a right that is not needed where it is there.
		row, err := one(ctx, c, "SELECT count(*)::text FROM pg_namespace WHERE nspname = "+quoteLiteral(d.place.opts.Name))
		if err == nil && row[0] == "0" {
			err = run(ctx, c, d.place.q("CREATE SCHEMA {schema}"))
		}
		if err != nil {
			return err
		}
		takeWarning(c)
		if err := run(ctx, c, strings.ReplaceAll(d.place.q(publishSQL), "{draft}", d.schema())); err != nil {
			return err
		}
		if w := takeWarning(c); w != "" {
			d.opts.Logger.Warn("the database warns", "message", w)
		}
		return nil
	})
}

// mark takes note of what tells the draft from other logs. By the primary key.
func (d *Draft) mark(ctx context.Context) error {
	return d.claimed(ctx, func(ctx context.Context, c *pgconn.PgConn) (err error) {
		d.last, err = one(ctx, c, "SELECT position::text, batch::text FROM "+d.schema()+".log ORDER BY position DESC LIMIT 1")
		if errors.Is(err, errNoRow) {
			err = nil
		}
		return err
	})
}

// published tells, after the claim's connection was lost, whether the log is at its place. There may also be one of somebody else's, who came after it was lost, and a server
// may have gone on with it.
func (d *Draft) published(ctx context.Context) (done bool, err error) {
	err = d.place.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		// The lock comes when that transaction is over.
		if err := run(ctx, c, claimSQL+"; SELECT pg_advisory_xact_lock("+d.lock()+")"); err != nil {
			return err
		}
		draft, err := one(ctx, c, thereSQL+quoteLiteral(d.opts.Name))
		if err != nil {
			return err
		}
		place, err := one(ctx, c, thereSQL+quoteLiteral(d.place.opts.Name))
		done = err == nil && draft[0] == "0" && place[0] != "0"
		if done && d.last != nil {
			// By the primary key. If a server has gone on with a log so far that the row is scrubbed, nobody can tell whose it was.
			var there []string
			there, err = one(ctx, c, d.place.q("SELECT coalesce(batch::text, '') FROM {schema}.log WHERE position = "+d.last[0]))
			done = err == nil && there[0] == d.last[1]
		}
		return errors.Join(err, run(ctx, c, "ROLLBACK"))
	})
	return done, err
}

// Discard removes what was not published, and gives the name free.
func (d *Draft) Discard() error {
	var err error
	if d.holds() {
		err = d.remove(context.Background())
	}
	d.end()
	if err != nil {
		return fmt.Errorf("remove the draft of the log %s: %w", d.place.opts.Name, classify(err))
	}
	return nil
}

// holds tells whether the claim is held: then nobody else can have a draft for the name.
func (d *Draft) holds() bool {
	if d.claim == nil {
		return false
	}
	c := d.claim.Conn().PgConn()
	return !c.IsClosed() && c.TxStatus() != 'I' &&
		d.claimed(context.Background(), func(ctx context.Context, c *pgconn.PgConn) error { return run(ctx, c, "ROLLBACK TO SAVEPOINT held") }) == nil
}

// end ends the claim and closes the connections.
func (d *Draft) end() {
	if d.claim != nil {
		if c := d.claim.Conn().PgConn(); !c.IsClosed() && c.TxStatus() != 'I' {
			ctx, cancel := context.WithTimeout(context.Background(), d.opts.Answer)
			defer cancel()
			_ = run(ctx, c, "ROLLBACK") // a connection on which that fails is closed by Release
		}
		d.claim.Release()
		d.claim = nil
	}
	_ = d.place.Close() // which has no errors
}
