package history

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/history/historypb"
	"github.com/keelson-io/keelson/sqllog"
)

// reader is a client's end of a stream, which takes its time for each message.
type reader struct {
	grpc.ServerStream
	ctx   context.Context
	takes time.Duration // negative: for ever
	got   int
}

func (r *reader) Context() context.Context { return r.ctx }

func (r *reader) Send(*historypb.ChangesResponse) error {
	timer := time.NewTimer(r.takes)
	if r.takes < 0 {
		timer.Stop()
	}
	defer timer.Stop()
	select {
	case <-timer.C:
		r.got++
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// rewinder is the same of Rewound.
type rewinder struct{ *reader }

func (r rewinder) Send(*historypb.RewoundResponse) error { return r.reader.Send(nil) }

// attended calls a method as gRPC does, by which the stream ends when it returns.
func attended(t *testing.T, r *reader, call func() error) (err <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	r.ctx = ctx
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- call()
	}()
	return done
}

func (s *Service) changesTo(t *testing.T, r *reader) <-chan error {
	return attended(t, r, func() error { return s.Changes(&historypb.ChangesRequest{Keys: &historypb.Range{Key: []byte("k")}}, r) })
}

func (s *Service) rewoundTo(t *testing.T, r *reader) <-chan error {
	return attended(t, r, func() error {
		return s.Rewound(&historypb.RewoundRequest{Keys: &historypb.Range{Key: []byte("k")}, To: revision(5)}, rewinder{r})
	})
}

func history(store Store) *Service { return New(Options{Store: store, AtOnce: 1, Streams: 2}) }

func (s *seats) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func aFake() *fake { return &fake{extent: sqllog.Extent{Rev: 9, Compact: 6, Complete: 4}} }

// TestUnreadDoesNoHarm: a client that does not read keeps nobody else waiting while there are seats, and may do so for as long as it likes.
func TestUnreadDoesNoHarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := history(aFake())
		unread := s.changesTo(t, &reader{takes: -1})
		time.Sleep(time.Hour)
		start := time.Now()
		for range 10 {
			if err := <-s.changesTo(t, &reader{}); err != nil || time.Since(start) > 0 {
				t.Errorf("beside a client that does not read: %v after %v", err, time.Since(start))
			}
		}
		if err := <-s.rewoundTo(t, &reader{}); err != nil || time.Since(start) > 0 {
			t.Errorf("beside a client that does not read: %v after %v", err, time.Since(start))
		}
		select {
		case err := <-unread:
			t.Errorf("it was ended: %v", err)
		default:
		}
	})
}

// TestUnreadMakesRoom: where all seats are taken a client that does not read is ended for one that waits, and one that is slow is not.
func TestUnreadMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := history(aFake())
		slow := s.changesTo(t, &reader{takes: patience - time.Second}) // three messages
		unread := s.changesTo(t, &reader{takes: -1})
		synctest.Wait()
		start := time.Now()
		if err := <-s.changesTo(t, &reader{}); err != nil || time.Since(start) > patience+lookEvery {
			t.Errorf("it was served after %v: %v", time.Since(start), err)
		}
		if err := <-unread; err != errUnread {
			t.Errorf("who does not read is told %v", err)
		}
		if err := <-slow; err != nil {
			t.Errorf("who is slow is told %v", err)
		}
		rewind := s.rewoundTo(t, &reader{takes: -1})
		synctest.Wait()
		if err := <-s.rewoundTo(t, &reader{}); err != nil {
			t.Error(err)
		}
		if err := <-rewind; err != errUnread {
			t.Errorf("who does not read is told %v", err)
		}
		synctest.Wait()
		if n, m := s.changing.taken(), s.rewind.taken(); n != 0 || m != 0 || !s.turns.TryAcquire(1) {
			t.Errorf("%d and %d seats are taken still, or the turn is", n, m)
		}
	})
}

// TestBusy: who has waited for some seconds in vain is told so.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := history(aFake())
		var slow []<-chan error
		for range 2 {
			slow = append(slow, s.changesTo(t, &reader{takes: patience - time.Second}))
		}
		synctest.Wait()
		start := time.Now()
		if err := <-s.changesTo(t, &reader{}); err != errBusy || time.Since(start) != waitMost {
			t.Errorf("without a seat it is told %v after %v", err, time.Since(start))
		}
		for _, done := range slow {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := s.turns.Acquire(t.Context(), 1); err != nil { // a long search
			t.Fatal(err)
		}
		start = time.Now()
		if err := <-s.changesTo(t, &reader{}); err != errBusy || time.Since(start) != waitMost {
			t.Errorf("without a turn it is told %v after %v", err, time.Since(start))
		}
		s.turns.Release(1)
		if err := <-s.changesTo(t, &reader{}); err != nil {
			t.Error(err)
		}
	})
}

// endless is a store with changes without end.
type endless struct{ *fake }

func (e endless) Changes(_ context.Context, _ sqllog.Extent, _ sqllog.Wanted, fn func([]sqllog.Change) error) (err error) {
	for err == nil {
		err = fn([]sqllog.Change{{Key: "k", Value: make([]byte, 1<<20)}})
	}
	return err
}

// TestUnreadConnection: so it is on a connection, which lasts.
func TestUnreadConnection(t *testing.T) {
	s := New(Options{Store: endless{aFake()}, Streams: 1})
	s.changing.patience = 20 * time.Millisecond
	c := clientOf(t, s)
	open := func() historypb.History_ChangesClient {
		stream, err := c.Changes(t.Context(), &historypb.ChangesRequest{Keys: &historypb.Range{Key: []byte("k")}})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	unread := open()
	open() // comes to its first message when the other one has been ended
	var err error
	for err == nil {
		_, err = unread.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
}
