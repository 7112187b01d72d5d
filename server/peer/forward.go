package peer

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// What became of a forwarded call that has no answer.
var (
	// ErrNotSent: it did not leave this member.
	ErrNotSent = errors.New("peer: the call was not sent")
	// ErrLost: the connection broke, or the answer was given up, and it may have been done.
	ErrLost = errors.New("peer: the connection broke before the answer")
)

// forwardBytes bounds the calls, or answers, of one message; a single one may be larger.
const forwardBytes = 256 << 10

// forwarder sends calls to a member over one stream, as many together as have come since the last message: with
// many clients that costs a fraction of a gRPC call each.
type forwarder struct {
	conn *grpc.ClientConn

	mu      sync.Mutex
	seq     uint64
	queue   []*peerpb.Call
	waiting map[uint64]*forwarded
	running bool
	wake    chan struct{} // capacity 1
}

type forwarded struct {
	answer *peerpb.Answer
	err    error
	sent   bool
	done   chan struct{}
}

func newForwarder(conn *grpc.ClientConn) *forwarder {
	return &forwarder{conn: conn, waiting: map[uint64]*forwarded{}, wake: make(chan struct{}, 1)}
}

// Forward has another member answer a call. The request's bytes are not to be changed any more. Errors: ErrNotSent, ErrLost, ctx's.
func (n *Network) Forward(ctx context.Context, to uint64, method string, request []byte) (*peerpb.Answer, error) {
	p := n.peer(to)
	if p == nil {
		return nil, ErrNotSent
	}
	return p.forward.call(ctx, n.ctx, &peerpb.Call{Method: method, Request: request})
}

// GiveUp ends the calls that wait for an answer of a member, as when its connection breaks. What it answers later is passed over.
func (n *Network) GiveUp(id uint64) {
	if p := n.peer(id); p != nil {
		p.forward.giveUp()
	}
}

func (f *forwarder) call(ctx, life context.Context, c *peerpb.Call) (*peerpb.Answer, error) {
	w := &forwarded{done: make(chan struct{})}
	f.mu.Lock()
	f.seq++
	c.Id = f.seq
	f.waiting[c.Id] = w
	f.queue = append(f.queue, c)
	if !f.running {
		f.running = true
		go f.run(life)
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	select {
	case <-w.done:
		return w.answer, w.err
	case <-ctx.Done():
		f.mu.Lock()
		delete(f.waiting, c.Id)
		f.mu.Unlock()
		return nil, ctx.Err()
	}
}

// idleStream is how long a stream without calls is kept.
const idleStream = time.Minute

// run has one stream, until it breaks or has had nothing to do for long.
func (f *forwarder) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := peerpb.NewPeerClient(f.conn).Forward(ctx)
	if err != nil {
		f.end()
		return
	}
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		for {
			a, err := stream.Recv()
			if err != nil {
				return
			}
			f.answered(a.GetAnswers())
		}
	}()
	idle := time.NewTimer(idleStream)
	defer idle.Stop()
	for {
		select {
		case <-f.wake:
		case <-broken:
			f.end()
			return
		case <-idle.C:
			if f.endIdle() {
				return
			}
		}
		idle.Reset(idleStream)
		for {
			calls := f.take()
			if len(calls) == 0 {
				break
			}
			if stream.Send(&peerpb.Calls{Calls: calls}) != nil {
				cancel()
				<-broken
				f.end()
				return
			}
		}
	}
}

// take gives the calls of the next message.
func (f *forwarder) take() []*peerpb.Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, size := 0, 0
	for n < len(f.queue) && (n == 0 || size < forwardBytes) {
		c := f.queue[n]
		if w := f.waiting[c.GetId()]; w != nil {
			w.sent = true
		}
		size += len(c.GetRequest())
		n++
	}
	calls := f.queue[:n:n]
	f.queue = f.queue[n:]
	return calls
}

func (f *forwarder) answered(answers []*peerpb.Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range answers {
		if w := f.waiting[a.GetId()]; w != nil {
			delete(f.waiting, a.GetId())
			w.answer = a
			close(w.done)
		}
	}
}

// end tells all who wait that the stream is gone. The next call begins another one.
func (f *forwarder) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose()
	f.running = false
}

// giveUp tells all who wait that there is no answer, and leaves the stream.
func (f *forwarder) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose()
}

// lose answers all who wait, and drops what was not sent. Called with mu held.
func (f *forwarder) lose() {
	for id, w := range f.waiting {
		delete(f.waiting, id)
		if w.err = ErrNotSent; w.sent {
			w.err = ErrLost
		}
		close(w.done)
	}
	f.queue = nil
}

// endIdle ends a stream that nobody uses.
func (f *forwarder) endIdle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) > 0 || len(f.queue) > 0 {
		return false
	}
	f.running = false
	return true
}

// Forward answers each call on a goroutine of its own; what is answered while a message is sent goes with the next.
func (s *server) Forward(stream grpc.BidiStreamingServer[peerpb.Calls, peerpb.Answers]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	out := answers{wake: make(chan struct{}, 1)}
	received, failed := make(chan *peerpb.Calls), make(chan error, 1)
	go func() {
		for {
			calls, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case received <- calls:
			case <-ctx.Done():
				return
			}
		}
	}()
	stopping := s.stopping
	for {
		select {
		case calls := <-received:
			for _, c := range calls.GetCalls() {
				running.Go(func() {
					a, err := s.svc.Answer(ctx, c)
					if err != nil {
						a = &peerpb.Answer{Code: uint32(status.Code(err)), Text: status.Convert(err).Message()}
					}
					a.Id = c.GetId()
					out.add(a)
				})
			}
		case <-out.wake:
			for all := out.take(); len(all) > 0; all = out.take() {
				if err := stream.Send(&peerpb.Answers{Answers: all}); err != nil {
					return err
				}
			}
		case <-failed:
			return nil
		case <-stopping:
			// What is under way gets its answer; nothing else is begun.
			stopping = nil
			running.Wait()
			for all := out.take(); len(all) > 0; all = out.take() {
				if err := stream.Send(&peerpb.Answers{Answers: all}); err != nil {
					return err
				}
			}
			return status.Error(codes.Unavailable, "the member is stopping")
		}
	}
}

// answers are those that are due.
type answers struct {
	mu   sync.Mutex
	all  []*peerpb.Answer
	wake chan struct{}
}

func (a *answers) add(one *peerpb.Answer) {
	a.mu.Lock()
	a.all = append(a.all, one)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *answers) take() []*peerpb.Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, size := 0, 0
	for n < len(a.all) && (n == 0 || size < forwardBytes) {
		size += len(a.all[n].GetResponse())
		n++
	}
	some := a.all[:n:n]
	a.all = a.all[n:]
	return some
}
