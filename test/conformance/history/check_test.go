package history

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// fake is a server that is the model itself.
type fake struct {
	grpc.ClientConnInterface

	mu     sync.Mutex
	rng    *rand.Rand
	model  *Model
	leases map[int64]bool
}

// travel is a message's way, so that requests overlap.
func (f *fake) travel() {
	f.mu.Lock()
	takes := time.Duration(f.rng.Int64N(int64(time.Millisecond)))
	f.mu.Unlock()
	time.Sleep(takes)
}

func (f *fake) Invoke(_ context.Context, _ string, args, reply any, _ ...grpc.CallOption) error {
	f.travel()
	defer f.travel()
	f.mu.Lock()
	defer f.mu.Unlock()
	m, request := f.model, args.(proto.Message)
	switch r := request.(type) {
	case *pb.LeaseGrantRequest:
		f.leases[r.ID] = true
	case *pb.PutRequest:
		if r.Lease != 0 && !f.leases[r.Lease] {
			return rpctypes.ErrGRPCLeaseNotFound
		}
	case *pb.TxnRequest:
		ops, _ := m.State(m.Last()).Branch(r)
		for _, id := range LeasesOfBranch(ops) {
			if id != 0 && !f.leases[id] {
				return rpctypes.ErrGRPCLeaseNotFound
			}
		}
	case *pb.LeaseRevokeRequest:
		if !f.leases[r.ID] {
			return rpctypes.ErrGRPCLeaseNotFound
		}
		delete(f.leases, r.ID)
	}
	rev := m.Last()
	response, events := m.execute(request, rev, rev+1)
	if len(events) > 0 {
		rev++
		next := cloneState(m.states[rev-1])
		for _, e := range events {
			if e.Type == mvccpb.Event_DELETE {
				delete(next, string(e.Kv.Key))
			} else {
				next[string(e.Kv.Key)] = e.Kv
			}
		}
		m.states, m.events = append(m.states, next), append(m.events, events)
	}
	proto.Merge(reply.(proto.Message), response)
	reply.(proto.Message).ProtoReflect().Set(headerField(reply.(proto.Message)), headerValue(rev))
	return nil
}

// recorded is a history of the fake, and what can be spoiled in it.
type recorded struct {
	t     *testing.T
	ops   []*Op
	views []*View
	model *Model
}

// record makes a history, the same each time: here, how clients meet is a function of the seed too.
func record(t *testing.T) *recorded {
	const seed = 1
	f := &fake{rng: rand.New(rand.NewPCG(seed, 0)), model: &Model{events: make([][]*mvccpb.Event, 2), states: []State{nil, {}}}, leases: map[int64]bool{}}
	r := &recorded{t: t, model: f.model}
	synctest.Test(t, func(t *testing.T) {
		l := &Load{Seed: seed, Clients: 6, Requests: 150, Keys: 5, Pause: time.Millisecond, Recorder: NewRecorder()}
		l.Run(t.Context(), []grpc.ClientConnInterface{f}, -1, nil)
		r.ops = l.Recorder.Ops()
	})
	for _, v := range []*View{NewView("all", []byte("k"), []byte("l")), NewView("k1", []byte("k1"), nil)} {
		for rev := int64(2); rev <= f.model.Last(); rev++ {
			var events []*mvccpb.Event
			for _, e := range f.model.events[rev] {
				if contains(v.Key, v.RangeEnd, e.Kv.Key) {
					events = append(events, &mvccpb.Event{Type: e.Type, Kv: proto.CloneOf(e.Kv), PrevKv: proto.CloneOf(f.model.states[rev-1][string(e.Kv.Key)])})
				}
			}
			v.responses = append(v.responses, seen{rev, events}) // without events: progress
		}
		r.views = append(r.views, v)
	}
	return r
}

// find returns the first request late in the history for which is holds.
func (r *recorded) find(is func(*Op) bool) *Op {
	ops := slices.Clone(r.ops)
	slices.SortFunc(ops, func(a, b *Op) int { return int(a.Begin - b.Begin) })
	for _, op := range ops[len(ops)/2:] {
		if op.Response != nil && is(op) {
			return op
		}
	}
	r.t.Fatal("there is no such request")
	return nil
}

func isPut(op *Op) bool { _, ok := op.Response.(*pb.PutResponse); return ok }

func isRead(op *Op) bool {
	r, ok := op.Response.(*pb.RangeResponse)
	q, _ := op.Request.(*pb.RangeRequest)
	return ok && len(r.Kvs) > 0 && !q.Serializable && q.Revision == 0
}

// response returns the first response late in what a view saw that has so many events.
func (r *recorded) response(view, events int) *seen {
	all := r.views[view].responses
	for i := len(all) / 2; i < len(all); i++ {
		if len(all[i].events) == events {
			return &all[i]
		}
	}
	r.t.Fatal("there is no such response")
	return nil
}

// spoilers are the faults to be found.
func spoilers() map[string]func(*recorded) {
	return map[string]func(*recorded){
		"a value of nobody": func(r *recorded) {
			r.find(isRead).Response.(*pb.RangeResponse).Kvs[0].Value = []byte("?")
		},
		"a count": func(r *recorded) { r.find(isRead).Response.(*pb.RangeResponse).Count++ },
		"a read of the past": func(r *recorded) {
			op := r.find(isRead)
			old, _ := r.model.execute(op.Request, 2, 3)
			op.Response = old
			op.Response.(*pb.RangeResponse).Header = &pb.ResponseHeader{Revision: 2}
		},
		"a revision of the future": func(r *recorded) { r.find(isRead).header().Revision = r.model.Last() + 1 },
		"a revision twice":         func(r *recorded) { r.find(isPut).header().Revision++ },
		"a transaction's branch": func(r *recorded) {
			op := r.find(func(op *Op) bool { x, ok := op.Response.(*pb.TxnResponse); return ok && !x.Succeeded })
			op.Response.(*pb.TxnResponse).Succeeded = true
		},
		"a deletion that says there was nothing": func(r *recorded) {
			op := r.find(func(op *Op) bool { x, ok := op.Response.(*pb.DeleteRangeResponse); return ok && x.Deleted > 0 })
			op.Response.(*pb.DeleteRangeResponse).Deleted = 0
		},
		"a previous value": func(r *recorded) {
			op := r.find(func(op *Op) bool { x, ok := op.Response.(*pb.PutResponse); return ok && x.PrevKv != nil })
			op.Response.(*pb.PutResponse).PrevKv.Version++
		},
		"a change that nobody asked for": func(r *recorded) {
			op := r.find(isPut)
			r.ops = slices.DeleteFunc(r.ops, func(o *Op) bool { return o == op })
		},
		"a refused change that was made": func(r *recorded) {
			op := r.find(isPut)
			op.Response, op.Err = nil, rpctypes.ErrGRPCLeaseNotFound
		},
		"a change without an answer before it was asked for": func(r *recorded) {
			op := r.find(isPut)
			op.Response, op.Unknown = nil, true
			op.Begin, op.End = op.End*4, op.End*5
		},
		"a change without an answer after it was too late": func(r *recorded) {
			op := r.find(isPut)
			op.Response, op.Unknown = nil, true
			op.Begin, op.End = 0, 1
		},
		"an error without a reason": func(r *recorded) {
			op := r.find(isRead)
			op.Response, op.Err = nil, rpctypes.ErrGRPCLeaseNotFound
		},
		"a lease that nobody revoked": func(r *recorded) {
			op := r.find(func(op *Op) bool { _, ok := op.Response.(*pb.LeaseRevokeResponse); return ok && r.frees(op) })
			r.ops = slices.DeleteFunc(r.ops, func(o *Op) bool { return o == op })
		},
		"an event is missing": func(r *recorded) { s := r.response(1, 1); s.events = nil },
		"an event of a watcher of all is missing": func(r *recorded) {
			s := r.response(0, 1)
			s.events = nil
		},
		"an event twice": func(r *recorded) { s := r.response(1, 1); s.events = append(s.events, s.events[0]) },
		"events in another order": func(r *recorded) {
			s := r.response(0, 2)
			slices.Reverse(s.events)
		},
		"half a revision": func(r *recorded) {
			v := r.views[0]
			at := slices.IndexFunc(v.responses, func(s seen) bool { return len(s.events) == 2 })
			s := v.responses[at]
			v.responses[at].events = s.events[:1]
			v.responses = slices.Insert(v.responses, at+1, seen{s.rev, s.events[1:]})
		},
		"progress ahead of an event": func(r *recorded) {
			v := r.views[1]
			at := slices.IndexFunc(v.responses, func(s seen) bool { return len(s.events) == 1 })
			v.responses = slices.Insert(v.responses, at, seen{rev: v.responses[at].rev})
		},
		"a header behind its events":    func(r *recorded) { r.response(1, 1).rev-- },
		"a previous value of an event":  func(r *recorded) { r.response(1, 1).events[0].PrevKv = &mvccpb.KeyValue{} },
		"a version of an event":         func(r *recorded) { r.response(0, 1).events[0].Kv.Version++ },
		"a watcher that stopped seeing": func(r *recorded) { r.views[1].responses = r.views[1].responses[:10] },
		"a revision that is skipped": func(r *recorded) {
			for _, s := range r.views[0].responses[100:] {
				for _, e := range s.events {
					e.Kv.ModRevision++
				}
			}
		},
	}
}

// frees says whether a revocation deleted keys, and not somebody who was just before it.
func (r *recorded) frees(op *Op) bool {
	rev := op.header().Revision
	_, events := r.model.execute(op.Request, rev-1, rev)
	return len(events) > 0 && !slices.ContainsFunc(r.ops, func(o *Op) bool { return Changed(o.Response) && o.header().Revision == rev })
}

// TestRealTime proves that a look back is found, unless it was asked to be possible.
func TestRealTime(t *testing.T) {
	put := func(value string, rev int64, begin, end time.Duration) *Op {
		return &Op{
			Request:  &pb.PutRequest{Key: []byte("k"), Value: []byte(value)},
			Response: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: rev}}, Begin: begin, End: end,
		}
	}
	kv := func(value string, rev int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte("k"), Value: []byte(value), CreateRevision: 2, ModRevision: rev, Version: rev - 1}
	}
	all := NewView("all", []byte("k"), nil)
	all.PrevKV = false
	all.responses = []seen{{2, []*mvccpb.Event{{Kv: kv("a", 2)}}}, {3, []*mvccpb.Event{{Kv: kv("b", 3)}}}}
	read := func(begin, end time.Duration, serializable bool) *Op {
		return &Op{
			Request:  &pb.RangeRequest{Key: []byte("k"), Serializable: serializable},
			Response: &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 2}, Kvs: []*mvccpb.KeyValue{kv("a", 2)}, Count: 1}, Begin: begin, End: end,
		}
	}
	tests := []struct {
		name string
		ops  []*Op
		ok   bool
	}{
		{"a read beside a write", []*Op{put("a", 2, 1, 2), put("b", 3, 3, 5), read(4, 6, false)}, true},
		{"a read behind a write", []*Op{put("a", 2, 1, 2), put("b", 3, 3, 5), read(6, 7, false)}, false},
		{"a serializable read behind a write", []*Op{put("a", 2, 1, 2), put("b", 3, 3, 5), read(6, 7, true)}, true},
		{"writes in the wrong order", []*Op{put("b", 3, 1, 2), put("a", 2, 3, 4)}, false},
		{"a read before the write that it saw", []*Op{read(1, 2, false), put("a", 2, 3, 4), put("b", 3, 5, 6)}, false},
	}
	for _, test := range tests {
		err := Check(test.ops, []*View{all})
		if (err == nil) != test.ok || err != nil && !strings.Contains(err.Error(), "was known") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestCheck proves that a right history passes, also if some answers are lost, and that each fault is found.
func TestCheck(t *testing.T) {
	r := record(t)
	if err := Check(r.ops, r.views); err != nil {
		t.Fatal(err)
	}
	for i, op := range r.ops {
		if i%7 == 0 && op.Err == nil {
			op.Response, op.Unknown = nil, true
		}
	}
	if err := Check(r.ops, r.views); err != nil {
		t.Errorf("with lost answers: %v", err)
	}
	for name, spoil := range spoilers() {
		t.Run(name, func(t *testing.T) {
			r := record(t)
			spoil(r)
			err := Check(r.ops, r.views)
			if err == nil {
				t.Fatal("nothing was found")
			}
			t.Log(strings.SplitN(err.Error(), "\n", 2)[0])
		})
	}
}
