package sqllog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// contend has a server meet another one, so that its next batches begin with a turn.
func contend(s *server) {
	s.t.Helper()
	foreign(s.t, s.mem, put("contended", "theirs"))
	s.must(put("contended", "ours"))
}

// TestTurnsEnd: after a conflict a number of batches begin with a turn, those that append nothing too, and then none does until
// another server is met again.
func TestTurnsEnd(t *testing.T) {
	mem, r := memory.NewStore(), new(rigged)
	s := start(t, mem, rig(r))
	requests := []any{put("k", "v"), &pb.LeaseRevokeRequest{ID: 77}}
	some := func(n int) {
		for i := range n {
			if _, err := s.do(requests[i%2]); err != nil && !errors.Is(err, mvcc.ErrLeaseNotFound) {
				t.Fatal(err)
			}
		}
	}
	some(10)
	if n := r.holds.Load(); n != 0 {
		t.Errorf("%d turns were taken when nobody was there", n)
	}
	for _, meet := range []func(){
		func() { contend(s) },
		func() { // by an answer that appends nothing
			foreign(t, mem, put("j", "theirs"))
			some(2)
		},
		func() { // in a turn
			contend(s)
			some(contendedBatches / 2)
			foreign(t, mem, put("j", "theirs"))
			s.must(put("k", "v"))
		},
	} {
		meet()
		before := r.holds.Load()
		some(3 * contendedBatches)
		if n := r.holds.Load() - before; n < contendedBatches-2 || n > contendedBatches {
			t.Errorf("%d turns were taken", n)
		}
		before = r.holds.Load()
		some(10)
		if n := r.holds.Load() - before; n != 0 {
			t.Errorf("%d turns were taken when nobody had been there for long", n)
		}
	}
	s.checkPublished()
}

// TestTurnEndsByItself: a turn that has ended unnoticed proves nothing. What came in since is not answered from before it ended.
func TestTurnEndsByItself(t *testing.T) {
	for name, ask := range map[string]func(*server) error{
		"a lease granted since": func(s *server) error {
			_, err := s.do(&pb.LeaseRevokeRequest{ID: 7})
			return err
		},
		"a key made since": func(s *server) error {
			txn := &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: []byte("k"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put("k", "ours")}}},
			}
			if resp, err := s.do(txn); err != nil || !resp.(*pb.TxnResponse).Succeeded {
				return fmt.Errorf("%v, %w", resp, err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem, r := memory.NewStore(), new(rigged)
			s := start(t, mem, rig(r))
			contend(s)
			asked := make(chan error, 1)
			r.hold = func(ctx context.Context) (drivers.Turn, error) {
				r.hold = nil
				turn, err := r.Shared.Hold(ctx)
				if err != nil {
					return nil, err
				}
				// The server stands still, the database takes the turn away, and another server is acknowledged.
				turn.Release()
				foreign(t, mem, &pb.LeaseGrantRequest{ID: 7, TTL: 60}, put("k", "theirs"))
				go func() { asked <- ask(s) }()
				for len(s.calls) == 0 {
					runtime.Gosched()
				}
				return turn, nil
			}
			if _, err := s.do(&pb.LeaseRevokeRequest{ID: 99}); !errors.Is(err, mvcc.ErrLeaseNotFound) {
				t.Error(err)
			}
			if err := <-asked; err != nil {
				t.Errorf("asked after it was acknowledged: %v", err)
			}
		})
	}
}

// TestTurnFails: a turn that cannot be had fails the batch, and is tried again by the next one.
func TestTurnFails(t *testing.T) {
	mem, r := memory.NewStore(), new(rigged)
	s := start(t, mem, rig(r))
	contend(s)
	for _, err := range []error{errors.New("no connection"), drivers.ErrNoSpace, drivers.ErrReadOnly} {
		s.log.Inject(memory.OpHold, memory.Fault{Err: err})
		if _, got := s.do(put("k", "v")); !errors.Is(got, err) || !errors.Is(got, ErrStorage) || s.Failure() == nil {
			t.Errorf("%v instead of %v", got, err)
		}
		s.must(put("k", "v"))
		if s.Failure() != nil {
			t.Errorf("the failure %v shows still", s.Failure())
		}
	}
	// What stands before the turn cannot be read: the turn is given back.
	foreign(t, mem, put("j", "theirs"))
	s.log.Inject(memory.OpFollow, memory.Fault{Err: errors.New("no connection")})
	if _, err := s.do(put("k", "v")); !errors.Is(err, ErrStorage) {
		t.Error(err)
	}
	foreign(t, mem, put("j", "theirs"))
	s.must(put("k", "v"))
	s.checkPublished()
}

// TestNobodyStarves: of two servers that write as fast as they can, none meets a conflict for ever.
func TestNobodyStarves(t *testing.T) {
	mem := memory.NewStore()
	servers := []*server{start(t, mem), start(t, mem), start(t, mem)}
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			for n := range 200 {
				if resp := s.must(create(fmt.Sprint(i, n), "x")).(*pb.TxnResponse); !resp.Succeeded {
					t.Errorf("%d %d failed", i, n)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range servers {
		if _, err := s.Linearizable(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.checkPublished()
		s.checkSame(servers[0])
	}
}
