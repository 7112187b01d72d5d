package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/drivers"
)

// Times of the work in the background.
const (
	// notifyEvery is the least time between two notifications: each tells of all appends before it.
	notifyEvery = 2 * time.Millisecond
	// echoWithin is how long a message to oneself may take.
	echoWithin = 3 * time.Second
	// listenAgain is the time after which listening is tried anew where it did not work.
	listenAgain = time.Minute
	// reconnect is the pause before a lost listening connection is made anew.
	reconnect = 250 * time.Millisecond
)

// Run listens for the appends of other servers, polls for them as a safety net, or instead where messages do not come, and
// tells the others of this log's own. It returns when ctx ends or the log is closed.
func (l *Log) Run(ctx context.Context) error {
	if l.opts.ReadOnly {
		<-ctx.Done()
		return nil
	}
	// It ends with the log, too.
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	b := background{log: l, nudge: make(chan struct{}, 1)}
	g, gctx := errgroup.WithContext(running)
	g.Go(func() error {
		select {
		case <-l.closed:
			cancel()
		case <-gctx.Done():
		}
		return nil
	})
	g.Go(func() error { return b.listen(gctx) })
	g.Go(func() error { return b.poll(gctx) })
	g.Go(func() error { return b.notify(gctx) })
	return g.Wait()
}

// background is what Run does.
type background struct {
	log       *Log
	listening atomic.Bool
	nudge     chan struct{} // tells poll that listening has changed
}

// channel is the name under which notifications go.
func (l *Log) channel() string { return "keelson_" + l.opts.Name }

// listen keeps a connection that listens.
func (b *background) listen(ctx context.Context) error {
	l := b.log
	told := false
	for ctx.Err() == nil {
		err := b.listenOnce(ctx)
		b.set(false)
		pause := reconnect
		if errors.Is(err, errNoEcho) {
			if !told {
				l.logger.Info("the database's notifications do not arrive, as behind a pooler in transaction mode: polling instead", "every", l.opts.PollAlone)
			}
			told, pause = true, listenAgain
		}
		sleep(ctx, pause)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// set says whether notifications arrive.
func (b *background) set(listening bool) {
	b.log.sessions.Store(listening)
	if b.listening.Swap(listening) != listening {
		select {
		case b.nudge <- struct{}{}:
		default:
		}
	}
}

// errNoEcho: a message to oneself has not come back.
var errNoEcho = errors.New("no notification arrives")

// listenOnce listens on one connection until it fails.
func (b *background) listenOnce(ctx context.Context) error {
	l := b.log
	cc := l.config.ConnConfig.Copy()
	if l.config.BeforeConnect != nil {
		if err := l.config.BeforeConnect(ctx, cc); err != nil {
			return err
		}
	}
	echo := make(chan struct{}, 1)
	cc.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { l.notified(n.Payload, echo) }
	cctx, cancel := context.WithTimeout(ctx, l.opts.Answer)
	defer cancel()
	c, err := pgx.ConnectConfig(markConnecting(cctx), cc)
	if err != nil {
		return err
	}
	defer c.Close(context.Background())
	pc := c.PgConn()
	if err := run(cctx, pc, "LISTEN "+pgx.Identifier{l.channel()}.Sanitize()); err != nil {
		return err
	}
	if err := l.sendNotification(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(echoWithin)
	for {
		wctx, cancel := ctx, func() {}
		if !b.listening.Load() {
			wctx, cancel = context.WithDeadline(ctx, deadline)
		}
		err := pc.WaitForNotification(wctx)
		cancel()
		select {
		case <-echo:
			if !b.listening.Load() {
				b.set(true)
				l.logger.Info("listening to the database's notifications", "channel", l.channel())
			}
		default:
		}
		if err != nil {
			if !b.listening.Load() && ctx.Err() == nil && wctx.Err() != nil {
				return errNoEcho
			}
			return err
		}
	}
}

// A notification's payload is the sender, and the end of its last append.
func (l *Log) payload(end drivers.End) string {
	return fmt.Sprintf("%x %d %x", l.self, end.Position, end.Batch)
}

// notified takes in a notification. One that cannot be read is none of this version's.
func (l *Log) notified(payload string, echo chan<- struct{}) {
	parts := strings.Split(payload, " ")
	if len(parts) != 3 {
		return
	}
	var end drivers.End
	var err error
	if end.Position, err = strconv.ParseInt(parts[1], 10, 64); err != nil {
		return
	}
	if n, err := hex.Decode(end.Batch[:], []byte(parts[2])); err != nil || n != len(end.Batch) {
		return
	}
	if parts[0] == hex.EncodeToString(l.self[:]) {
		select {
		case echo <- struct{}{}:
		default:
		}
		return
	}
	l.company.Store(true)
	l.seen.signal(end)
}

// notifySQL is a transaction of its own, after the append's: NOTIFY takes a lock of the whole database cluster when
// it commits. Nobody waits for it to be on disk.
const notifySQL = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"

// sendNotification tells others of the newest own append.
func (l *Log) sendNotification(ctx context.Context) error {
	end := l.seen.ownEnd()
	return l.exchange(ctx, func(ctx context.Context, c *pgconn.PgConn) error {
		return query(ctx, c, statement{notifySQL, []param{textParam(l.channel()), textParam(l.payload(end))}}, nil)
	})
}

// notify sends notifications of own appends, as many as can be had.
func (b *background) notify(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.log.appended:
		}
		// One that is lost is made up for by the polls of others.
		_ = b.log.sendNotification(ctx)
		sleep(ctx, notifyEvery)
	}
}

// sinceAnswer is how long ago the last question was answered.
func (l *Log) sinceAnswer() time.Duration {
	return time.Since(l.opened) - time.Duration(l.answeredAt.Load())
}

// poll looks at the log's end when nobody else has for a while.
func (b *background) poll(ctx context.Context) error {
	l := b.log
	for {
		every := l.opts.PollAlone
		if b.listening.Load() {
			every = l.opts.PollListening
		}
		wait := every - l.sinceAnswer()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-b.nudge:
			// What came before anybody listened was not told.
			timer.Stop()
			_, _ = l.ReadIndex(ctx)
			continue
		case <-timer.C:
		}
		if l.sinceAnswer() < every {
			continue
		}
		if _, err := l.ReadIndex(ctx); err != nil {
			sleep(ctx, every) // who needs the database will say that it is away
		}
	}
}

// Moved implements drivers.Shared.
func (l *Log) Moved(ctx context.Context, than drivers.End) error {
	for {
		if err := l.usable(ctx); err != nil {
			return err
		}
		moved, changed := l.seen.moved(than)
		if moved {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-l.closed:
		}
	}
}
