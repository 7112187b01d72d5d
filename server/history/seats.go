package history

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// seats bounds how many calls of a kind there are at once. A client need not read: a pager may stand between it and its user. So a call that stands still does no harm
// but for its seat, and has to give that up when another one waits for it.
type seats struct {
	most     int
	patience time.Duration

	mu    sync.Mutex
	calls map[*call]bool
	left  chan struct{} // closed when a call has left
}

// call is one that has a seat.
type call struct {
	seats *seats
	// since is when a message was begun to be sent that has not gone out, zero if there is none.
	since time.Time
	ended bool
	end   chan struct{} // closed when the call is to give up its seat
}

const (
	// patience is how long a client may take for one message before it has to make room for others. Messages are small (sqllog), unless a single value is large.
	patience = 10 * time.Second
	// waitMost is how long is waited for a seat, or for a turn: longer, so that there is one if a client stands still.
	waitMost = 15 * time.Second
	// lookEvery is how often those who wait look who stands still.
	lookEvery = time.Second
)

var (
	errBusy   = status.Errorf(codes.ResourceExhausted, "keelson: this server has been busy with other questions about its history for %v: try again later", waitMost)
	errUnread = status.Errorf(codes.ResourceExhausted, "keelson: the client has taken nothing of the history for %v, and others wait", patience)
)

func newSeats(most int) *seats {
	return &seats{most: most, patience: patience, calls: map[*call]bool{}, left: make(chan struct{})}
}

// enter takes a seat, waiting for one if need be.
func (s *seats) enter(ctx context.Context) (*call, error) {
	enough := time.NewTimer(waitMost)
	defer enough.Stop()
	look := time.NewTicker(min(lookEvery, s.patience))
	defer look.Stop()
	for {
		c, left := s.take()
		if c != nil {
			return c, nil
		}
		select {
		case <-left:
		case <-look.C:
		case <-enough.C:
			return nil, errBusy
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take takes a seat if there is one. Otherwise it ends the call whose client has taken nothing for longest, if that is long enough, and gives a channel that is closed when
// a call has left.
func (s *seats) take() (*call, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) < s.most {
		c := &call{seats: s, end: make(chan struct{})}
		s.calls[c] = true
		return c, nil
	}
	var still *call
	for c := range s.calls {
		if !c.ended && !c.since.IsZero() && (still == nil || c.since.Before(still.since)) {
			still = c
		}
	}
	if still != nil && time.Since(still.since) >= s.patience {
		still.ended = true
		close(still.end)
	}
	return nil, s.left
}

func (c *call) leave() {
	s := c.seats
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, c)
	close(s.left)
	s.left = make(chan struct{})
}

// send sends something, which may take as long as the client likes.
func (c *call) send(fn func() error) error {
	c.mark(time.Now())
	defer c.mark(time.Time{})
	return fn()
}

func (c *call) mark(since time.Time) {
	c.seats.mu.Lock()
	defer c.seats.mu.Unlock()
	c.since = since
}

// attend runs fn with a seat. What fn sends may stand still for as long as the stream is there, and the stream ends with this function: so another goroutine runs it.
func (s *seats) attend(ctx context.Context, fn func(*call) error) error {
	c, err := s.enter(ctx)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := fn(c)
		c.leave() // at first: who has the answer finds the seat free
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-c.end:
		return errUnread
	}
}
