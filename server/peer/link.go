package peer

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// link is one connection to one member, with a stream on it that carries Raft messages, or just shows that the
// connection lives.
type link struct {
	id      uint64
	carries string // what the log calls it
	gone    func() // called when a stream has ended that the member had accepted; nil: nobody
	conn    *grpc.ClientConn
	queue   *queue
	reports *reports
	log     *slog.Logger
	broke   func() // called after a stream has ended
	// at gives where this member is reached, for the other one to hear when a stream begins, and when telling has a token. Nil if another link tells.
	at      func() *peerpb.Whereabouts
	telling chan struct{}

	// active is since for others to see, in nanoseconds; 0 while there is no stream.
	active atomic.Int64

	// Of the goroutine of run alone:
	trouble string        // why there is no stream, as it was logged
	since   time.Time     // when the member accepted the stream; zero before that
	pause   time.Duration // before the next stream, where the connection is not what fails
}

func (l *link) send(m *raftpb.Message) { l.reports.lost(l.id, l.queue.push(m)) }

// tell has the other member told where this one is reached.
func (l *link) tell() {
	select {
	case l.telling <- struct{}{}:
	default:
	}
}

// run keeps a stream open until ctx ends.
func (l *link) run(ctx context.Context) {
	for {
		err := l.stream(ctx)
		active := l.active.Swap(0)
		if ctx.Err() != nil {
			return
		}
		if active != 0 && l.gone != nil {
			l.gone()
		}
		l.reports.lost(l.id, l.queue.drop())
		l.logTrouble(err)
		l.broke()
		if l.await(ctx) != nil {
			return
		}
		l.queue.accept()
	}
}

func (l *link) logTrouble(err error) {
	if err == nil {
		err = errors.New("the member has ended the stream")
	}
	if text := err.Error(); text != l.trouble {
		l.trouble = text
		l.log.Warn("no connection to a member", "member", hex(l.id), "stream", l.carries, "error", err)
	}
}

// await waits until another stream is worth a try: until there is a connection again, or, if there is one, for
// a pause that grows while the member ends streams at once.
func (l *link) await(ctx context.Context) error {
	for {
		state := l.conn.GetState()
		if state != connectivity.TransientFailure {
			break
		}
		if !l.conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
		l.pause = 0
	}
	timer := time.NewTimer(l.pause)
	defer timer.Stop()
	l.pause = min(max(2*l.pause, firstBackoff), lastBackoff)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stream opens a stream and sends until it ends.
func (l *link) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// This waits while the connection is being made, and fails when it cannot be made.
	s, err := peerpb.NewPeerClient(l.conn).Messages(ctx)
	if err != nil {
		return err
	}
	l.since = time.Time{}
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		if header, err := s.Header(); err == nil && len(header.Get(keyFrom)) > 0 {
			close(began)
		}
		for {
			if _, err := s.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	err = l.pump(ctx, s, began, ended)
	cancel()
	if errors.Is(err, errSend) {
		err = <-ended
	}
	if !l.since.IsZero() && time.Since(l.since) > lastBackoff {
		l.pause = 0
	}
	return err
}

// errSend says that a message could not be sent; why, the stream's end tells.
var errSend = errors.New("the stream has ended")

func (l *link) pump(ctx context.Context, s grpc.BidiStreamingClient[peerpb.Message, peerpb.Pulse], began <-chan struct{}, ended chan error) error {
	var batch []*raftpb.Message
	if l.at != nil {
		l.tell()
	}
	for {
		select {
		case <-l.queue.wake:
		case <-l.telling:
			if at := l.at(); at != nil && s.Send(&peerpb.Message{At: at}) != nil {
				return errSend
			}
			continue
		case <-began:
			began = nil
			l.begun()
			continue
		case err := <-ended:
			return err
		case <-ctx.Done():
			return errSend
		}
		for {
			if batch = l.queue.take(batch[:0]); len(batch) == 0 {
				break
			}
			if s.Send(&peerpb.Message{Raft: batch}) != nil {
				l.queue.dropped(len(batch))
				return errSend
			}
			clear(batch)
			l.queue.sent()
		}
	}
}

func (l *link) begun() {
	l.active.Store(time.Now().UnixNano())
	l.trouble, l.since = "", time.Now()
	l.log.Info("connected to a member", "member", hex(l.id), "stream", l.carries)
}
