package sqllog

import (
	"context"
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// taken is a snapshot.
type taken struct {
	state   *mvcc.Index
	rows    int
	started int
	live    map[string]string // at the end
	err     error
}

// take takes a snapshot and checks that its rows come in order, without a gap after the compact revision.
func (s *server) take() (got taken) {
	s.t.Helper()
	var revs []int64
	got.state, got.err = s.Snapshot(context.Background(), func() (func(*mvcc.Row) error, error) {
		got.started, got.rows, got.live, revs = got.started+1, 0, map[string]string{}, nil
		return func(r *mvcc.Row) error {
			got.rows++
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(r.KeyValue, &kv); err != nil {
				return err
			}
			if got.live[string(kv.Key)] = string(kv.Value); r.Tombstone {
				delete(got.live, string(kv.Key))
			}
			if n := len(revs); n == 0 || revs[n-1] != r.Main {
				revs = append(revs, r.Main)
			}
			return nil
		}, nil
	})
	if got.err != nil {
		return got
	}
	next := max(got.state.Compact, 1) + 1
	for i, rev := range revs {
		if i > 0 && rev <= revs[i-1] {
			s.t.Errorf("revision %d comes after %d", rev, revs[i-1])
		}
		if rev < next {
			continue
		}
		if rev != next {
			s.t.Errorf("revision %d is missing before %d", next, rev)
		}
		next = rev + 1
	}
	if next != got.state.Rev+1 {
		s.t.Errorf("the rows end before %d, and the state at %d", next, got.state.Rev)
	}
	return got
}

// TestSnapshot: what a snapshot has is of one moment, whatever is written, compacted and scrubbed meanwhile.
func TestSnapshot(t *testing.T) { bothWays(t, testSnapshot) }

func testSnapshot(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	if got := s.take(); got.err != nil || got.rows != 0 || got.state.Rev != 1 {
		t.Fatalf("of an empty store: %+v", got)
	}
	step := func(i int) {
		// Three keys say the same at every revision, and one comes and goes.
		var ops []*pb.RequestOp
		for k := range 3 {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fmt.Append(nil, "k", k), Value: fmt.Append(nil, i)}}})
		}
		if i%2 == 0 {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("even"), Value: fmt.Append(nil, i)}}})
		} else {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("even")}}})
		}
		s.must(&pb.TxnRequest{Success: ops})
	}
	for i := range 100 {
		step(i)
	}
	s.must(&pb.LeaseGrantRequest{ID: 5, TTL: 100})
	stop, stopped := make(chan struct{}), make(chan struct{})
	running := make(chan struct{}, 1)
	go func() {
		defer close(stopped)
		for i := 100; ; i++ {
			step(i)
			if i%10 == 0 {
				if _, err := s.do(&pb.CompactionRequest{Revision: s.Index().Rev - 5}); err != nil {
					t.Error(err)
				}
				if _, err := s.Prune(context.Background(), func(context.Context) error { return nil }); err != nil {
					t.Error(err)
				}
			}
			select {
			case running <- struct{}{}:
			default:
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 50 {
		<-running
		got := s.take()
		if got.err != nil {
			t.Fatal(got.err)
		}
		k0 := got.live["k0"]
		even, there := got.live["even"]
		var i int
		_, _ = fmt.Sscan(k0, &i)
		if got.live["k1"] != k0 || got.live["k2"] != k0 || there != (i%2 == 0) || there && even != k0 || got.state.Rev != int64(i)+2 {
			t.Errorf("at revision %d there is %v", got.state.Rev, got.live)
		}
		if l := got.state.Lease(5); l == nil || l.TTL != 100 {
			t.Errorf("the lease is %+v", l)
		}
	}
	close(stop)
	<-stopped
}

// TestSnapshotBeginsAnew: a compaction of what a snapshot still has to read, before that is known to be so, has it begin again.
func TestSnapshotBeginsAnew(t *testing.T) {
	s := start(t, memory.NewStore())
	for range 10 {
		s.must(&pb.PutRequest{Key: []byte("k")})
	}
	// The log is read as it was before the compaction, and the index after it.
	s.log.Inject(memory.OpReadIndex, memory.Fault{Before: func() {
		for range 10 {
			s.must(&pb.PutRequest{Key: []byte("k")})
		}
		s.must(&pb.CompactionRequest{Revision: 15})
	}})
	if got := s.take(); got.err != nil || got.started != 2 || got.state.Compact != 15 || got.state.Rev != 21 {
		t.Errorf("%d begun, the last of [%d, %d]: %v", got.started, got.state.Compact, got.state.Rev, got.err)
	}
}

// TestSnapshotFails: errors come through, of the log and of who takes the rows.
func TestSnapshotFails(t *testing.T) { bothWays(t, testSnapshotFails) }

func testSnapshotFails(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	s.must(&pb.PutRequest{Key: []byte("k")})
	broken := errors.New("broken")
	none := func(*mvcc.Row) error { return broken }
	if _, err := s.Snapshot(t.Context(), func() (func(*mvcc.Row) error, error) { return none, nil }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := s.Snapshot(t.Context(), func() (func(*mvcc.Row) error, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	s.log.Inject(memory.OpScan, memory.Fault{Err: drivers.ErrCorrupt})
	if got := s.take(); !errors.Is(got.err, ErrStorage) || !errors.Is(got.err, drivers.ErrCorrupt) {
		t.Error(got.err)
	}
	for range snapshotAttempts {
		s.log.Inject(memory.OpScan, memory.Fault{Err: drivers.ErrEpoch})
	}
	if _, shared := s.Store.log.(drivers.Shared); shared {
		if got := s.take(); !errors.Is(got.err, ErrStorage) || got.started != snapshotAttempts {
			t.Error(got.err, got.started)
		}
	}
}
