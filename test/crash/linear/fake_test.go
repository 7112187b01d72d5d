package linear

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// fault is something that a server does wrong, now and then, or that may happen to a right one.
type fault int

const (
	none fault = iota
	// These may happen: answers get lost, with the request done, not done, or done later.
	lostAnswers
	// These must be found.
	lostWrite
	doneTwice
	staleRead
	staleReadNewHeader
	staleCompare
	staleRefusal
	revisionReused
	revisionSkipped
	leaseNotFound
	leaseOutlives
	halfTransaction
	refusedAndDone
	lateAcknowledged
	compactionForgotten
	versionWrong
)

// fake is an etcd in memory that answers from several goroutines, and goes wrong on request.
type fake struct {
	grpc.ClientConnInterface
	fault fault

	mu        sync.Mutex
	rng       *rand.Rand
	rev       int64
	states    map[int64]history.State
	leases    map[int64]bool
	compacted int64
	events    []*mvccpb.Event
	later     []proto.Message // to be done although the answer said otherwise
	faults    int
}

func newFake(f fault, seed uint64) *fake {
	return &fake{fault: f, rng: rand.New(rand.NewPCG(seed, 1)), rev: 1, states: map[int64]history.State{1: {}}, leases: map[int64]bool{}}
}

// strikes says whether it is time for the fault that is due.
func (f *fake) strikes(is fault, possible bool) bool {
	rare := 10
	switch is {
	case lostAnswers:
		rare = 15
	case compactionForgotten: // there are few of them
		rare = 1
	}
	if f.fault != is || !possible || f.rev < 20 || f.rng.IntN(rare) > 0 {
		return false
	}
	f.faults++
	return true
}

func (f *fake) Invoke(_ context.Context, _ string, args, reply any, opts ...grpc.CallOption) error {
	for _, o := range opts {
		if p, ok := o.(grpc.PeerCallOption); ok {
			p.PeerAddr.Addr = &net.TCPAddr{}
		}
	}
	f.pause()
	defer f.pause()
	f.mu.Lock()
	defer f.mu.Unlock()
	request := args.(proto.Message)
	if n := len(f.later); n > 0 && f.rng.IntN(4) == 0 {
		_, _ = f.do(f.later[0])
		f.later = f.later[1:]
	}
	if f.strikes(lostAnswers, true) {
		switch f.rng.IntN(3) {
		case 0:
			_, _ = f.do(request)
		case 1:
			f.later = append(f.later, request)
		}
		return rpctypes.ErrGRPCTimeout
	}
	response, err := f.wrong(request)
	if err != nil {
		return err
	}
	proto.Merge(reply.(proto.Message), response)
	return nil
}

// pause lets requests meet.
func (f *fake) pause() { time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond) }

// wrong does a request with the fault.
func (f *fake) wrong(request proto.Message) (proto.Message, error) {
	before := f.rev
	put, isPut := request.(*pb.PutRequest)
	read, isRead := request.(*pb.RangeRequest)
	isRead = isRead && read.Revision == 0 && !read.Serializable
	txn, isTxn := request.(*pb.TxnRequest)
	switch {
	case f.strikes(leaseNotFound, isPut && f.leases[put.Lease]):
		return nil, rpctypes.ErrGRPCLeaseNotFound
	case f.strikes(refusedAndDone, isPut && f.leases[put.Lease]):
		_, _ = f.do(request)
		return nil, rpctypes.ErrGRPCLeaseNotFound
	case f.strikes(lostWrite, isPut && put.Lease == 0):
		return withRevision(history.Execute(f.states[f.rev], request, f.rev+1, nil).Response, f.rev+1), nil
	case f.strikes(lateAcknowledged, isPut && put.Lease == 0):
		f.later = append(f.later, request)
		return withRevision(history.Execute(f.states[f.rev], request, f.rev+1, nil).Response, f.rev+1), nil
	case isRead && f.rev > 30:
		if response := f.staleRead(request); response != nil {
			return response, nil
		}
	case isTxn && len(txn.Compare) > 0 && f.rev > 30:
		if response, err := f.staleTxn(txn); response != nil || err != nil {
			return response, err
		}
	case f.strikes(revisionSkipped, isPut):
		f.states[f.rev+1] = f.states[f.rev]
		f.rev++
	case f.strikes(halfTransaction, isTxn && len(txn.Compare) == 0 && len(txn.Success) > 1):
		response, err := f.do(&pb.TxnRequest{Success: txn.Success[1:]})
		if err == nil {
			whole := history.Execute(f.states[before], txn, f.rev, f.past)
			response = withRevision(whole.Response, f.rev)
		}
		return response, err
	}
	response, err := f.do(request)
	if err != nil {
		return nil, err
	}
	switch {
	case f.strikes(doneTwice, isPut):
		_, _ = f.do(request)
	case f.strikes(revisionReused, isPut && before > 1):
		return withRevision(response, f.rev-1), nil
	case f.fault == versionWrong && isRead && len(response.(*pb.RangeResponse).Kvs) > 0 && f.strikes(versionWrong, true):
		response = proto.Clone(response)
		response.(*pb.RangeResponse).Kvs[0].Version++
	}
	return response, nil
}

// staleRead answers from the past, or not at all.
func (f *fake) staleRead(request proto.Message) proto.Message {
	if rev := f.rev - 12; f.strikes(staleRead, true) {
		return withRevision(history.Execute(f.states[rev], request, rev+1, nil).Response, rev)
	}
	if f.fault != staleReadNewHeader {
		return nil
	}
	stale := history.Execute(f.states[f.rev-3], request, f.rev+1, nil).Response
	if !proto.Equal(stale, history.Execute(f.states[f.rev], request, f.rev+1, nil).Response) && f.strikes(staleReadNewHeader, true) {
		return withRevision(stale, f.rev)
	}
	return nil
}

// staleTxn compares with the past and does what follows from it, or nothing. With staleRefusal nothing is changed.
func (f *fake) staleTxn(txn *pb.TxnRequest) (proto.Message, error) {
	_, is := f.states[f.rev].Branch(txn)
	switch f.fault {
	case staleCompare:
		ops, was := f.states[f.rev-3].Branch(txn)
		if was == is || !f.strikes(staleCompare, true) {
			return nil, nil
		}
		response, err := f.do(&pb.TxnRequest{Success: ops})
		if err == nil {
			response.(*pb.TxnResponse).Succeeded = was
		}
		return response, err
	case staleRefusal:
		o := history.Execute(f.states[f.rev-12], txn, 1, f.past)
		if is && len(o.Events) == 0 && f.strikes(staleRefusal, true) {
			return withRevision(o.Response, f.rev-12), nil
		}
	}
	return nil, nil
}

func (f *fake) past(rev int64) history.State { return f.states[rev] }

// do does a request as etcd would.
func (f *fake) do(request proto.Message) (proto.Message, error) {
	state := f.states[f.rev]
	var ops []*pb.RequestOp
	if r, ok := request.(*pb.TxnRequest); ok {
		ops, _ = state.Branch(r)
		if slices.ContainsFunc(history.LeasesOfBranch(ops), f.missing) {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
	}
	revs := history.PastOfBranch(ops)
	switch r := request.(type) {
	case *pb.RangeRequest:
		revs = append(revs, r.Revision)
	case *pb.LeaseGrantRequest:
		f.leases[r.ID] = true
	case *pb.CompactionRequest:
		if r.Revision <= f.compacted {
			return nil, rpctypes.ErrGRPCCompacted
		}
		if !f.strikes(compactionForgotten, true) {
			f.compacted = r.Revision
		}
	case *pb.PutRequest:
		if f.missing(r.Lease) {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
	case *pb.LeaseRevokeRequest:
		if f.missing(r.ID) {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		if !f.strikes(leaseOutlives, true) {
			delete(f.leases, r.ID)
		}
	}
	if slices.ContainsFunc(revs, func(rev int64) bool { return rev != 0 && rev < f.compacted }) {
		return nil, rpctypes.ErrGRPCCompacted
	}
	o := history.Execute(state, request, f.rev+1, f.past)
	if len(o.Events) > 0 {
		f.rev++
		f.states[f.rev] = o.State
		f.events = append(f.events, o.Events...)
	}
	return withRevision(o.Response, f.rev), nil
}

func (f *fake) missing(lease int64) bool { return lease != 0 && !f.leases[lease] }

func withRevision(response proto.Message, rev int64) proto.Message {
	m := response.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("header"), protoreflectHeader(rev))
	return response
}

// record loads a fake with clients.
func record(t *testing.T, f *fake, seed uint64, requests int) []*history.Op {
	t.Helper()
	recorder := history.NewRecorder()
	load := &history.Load{
		Seed: seed, Clients: 6, Roaming: 3, Requests: requests, Keys: 4, Recorder: recorder, Persistent: true,
		CompactTo: func() int64 {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.rev - 10
		},
	}
	load.Run(t.Context(), []grpc.ClientConnInterface{f, f}, -1, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, request := range f.later {
		_, _ = f.do(request)
	}
	return recorder.Ops()
}
