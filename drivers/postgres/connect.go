package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/drivers"
)

// unheard is how long what was sent may stay without any sign of the other side before the connection is taken for dead.
const unheard = 10 * time.Second

// connecting marks the contexts of real connections. pgconn connects once more to cancel what a connection that it gives up was
// doing; that would end the waiting for a synchronous standby, and show a commit that the standby has not confirmed.
type connecting struct{}

func markConnecting(ctx context.Context) context.Context {
	return context.WithValue(ctx, connecting{}, true)
}

var errNoCancel = errors.New("nothing that was sent is cancelled")

// noCancels lets only real connections through.
func noCancels(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if ctx.Value(connecting{}) == nil {
			return nil, errNoCancel
		}
		return dial(ctx, network, address)
	}
}

// dial connects, so that a database that has vanished without a word is noticed.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			var serr error
			err := c.Control(func(fd uintptr) {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unheard.Milliseconds()))
			})
			return errors.Join(err, serr)
		},
	}
	return d.DialContext(ctx, network, address)
}

// connect makes the pool. Nothing is connected yet.
func (l *Log) connect() error {
	config, err := l.opts.poolConfig()
	if err != nil {
		return err
	}
	cc := config.ConnConfig
	if l.opts.dial != nil {
		cc.DialFunc = l.opts.dial
	}
	cc.DialFunc = noCancels(cc.DialFunc)
	config.PingTimeout = l.opts.Answer
	if !l.opts.ReadOnly {
		cc.ValidateConnect = l.validate
	}
	cc.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		switch {
		case n.SeverityUnlocalized != "WARNING":
		case n.Routine == "SyncRepWaitForLSN":
			c.CustomData()[warned] = n.Message // the commit is not confirmed by a synchronous standby
		default:
			l.warnOnce(n)
		}
	}
	config.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) (err error) {
		if l.opts.PasswordFile != "" {
			cc.Password, err = l.opts.password()
		}
		return err
	}
	l.config = config
	l.pool, err = pgxpool.NewWithConfig(context.Background(), config)
	return err
}

// warnOnce logs what the database warns of, once for each place in it that does: near the end of its transaction ids, say, it does so at each append.
func (l *Log) warnOnce(n *pgconn.Notice) {
	if _, told := l.warnings.LoadOrStore(n.Routine, true); !told {
		l.logger.Warn("the database warns", "code", n.Code, "message", n.Message, "hint", n.Hint)
	}
}

// warned is the key of a connection's last warning that a commit is not confirmed.
const warned = "keelson.warned"

// takeWarning gives what a connection was warned of since the last call, or "".
func takeWarning(c *pgconn.PgConn) string {
	w, _ := c.CustomData()[warned].(string)
	delete(c.CustomData(), warned)
	return w
}

// acquire takes a connection, and tries again while the database is away, as long as patience lasts. Nothing has been sent when it fails.
func (l *Log) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for t := l.tries(); ; {
		if err := l.usable(ctx); err != nil {
			return nil, err
		}
		actx, cancel := context.WithTimeout(markConnecting(ctx), l.opts.Answer)
		c, err := l.pool.Acquire(actx)
		cancel()
		if err == nil {
			return c, nil
		}
		if !t.again(ctx, err) {
			return nil, l.ended(ctx, err)
		}
	}
}

// The waits between tries double from the first to the last.
const (
	firstWait = 10 * time.Millisecond
	lastWait  = 500 * time.Millisecond
)

// tries are those of one call.
type tries struct {
	log   *Log
	begun time.Time
	wait  time.Duration
}

func (l *Log) tries() *tries { return &tries{log: l, begun: time.Now(), wait: firstWait} }

// again waits before another try, unless there is to be none.
func (t *tries) again(ctx context.Context, err error) bool {
	l := t.log
	if ctx.Err() != nil || !passes(err) {
		return false
	}
	first, lasts := l.outage.noted()
	if first {
		l.logger.Warn("the database does not answer as it should, trying again", "error", err)
	}
	if lasts >= l.opts.Patience || time.Since(t.begun) >= l.opts.Patience {
		return false
	}
	timer := time.NewTimer(t.wait/2 + rand.N(t.wait/2))
	defer timer.Stop()
	t.wait = min(2*t.wait, lastWait)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-l.closed:
	}
	return false
}

// ended says why a call ends with err: because it was told to, if it was.
func (l *Log) ended(ctx context.Context, err error) error {
	if uerr := l.usable(ctx); uerr != nil {
		return uerr
	}
	return err
}

// exchange runs fn on a connection, and again after a failure that passes, as long as patience lasts. So fn must do no harm
// when it is run twice. It gives fn a context that ends when the database takes too long.
func (l *Log) exchange(ctx context.Context, fn func(context.Context, *pgconn.PgConn) error) error {
	if l.frozen != nil {
		return l.frozen.exchange(ctx, fn)
	}
	for t := l.tries(); ; {
		c, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		err = l.with(ctx, c, fn)
		if err == nil {
			return nil
		}
		if !t.again(ctx, err) {
			return l.ended(ctx, err)
		}
	}
}

// with runs fn once on a connection and gives the connection back.
func (l *Log) with(ctx context.Context, c *pgxpool.Conn, fn func(context.Context, *pgconn.PgConn) error) error {
	defer c.Release()
	pc := c.Conn().PgConn()
	l.enter(pc)
	// A client that gives up must not cost a connection: exchanges are short.
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.opts.Answer)
	defer cancel()
	err := fn(fctx, pc)
	l.answered(pc, err)
	if !pc.IsClosed() && pc.TxStatus() != 'I' {
		// What has failed is rolled back; a connection on which that fails is closed by Release.
		_ = run(fctx, pc, "ROLLBACK")
	}
	return err
}

// plansFrom is the length of a log from which on statements are prepared. A plan made for a table of a page or two
// would be kept when it has grown.
const plansFrom = 10_000

// enter has a connection prepare its statements, if sessions are this log's own: planning takes a third of the time of an append.
func (l *Log) enter(c *pgconn.PgConn) {
	p, has := c.CustomData()[preparedKey].(*prepared)
	if !has {
		p = &prepared{names: make(map[string]string)}
		c.CustomData()[preparedKey] = p
	}
	p.used = l.sessions.Load() && l.seen.position() >= plansFrom
}

// answered takes note of how an exchange has ended.
func (l *Log) answered(c *pgconn.PgConn, err error) {
	switch {
	case err == nil || !passes(err):
		if d := l.outage.over(); d > 0 {
			l.logger.Info("the database answers again", "after", d)
		}
	case code(err) == codeNoStatement, code(err) == codeStatementExists, code(err) == codeProtocolViolation:
		// A pooler has come between: what is prepared is somebody else's.
		l.sessions.Store(false)
	case code(err) == codeReadOnlyTransaction:
		// All connections lead to a server that is no primary any more.
		_ = c.Close(context.Background())
		l.pool.Reset()
	}
}

// outage remembers since when the database does not answer.
type outage struct {
	mu    sync.Mutex
	since time.Time
}

// noted notes a failure and tells whether it is the first of an outage, and how long that lasts.
func (o *outage) noted() (first bool, lasts time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		o.since, first = time.Now(), true
	}
	return first, time.Since(o.since)
}

// over ends an outage and gives its length.
func (o *outage) over() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return 0
	}
	d := time.Since(o.since)
	o.since = time.Time{}
	return d
}

// usable says why a call cannot begin.
func (l *Log) usable(ctx context.Context) error {
	select {
	case <-l.closed:
		return drivers.ErrClosed
	default:
		return ctx.Err()
	}
}
