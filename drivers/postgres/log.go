package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keelson-io/keelson/drivers"
)

var (
	_ drivers.Shared       = (*Log)(nil)
	_ drivers.Sizer        = (*Log)(nil)
	_ drivers.Estimator    = (*Log)(nil)
	_ drivers.Checker      = (*Log)(nil)
	_ drivers.Defragmenter = (*Log)(nil)
)

// Log is a log in a schema of a Postgres database. See the package's comment for the rules of concurrency.
type Log struct {
	opts   Options
	logger *slog.Logger
	quoted string // the schema's name as statements have it
	sql    statements
	// self tells this process's notifications from others'.
	self drivers.BatchID

	config *pgxpool.Config
	pool   *pgxpool.Pool
	outage outage
	// epochs are told apart by the timelines of the servers that connections lead to.
	epochs epochs
	// frozen is the one transaction from which everything is read when the log was opened for inspection.
	frozen *frozen

	// reading bounds the connections that reads of values and history use.
	reading chan struct{}

	// appending is held (by having sent into it) by an Append, and from Hold until its turn ends.
	appending chan struct{}
	turn      atomic.Pointer[turn]
	// doubts numbers the last write whose outcome is unknown; 0 when there is none. doubted counts them.
	doubts, doubted atomic.Int64
	warnings        sync.Map // routines of the database that have warned
	// fence is the head row's fence as far as is known (rule P3).
	fence atomic.Int64

	flights flights
	seen    seen
	// busy is set while the last question for the end found new entries: then the next one asks for them at once.
	busy atomic.Bool
	// sessions is set while notifications arrive, which proves that nobody shares this log's sessions: then they prepare statements.
	sessions atomic.Bool
	// answeredAt is when the last question was answered, in nanoseconds since opened.
	answeredAt atomic.Int64
	opened     time.Time
	// company is set while other servers are known to be there: only then it is worth notifying them.
	company atomic.Bool
	// appended tells Run that there is an end to notify others of.
	appended chan struct{}

	closed    chan struct{}
	closeOnce sync.Once
	under     sync.WaitGroup // calls that Close waits for
	closing   sync.RWMutex   // so that none begins while Close begins to wait
}

// Open opens the log in Options.Name and makes it if it does not exist. It starts no goroutine but those
// of the connection pool: call Run for the work in the background.
//
// Errors: drivers.ErrReadOnly (a standby, missing rights), ErrForeign, ErrNewer, ErrCorrupt, or one of the connection. None shows a password.
func Open(ctx context.Context, opts Options) (*Log, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l, err := newLog(opts)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the log %s: %w", opts.Name, classify(err)), l.Close())
	}
	return l, nil
}

// newLog makes a Log of valid options. Nothing is connected yet.
func newLog(opts Options) (*Log, error) {
	l := &Log{
		opts:      opts,
		logger:    opts.Logger,
		quoted:    pgx.Identifier{opts.Name}.Sanitize(),
		reading:   make(chan struct{}, opts.readsAtOnce()),
		appending: make(chan struct{}, 1),
		appended:  make(chan struct{}, 1),
		closed:    make(chan struct{}),
		opened:    time.Now(),
	}
	l.sql = l.newStatements()
	l.seen.init()
	_, err := rand.Read(l.self[:])
	return l, err
}

func (l *Log) open(ctx context.Context) error {
	if err := l.connect(); err != nil {
		return err
	}
	if l.opts.ReadOnly {
		if err := l.freeze(ctx); err != nil {
			return err
		}
	}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	_, err := l.ReadIndex(ctx)
	return err
}

// doubt notes that the outcome of a write is unknown, and gives the error that says so.
func (l *Log) doubt(why error) error {
	l.doubts.Store(l.doubted.Add(1))
	return fmt.Errorf("%w: %w", drivers.ErrUncertain, why)
}

// begin notes that a call is under way, for Close to wait for.
func (l *Log) begin(ctx context.Context) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if err := l.usable(ctx); err != nil {
		return err
	}
	l.under.Add(1)
	return nil
}

// end ends what begin began.
func (l *Log) end() { l.under.Done() }

// writable says why nothing can be written.
func (l *Log) writable(ctx context.Context) error {
	if err := l.usable(ctx); err != nil {
		return err
	}
	if l.opts.ReadOnly {
		return fmt.Errorf("%w: it was opened for inspection", drivers.ErrReadOnly)
	}
	if l.doubts.Load() != 0 {
		return drivers.ErrUnresolved
	}
	return nil
}

// Close waits for calls that are under way, ends those that wait (ErrClosed), and closes the connections.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.closing.Lock()
		close(l.closed)
		l.closing.Unlock()
		if t := l.turn.Load(); t != nil {
			t.Release()
		}
		l.under.Wait()
		if l.frozen != nil {
			l.frozen.close()
		}
		if l.pool != nil {
			l.pool.Close()
		}
	})
	return nil
}

// statements are the package's statements with the schema's name in them.
type statements struct {
	lock, tune, insert, head, slice, metas, times, check, fence, scrub, scrubOn, values, size, here, gone, alive, examine, vacuum, shrink, used string
}

func (l *Log) newStatements() statements {
	return statements{
		// By the primary key; it has one row.
		lock:    l.q("SELECT fence, scrubbed FROM {schema}.head WHERE id = 1 FOR UPDATE"),
		tune:    tuneSQL,
		insert:  l.q(insertSQL),
		head:    l.q(headSQL),
		slice:   l.q(sliceSQL),
		metas:   l.q(metasSQL),
		times:   l.q(timesSQL),
		size:    l.q(sizeSQL),
		here:    l.q(hereSQL),
		gone:    l.q(goneSQL),
		alive:   l.q(aliveSQL),
		vacuum:  l.q("VACUUM (ANALYZE) {schema}.log"),
		shrink:  l.q("VACUUM (FULL, ANALYZE) {schema}.log"),
		used:    l.q(usedSQL),
		examine: l.q(checkSQL),
		// By the primary key.
		check: l.q("SELECT batch FROM {schema}.log WHERE position = $1"),
		fence: l.q("UPDATE {schema}.head SET fence = fence + 1 WHERE id = 1 RETURNING fence"),
		// On whatever timeline, and on one alone.
		scrub:   strings.ReplaceAll(l.q(scrubSQL), "{timeline}", "''"),
		scrubOn: strings.ReplaceAll(l.q(scrubSQL), "{timeline}", timelineSQL),
		// By the primary key.
		values: l.q("SELECT position, value FROM {schema}.log WHERE position = ANY($1)"),
	}
}
