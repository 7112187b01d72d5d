// Package roster knows which servers share a log. Each announces itself in the database every few seconds, with how far it
// has taken in the log; who has not done so for a while is not alive.
//
// The one that has been there longest is the keeper: it does what one server does for all, as scrubbing. Nothing goes wrong if for a
// moment two servers, or none, take themselves for it: all that a keeper does can be done twice.
//
// It knows neither SQL nor etcd; what a server tells of itself is bytes. Roster.Run is called once;
// all other methods may be called by any number of goroutines.
package roster

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keelson-io/keelson/drivers"
)

// Times of announcing.
const (
	every     = 5 * time.Second
	whileWait = 500 * time.Millisecond // while somebody waits for the others
	leaveTime = 2 * time.Second        // that leaving may take
)

// Log is what the roster needs of a shared log.
type Log interface {
	Announce(ctx context.Context, self drivers.Server) ([]drivers.Server, error)
}

// Options configures a Roster. All fields are required.
type Options struct {
	Log    Log
	Logger *slog.Logger
	// Position says how far this server has taken in the log.
	Position func() int64
	// BecameKeeper is told when this server becomes the keeper. It must not block.
	BecameKeeper func()
}

// Roster is the list of the servers that are alive.
type Roster struct {
	opts  Options
	hurry chan struct{} // asks Run to announce at once
	quit  chan struct{} // closed by Quit

	mu      sync.Mutex
	told    chan struct{} // closed, and replaced, after each announcement
	self    drivers.Server
	servers []drivers.Server
	at      time.Time // of the last announcement that succeeded
	keeper  bool
	gone    bool // by Quit
}

// New makes a roster without servers.
func New(opts Options) *Roster {
	return &Roster{opts: opts, hurry: make(chan struct{}, 1), quit: make(chan struct{}), told: make(chan struct{})}
}

// Join announces this server, under its id and with what it tells of itself. It is called before Run, and again
// when the server has something else to tell.
func (r *Roster) Join(ctx context.Context, id uint64, info []byte) error {
	r.mu.Lock()
	r.self.ID, r.self.Info = id, info
	var err error
	if r.self.Instance == (drivers.BatchID{}) {
		_, err = rand.Read(r.self.Instance[:])
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.announce(ctx)
}

// Self gives this server as it announces itself.
func (r *Roster) Self() drivers.Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.self
}

// Quit has this server leave for good, though it goes on running: the log that it has seen is not the one that
// the others share, and what it would tell of it is wrong. It does not wait.
func (r *Roster) Quit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.gone {
		r.gone = true
		close(r.quit)
	}
}

// Run announces this server until ctx ends or it quits, and then that it leaves. It returns when ctx ends.
func (r *Roster) Run(ctx context.Context) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			r.leave(ctx)
			return nil
		case <-r.quit:
			r.leave(ctx)
			<-ctx.Done()
			return nil
		case <-ticker.C:
		case <-r.hurry:
		}
		err := r.announce(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			r.opts.Logger.Warn("this server cannot be announced to the others", "error", err)
		}
		failing = err != nil
	}
}

// leave tells the others that this server is gone. If it fails they will notice by themselves.
func (r *Roster) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	r.mu.Lock()
	self := r.self
	r.mu.Unlock()
	self.Leaving = true
	_, _ = r.opts.Log.Announce(ctx, self)
}

// announce tells the others of this server, and takes in what they tell.
func (r *Roster) announce(ctx context.Context) error {
	r.mu.Lock()
	if r.gone {
		r.mu.Unlock()
		return nil
	}
	self := r.self
	self.Position = r.opts.Position()
	r.mu.Unlock()
	servers, err := r.opts.Log.Announce(ctx, self)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range servers {
		if !slices.ContainsFunc(r.servers, func(old drivers.Server) bool { return old.Instance == s.Instance }) && s.Instance != self.Instance {
			r.opts.Logger.Info("another server shares the log", "member_id", s.ID)
		}
	}
	for _, old := range r.servers {
		if !slices.ContainsFunc(servers, func(s drivers.Server) bool { return old.Instance == s.Instance }) {
			r.opts.Logger.Info("a server that shared the log is gone", "member_id", old.ID)
		}
	}
	if r.gone {
		return nil // while this was under way
	}
	was := r.keeperLocked()
	r.servers, r.at = servers, time.Now()
	if r.keeper = len(servers) > 0 && servers[0].Instance == self.Instance; r.keeper && !was {
		r.opts.BecameKeeper()
	}
	close(r.told)
	r.told = make(chan struct{})
	return nil
}

// Servers gives the servers that are alive, the keeper first. The slice is not to be changed.
func (r *Roster) Servers() []drivers.Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers
}

// Keeper tells whether this server is the keeper. Who has not been able to announce itself for long is not.
func (r *Roster) Keeper() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keeperLocked()
}

func (r *Roster) keeperLocked() bool {
	return r.keeper && !r.gone && time.Since(r.at) < drivers.PresenceTTL
}

// Reached waits until every server that is alive has taken in the log up to a position.
func (r *Roster) Reached(ctx context.Context, position int64) error {
	for {
		r.mu.Lock()
		told := r.told
		behind := slices.ContainsFunc(r.servers, func(s drivers.Server) bool { return s.Instance != r.self.Instance && s.Position < position })
		fresh := time.Since(r.at) < 2*every
		r.mu.Unlock()
		if !behind && fresh {
			return nil
		}
		timer := time.NewTimer(whileWait)
		select {
		case <-told:
		case <-timer.C:
			select {
			case r.hurry <- struct{}{}:
			default:
			}
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
