package history

import (
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// story is a small history made by hand: requests that are answered by the model one after the other.
type story struct {
	ops   []*Op
	view  *View
	state State
	rev   int64
	past  map[int64]State
}

func newStory() *story {
	s := &story{view: NewView("all", []byte("k"), []byte("l")), state: State{}, rev: 1, past: map[int64]State{1: {}}}
	s.view.PrevKV = false
	return s
}

// do executes a request, and records it as answered.
func (s *story) do(request proto.Message) *Op {
	o := Execute(s.state, request, s.rev+1, func(rev int64) State { return s.past[rev] })
	if s.state = o.State; len(o.Events) > 0 {
		s.rev++
		s.view.responses = append(s.view.responses, seen{s.rev, o.Events})
	}
	s.past[s.rev] = s.state
	o.Response.ProtoReflect().Set(headerField(o.Response), headerValue(s.rev))
	op := &Op{Request: request, Response: o.Response, Begin: time.Duration(2 * len(s.ops)), End: time.Duration(2*len(s.ops) + 1)}
	s.ops = append(s.ops, op)
	return op
}

// lose makes an answer one that never came.
func lose(ops ...*Op) {
	for _, op := range ops {
		op.Response, op.Err, op.Unknown, op.End = nil, rpctypes.ErrGRPCTimeout, true, time.Hour
	}
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

// TestMakers has deletions without an answer that could have made several revisions.
func TestMakers(t *testing.T) {
	s := newStory()
	s.do(put("k1", "a"))
	wide := &pb.DeleteRangeRequest{Key: []byte("k1"), RangeEnd: []byte("k3")}
	narrow := s.do(&pb.DeleteRangeRequest{Key: []byte("k1")})
	s.do(put("k1", "b"))
	s.do(put("k2", "c"))
	second := s.do(wide)
	lose(narrow, second)
	// The wide one comes first, so whoever takes the first that fits takes the wrong one.
	narrow.Begin, second.Begin = 1, 0
	s.ops[1], s.ops[4] = second, narrow
	if err := Check(s.ops, []*View{s.view}); err != nil {
		t.Error(err)
	}
	s.ops = s.ops[:4]
	if err := Check(s.ops, []*View{s.view}); err == nil || !strings.Contains(err.Error(), "nobody asked for") {
		t.Errorf("with one deletion for two revisions: %v", err)
	}
}

// TestRefusals has refusals with and without a reason.
func TestRefusals(t *testing.T) {
	past := &pb.RangeRequest{Key: []byte("k1"), Revision: 2}
	future := &pb.RangeRequest{Key: []byte("k1"), Revision: 9}
	leased := put("k1", "x")
	leased.Lease = 7
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: leased}}}}
	for _, test := range []struct {
		name   string
		before []proto.Message
		lost   int // of them, how many had no answer
		asked  proto.Message
		err    error
		ok     bool
	}{
		{"compacted", []proto.Message{&pb.CompactionRequest{Revision: 3}}, 0, past, rpctypes.ErrGRPCCompacted, true},
		{"perhaps compacted", []proto.Message{&pb.CompactionRequest{Revision: 3}}, 1, past, rpctypes.ErrGRPCCompacted, true},
		{"compacted before it", []proto.Message{&pb.CompactionRequest{Revision: 2}}, 0, past, rpctypes.ErrGRPCCompacted, false},
		{"compacted twice", []proto.Message{&pb.CompactionRequest{Revision: 3}}, 0, &pb.CompactionRequest{Revision: 3}, rpctypes.ErrGRPCCompacted, true},
		{"compacted once", nil, 0, &pb.CompactionRequest{Revision: 3}, rpctypes.ErrGRPCCompacted, false},
		{"future", nil, 0, future, rpctypes.ErrGRPCFutureRev, false},
		{"future of a server behind", nil, 0, &pb.RangeRequest{Key: []byte("k1"), Revision: 3, Serializable: true}, rpctypes.ErrGRPCFutureRev, true},
		{"granted", []proto.Message{&pb.LeaseGrantRequest{ID: 7}}, 0, leased, rpctypes.ErrGRPCLeaseNotFound, false},
		{"perhaps granted", []proto.Message{&pb.LeaseGrantRequest{ID: 7}}, 1, txn, rpctypes.ErrGRPCLeaseNotFound, true},
		{"revoked", []proto.Message{&pb.LeaseGrantRequest{ID: 7}, &pb.LeaseRevokeRequest{ID: 7}}, 0, txn, rpctypes.ErrGRPCLeaseNotFound, true},
		{"another error", nil, 0, leased, rpctypes.ErrGRPCNoSpace, false},
	} {
		s := newStory()
		s.do(put("k1", "a"))
		s.do(put("k1", "b"))
		for i, request := range test.before {
			if op := s.do(request); i < test.lost {
				lose(op)
			}
		}
		s.ops = append(s.ops, &Op{Request: test.asked, Err: test.err, Begin: 100, End: 101})
		if err := Check(s.ops, []*View{s.view}); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestViewFrom has a watcher that begins late.
func TestViewFrom(t *testing.T) {
	s := newStory()
	for _, value := range []string{"a", "b", "c", "d"} {
		s.do(put("k1", value))
	}
	for _, test := range []struct {
		skip int
		ok   bool
	}{{1, false}, {2, true}, {3, false}} {
		late := NewViewFrom("late", []byte("k"), []byte("l"), 4)
		late.responses = s.view.responses[test.skip:]
		late.PrevKV = false
		if err := Check(s.ops, []*View{s.view, late}); (err == nil) != test.ok {
			t.Errorf("from the response %d on: %v", test.skip, err)
		}
	}
	if got := s.view.Events(); len(got) != 4 || got[0].Type != mvccpb.Event_PUT {
		t.Errorf("events: %v", got)
	}
}
