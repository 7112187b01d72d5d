package shared

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keelson-io/keelson/test/pg"
)

// fault is something that happens to a deployment, and is over when it returns.
type fault struct {
	name   string
	strike func(ctx context.Context, d *drill) error
}

// serverFaults need no database.
func serverFaults() []fault {
	return []fault{
		{"kill -9 of a server", func(ctx context.Context, d *drill) error { return d.killed(ctx, d.pick(), d.moment(0, 1500)) }},
		{"a server stands still", func(_ context.Context, d *drill) error {
			p := d.servers[d.pick()]
			err := p.Pause()
			time.Sleep(d.moment(1000, 5000))
			return errors.Join(err, p.Resume())
		}},
		{"a server is restarted", func(ctx context.Context, d *drill) error {
			p := d.servers[d.pick()]
			return errors.Join(p.Stop(), p.Restart(ctx))
		}},
		{"kill -9 of a server, twice", func(ctx context.Context, d *drill) error {
			i := d.pick()
			return errors.Join(d.killed(ctx, i, 0), d.killed(ctx, i, d.moment(0, 500)))
		}},
	}
}

// databaseFaults need a database.
func databaseFaults() []fault {
	return []fault{
		{"the database is restarted", func(ctx context.Context, d *drill) error {
			err := d.database.Stop(ctx)
			time.Sleep(d.moment(200, 1500))
			return errors.Join(err, d.database.Restart(ctx))
		}},
		{"kill -9 of the database", func(ctx context.Context, d *drill) error {
			err := d.database.Kill()
			time.Sleep(d.moment(200, 1500))
			return errors.Join(err, d.database.Restart(ctx))
		}},
		{"kill -9 of the database and a server", func(ctx context.Context, d *drill) error {
			i := d.pick()
			err := errors.Join(d.database.Kill(), d.servers[i].Kill())
			return errors.Join(err, d.database.Restart(ctx), d.servers[i].Restart(ctx))
		}},
		{"the database stands still", func(_ context.Context, d *drill) error {
			err := d.database.Pause()
			time.Sleep(d.moment(1000, 3000))
			return errors.Join(err, d.database.Resume())
		}},
		{"all backends are terminated, again and again", func(ctx context.Context, d *drill) error {
			for range 4 {
				if _, err := d.database.TerminateBackends(ctx); err != nil {
					return err
				}
				time.Sleep(d.moment(50, 300))
			}
			return nil
		}},
		{"all connections to the database are cut", func(_ context.Context, d *drill) error {
			for _, p := range d.proxies {
				p.Cut()
			}
			return nil
		}},
		{"connections are cut at COMMIT", func(_ context.Context, d *drill) error { return d.cutAtCommit() }},
		{"a server's connections are dead", func(_ context.Context, d *drill) error {
			d.proxies[d.pick()].BlackHole()
			time.Sleep(d.moment(1000, 5000))
			return d.heal()
		}},
		{"a server cannot connect", func(_ context.Context, d *drill) error {
			p := d.proxies[d.pick()]
			p.Refuse()
			p.Cut()
			time.Sleep(d.moment(500, 2000))
			return d.heal()
		}},
		{"the database is slow", func(_ context.Context, d *drill) error {
			d.proxies[d.pick()].Delay(d.moment(20, 100))
			time.Sleep(d.moment(1000, 3000))
			return d.heal()
		}},
	}
}

// pick chooses a server.
func (d *drill) pick() int { return d.rng.IntN(len(d.servers)) }

// moment is a random number of milliseconds.
func (d *drill) moment(least, most int) time.Duration {
	return time.Duration(least+d.rng.IntN(most-least+1)) * time.Millisecond
}

// killed kills a server and starts it again after a while.
func (d *drill) killed(ctx context.Context, i int, after time.Duration) error {
	err := d.servers[i].Kill()
	time.Sleep(after)
	if err = errors.Join(err, d.servers[i].Restart(ctx)); err != nil {
		return fmt.Errorf("server %d: %w", i, err)
	}
	return nil
}

// cutAtCommit cuts connections before the database gets to know of a COMMIT, or after it has done it.
func (d *drill) cutAtCommit() error {
	for end := time.Now().Add(d.moment(1000, 2500)); time.Now().Before(end); time.Sleep(d.moment(20, 150)) {
		for _, p := range d.proxies {
			p.CutAt("commit", []pg.Moment{pg.BeforeRequest, pg.BeforeAnswer}[d.rng.IntN(2)])
		}
	}
	return d.heal()
}

func (d *drill) heal() error {
	var errs []error
	for _, p := range d.proxies {
		errs = append(errs, p.Heal())
	}
	return errors.Join(errs...)
}
