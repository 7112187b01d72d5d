package sqllog

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// follow has the server follow the log until stop is called.
func (s *server) follow() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Follow(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("follow: %v", err)
		}
	}
}

// TestFollow: what others append is published without any request, and within no time where the log signals it.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		var leases atomic.Int64
		s := start(t, mem, func(o *Options) { o.Leases = func(_ *mvcc.Index, ids []int64) { leases.Add(int64(len(ids))) } })
		defer s.follow()()
		for i := range 20 {
			synctest.Wait()
			if i%3 == 0 {
				s.must(put("own", "x"))
			}
			foreign(t, mem, put("k", fmt.Sprint(i)), &pb.LeaseGrantRequest{ID: int64(i + 1), TTL: 10})
			if i%2 == 0 {
				foreign(t, mem, put("j", fmt.Sprint(i)))
			}
			synctest.Wait()
			if ix := s.Index(); ix.End != mem.Bounds().End || leases.Load() != int64(i+1) {
				t.Fatalf("the index ends at %v, the log at %v; %d leases were told", ix.End, mem.Bounds().End, leases.Load())
			}
			s.checkPublished()
		}
		s.stop()
	})
}

// TestFollowFails: failures are tried again, and not without pause.
func TestFollowFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, r := memory.NewStore(), new(rigged)
		s := start(t, mem, rig(r))
		defer s.follow()()
		for range 60 {
			s.log.Inject(memory.OpReadIndex, memory.Fault{Err: errors.New("no answer")})
		}
		s.log.Inject(memory.OpFollow, memory.Fault{Err: errors.New("no answer")})
		foreign(t, mem, put("k", "v"))
		time.Sleep(30 * time.Second)
		if s.Index().Rev != 1 || s.Failure() == nil {
			t.Errorf("revision %d, failure %v", s.Index().Rev, s.Failure())
		}
		time.Sleep(50 * time.Second)
		if s.Index().Rev != 2 {
			t.Errorf("revision %d", s.Index().Rev)
		}
		if n := r.questions.Load(); n > 100 {
			t.Errorf("%d questions in 80 seconds", n)
		}
		s.checkPublished()
		// With another history there is nothing to follow any more.
		if err := mem.Rewind(0); err != nil {
			t.Fatal(err)
		}
		foreign(t, mem, put("j", "w"))
		before := r.moves.Load() + r.questions.Load()
		time.Sleep(time.Minute)
		if n := r.moves.Load() + r.questions.Load() - before; n > 150 || !errors.Is(s.Failure(), drivers.ErrDiverged) {
			t.Errorf("%d calls in a minute, failure %v", n, s.Failure())
		}
		s.stop()
	})
}

// TestFollowDoubt: a batch that has landed, of which its author could not find out, is published as soon as the log
// answers: its watchers do not wait for somebody else's request.
func TestFollowDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory.NewStore()
		s := start(t, mem)
		defer s.follow()()
		s.must(put("k", "old"))
		s.log.Inject(memory.OpAppend, memory.Fault{Apply: true, Err: drivers.ErrUncertain})
		for range 3 {
			s.log.Inject(memory.OpReadIndex, memory.Fault{Err: errors.New("no answer")})
		}
		if _, err := s.do(put("k", "new")); !errors.Is(err, drivers.ErrUncertain) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s.Index().End != mem.Bounds().End || s.Index().Rev != 3 {
			t.Errorf("revision %d, the index ends at %v, the log at %v", s.Index().Rev, s.Index().End, mem.Bounds().End)
		}
		s.checkPublished()
		s.stop()
	})
}

// TestOldAnswer: an answer from before own appends is no sign of another history, and is not what is served.
func TestOldAnswer(t *testing.T) {
	for _, n := range []int{1, 5} {
		mem, r := memory.NewStore(), new(rigged)
		s := start(t, mem, rig(r))
		s.must(put("k", "0"))
		r.readIndex = func(ctx context.Context) (drivers.Bounds, error) {
			r.readIndex = nil
			bounds, err := r.Shared.ReadIndex(ctx)
			for i := range n {
				s.must(put("k", fmt.Sprint(i+1)))
			}
			return bounds, err
		}
		ix, err := s.Linearizable(t.Context())
		if err != nil || ix.Rev != int64(n+2) {
			t.Errorf("%v, %v", ix, err)
		}
		if got := s.get("k"); got != fmt.Sprint(n) || s.Failure() != nil {
			t.Errorf("k is %q, failure %v", got, s.Failure())
		}
	}
}

// TestOneOldAnswer: the loop makes sure before it takes a log for another one.
func TestOneOldAnswer(t *testing.T) {
	mem, r := memory.NewStore(), new(rigged)
	s := start(t, mem, rig(r))
	s.must(put("k", "0"))
	old := mem.Bounds()
	s.must(put("k", "1"))
	r.readIndex = func(context.Context) (drivers.Bounds, error) {
		r.readIndex = nil
		return old, nil
	}
	if got := s.get("k"); got != "1" || s.Failure() != nil {
		t.Errorf("k is %q, failure %v", got, s.Failure())
	}
}

// TestForeignWriteIsRead: what was acknowledged by another server before a read is read, by every kind of read that is linearizable.
func TestForeignWriteIsRead(t *testing.T) {
	mem := memory.NewStore()
	a, b := start(t, mem), start(t, mem)
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}}}
	for i := range 50 {
		want := fmt.Sprint(i)
		a.must(put("k", want))
		var got string
		var err error
		switch i % 5 {
		case 0:
			got = b.get("k")
		case 1:
			var resp *pb.TxnResponse
			if resp, err = b.ReadTxn(t.Context(), txn); err == nil {
				got = string(resp.Responses[0].GetResponseRange().Kvs[0].Value)
			}
		case 2:
			err = b.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("k")}, 100, func(resp *pb.RangeResponse) error {
				got = string(resp.Kvs[0].Value)
				return nil
			})
		case 3:
			var sum, other Hash
			if sum, err = b.HashKV(t.Context(), 0); err == nil {
				other, err = a.HashKV(t.Context(), 0)
			}
			if got = want; sum != other {
				t.Errorf("hashes %v and %v", sum, other)
			}
		case 4:
			// A compare that fails says so of now.
			resp := b.must(create("k", "again")).(*pb.TxnResponse)
			got = string(resp.Responses[0].GetResponseRange().Kvs[0].Value)
		}
		if err != nil || got != want {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
	}
	b.checkPublished()
}
