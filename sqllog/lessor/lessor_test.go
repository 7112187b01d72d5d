package lessor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fakeStore evaluates at once, on an index without a log.
type fakeStore struct {
	mu     sync.Mutex
	ix     *mvcc.Index
	lessor *Lessor
	before func(request any) error // may fail a request or hold it
	term   atomic.Uint64           // in which it leads others; 0: there are none, or it does not
}

func (s *fakeStore) Index() *mvcc.Index {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ix
}

func (s *fakeStore) Do(_ context.Context, request any, _ int) (any, error) {
	if s.before != nil {
		if err := s.before(request); err != nil {
			return nil, err
		}
	}
	r := s.batch(request)[0]
	return r.Response, r.Err
}

func (s *fakeStore) Linearizable(context.Context) (*mvcc.Index, error) {
	if s.before != nil {
		if err := s.before(nil); err != nil {
			return nil, err
		}
	}
	return s.Index(), nil
}

func (s *fakeStore) batch(requests ...any) []mvcc.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, results := mvcc.Evaluate(s.ix, mvcc.Env{Term: s.term.Load()}, requests)
	end := s.ix.End
	end.Position += int64(len(b.Entries()))
	s.ix = b.Index(end)
	if ids := b.Leases(); len(ids) > 0 {
		s.lessor.Changed(s.ix, ids)
	}
	return results
}

func begin(ix *mvcc.Index) *fakeStore {
	s := &fakeStore{ix: ix, lessor: New(Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})}
	s.lessor.Attach(s)
	return s
}

// run runs the lessor for some time, and gives whether lease 1 is there then.
func (s *fakeStore) run(d time.Duration) bool {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.lessor.Run(ctx) }()
	time.Sleep(d) // the bubble's clock
	cancel()
	<-done
	return s.ix.Lease(1) != nil
}

func TestExpiryAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 100})
		if !s.run(60 * time.Second) {
			t.Fatal("it expired early")
		}
		time.Sleep(time.Hour) // nobody serves
		s = begin(s.ix)
		if left, _ := s.lessor.Remaining(1); left > 46*time.Second || left < 40*time.Second {
			t.Errorf("%v left after the restart", left)
		}
		if !s.run(39*time.Second) || s.run(8*time.Second) {
			t.Error("the deadline began anew, or came early")
		}
	})
}

func TestRevokeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		failures := 3
		s.before = func(request any) error {
			if _, ok := request.(*mvcc.Expire); ok && failures > 0 {
				failures--
				return errors.New("storage fails")
			}
			return nil
		}
		if s.run(20*time.Second) || failures != 0 {
			t.Error("the lease was not revoked")
		}
	})
}

// TestGrantedAgainInOneCommit: a lease that takes the id of one revoked in the same commit is a new one.
func TestGrantedAgainInOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		time.Sleep(9 * time.Second)
		s.batch(&pb.LeaseRevokeRequest{ID: 1}, &pb.LeaseGrantRequest{ID: 1, TTL: 50})
		if left, _ := s.lessor.Remaining(1); left != 50*time.Second {
			t.Errorf("the new lease has %v left", left)
		}
		if !s.run(45 * time.Second) {
			t.Error("the new lease ended with the old one")
		}
	})
}

// TestRenewalDuringCheckpoint: a renewal that is acknowledged is what the log
// says, also if a checkpoint was on its way.
func TestRenewalDuringCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 100})
		time.Sleep(50 * time.Second)
		hold := make(chan struct{})
		s.before = func(request any) error {
			if c, ok := request.(*mvcc.Checkpoint); ok && c.Leases[0].Remaining > 0 {
				<-hold
			}
			return nil
		}
		recorded := make(chan struct{})
		go func() { s.lessor.Stop(context.Background()); close(recorded) }()
		synctest.Wait()
		renewed := make(chan error)
		go func() { _, err := s.lessor.Renew(context.Background(), 1); renewed <- err }()
		synctest.Wait()
		select {
		case <-renewed:
			t.Error("acknowledged while the checkpoint is on its way")
			close(hold)
		default:
			close(hold)
			if err := <-renewed; err != nil {
				t.Error(err)
			}
		}
		<-recorded
		if left := s.ix.Lease(1).Remaining; left != 0 {
			t.Errorf("the log says that %d s are left of the renewed lease", left)
		}
	})
}

// TestGrantedAgainBeforeExpiry: what is on its way for an expired lease does not touch one that was
// granted with its id meanwhile.
func TestGrantedAgainBeforeExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(mvcc.NewIndex())
		s.batch(&pb.LeaseGrantRequest{ID: 1, TTL: 10})
		again := func(any) error {
			s.before = nil
			s.batch(&pb.LeaseRevokeRequest{ID: 1}, &pb.LeaseGrantRequest{ID: 1, TTL: 100})
			return nil
		}
		time.Sleep(5 * time.Second)
		s.before = again
		s.lessor.Stop(t.Context())
		if left := s.ix.Lease(1).Remaining; left != 0 {
			t.Errorf("the checkpoint of the old lease says that the new one has %d s left", left)
		}
		s.before = nil
		time.Sleep(100 * time.Second)
		s.before = again
		if !s.run(5 * time.Second) {
			t.Error("the new lease was revoked with the old one")
		}
	})
}
