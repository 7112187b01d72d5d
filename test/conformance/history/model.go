package history

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// State is what keys hold at one revision. It is not changed once it is made.
type State map[string]*mvccpb.KeyValue

// Model is the states after each revision, as the events make them. Revision 1 is the empty store.
type Model struct {
	events [][]*mvccpb.Event // by revision
	states []State           // by revision
}

// Last is the last revision.
func (m *Model) Last() int64 { return int64(len(m.states)) - 1 }

// State is what keys hold at a revision from 1 to the last.
func (m *Model) State(rev int64) State { return m.states[rev] }

// Events are the changes of a revision from 1 to the last.
func (m *Model) Events(rev int64) []*mvccpb.Event { return m.events[rev] }

// NewModel replays events, which must be all of the store's, in order.
func NewModel(all []*mvccpb.Event) (*Model, error) {
	m := &Model{events: make([][]*mvccpb.Event, 2), states: []State{nil, {}}}
	for len(all) > 0 {
		rev := m.Last() + 1
		n := 0
		for n < len(all) && all[n].Kv.ModRevision == rev {
			n++
		}
		if n == 0 {
			return nil, fmt.Errorf("revision %d is missing: after it comes %v", rev, all[0])
		}
		next := maps.Clone(m.states[rev-1])
		for _, e := range all[:n] {
			if err := next.apply(e, rev); err != nil {
				return nil, err
			}
		}
		m.events, m.states = append(m.events, all[:n]), append(m.states, next)
		all = all[n:]
	}
	return m, nil
}

// apply changes the state by an event of the server's, after it was found possible.
func (s State) apply(e *mvccpb.Event, rev int64) error {
	before := s[string(e.Kv.Key)]
	if e.PrevKv != nil && !proto.Equal(e.PrevKv, before) {
		return fmt.Errorf("event %v: the value before it was %v", e, before)
	}
	var want *mvccpb.KeyValue
	if e.Type == mvccpb.Event_DELETE {
		if before == nil {
			return fmt.Errorf("event %v: there was no such key", e)
		}
		want = &mvccpb.KeyValue{Key: e.Kv.Key, ModRevision: rev}
		delete(s, string(e.Kv.Key))
	} else {
		want = s.put(&pb.PutRequest{Key: e.Kv.Key, Value: e.Kv.Value, Lease: e.Kv.Lease}, rev)
	}
	if !proto.Equal(want, e.Kv) {
		return fmt.Errorf("event %v: it follows from the state before that it is %v", e, want)
	}
	return nil
}

// put stores a value.
func (s State) put(r *pb.PutRequest, rev int64) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, CreateRevision: rev, ModRevision: rev, Version: 1}
	if before := s[string(r.Key)]; before != nil {
		kv.CreateRevision, kv.Version = before.CreateRevision, before.Version+1
	}
	s[string(r.Key)] = kv
	return kv
}

// in returns what is in a range, in the order of keys.
func (s State) in(key, end []byte) []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, kv := range s {
		if contains(key, end, kv.Key) {
			kvs = append(kvs, kv)
		}
	}
	slices.SortFunc(kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(string(a.Key), string(b.Key)) })
	return kvs
}

// contains knows the forms of a range that the load uses: one key, and up to an end.
func contains(key, end, k []byte) bool {
	if len(end) == 0 {
		return bytes.Equal(key, k)
	}
	return bytes.Compare(key, k) <= 0 && bytes.Compare(k, end) < 0
}

// Outcome is what a request comes to.
type Outcome struct {
	// Response has no headers.
	Response proto.Message
	// Events are its changes, without previous values.
	Events []*mvccpb.Event
	// State is what there is after it.
	State State
}

// Execute executes a request on a state. The revision is that of the changes, if there are any. Reads of
// the past get the states there by past. What leases there are is the caller's business.
func Execute(now State, request proto.Message, rev int64, past func(rev int64) State) Outcome {
	x := &run{past: past, now: maps.Clone(now), rev: rev}
	var response proto.Message
	switch r := request.(type) {
	case *pb.RangeRequest:
		response = x.rangeOp(r)
	case *pb.PutRequest:
		response = x.put(r)
	case *pb.DeleteRangeRequest:
		response = x.del(r)
	case *pb.TxnRequest:
		response = x.txn(r)
	case *pb.LeaseRevokeRequest:
		for _, kv := range now.held(r.ID) {
			x.del(&pb.DeleteRangeRequest{Key: kv.Key})
		}
		response = &pb.LeaseRevokeResponse{}
	case *pb.LeaseGrantRequest:
		response = &pb.LeaseGrantResponse{ID: r.ID, TTL: r.TTL}
	case *pb.CompactionRequest:
		response = &pb.CompactionResponse{}
	default:
		panic(fmt.Sprintf("a request that the model does not know: %T", r))
	}
	return Outcome{Response: response, Events: x.events, State: x.now}
}

// held returns the keys of a lease, in their order.
func (s State) held(lease int64) []*mvccpb.KeyValue {
	return slices.DeleteFunc(s.in([]byte{0}, []byte{0xff}), func(kv *mvccpb.KeyValue) bool { return kv.Lease != lease })
}

// Holds says whether a lease has keys.
func (s State) Holds(lease int64) bool { return len(s.held(lease)) > 0 }

// execute gives the answer to a request on the state at before, without headers, and the events that it makes. A
// request that changes nothing is executed on the state at its header's revision, another one on
// the state before.
func (m *Model) execute(r proto.Message, before, rev int64) (proto.Message, []*mvccpb.Event) {
	o := Execute(m.states[before], r, rev, m.State)
	return o.Response, o.Events
}

// run is the execution of one request.
type run struct {
	past   func(int64) State
	now    State // changed by the request
	rev    int64 // of the changes, if there are any
	events []*mvccpb.Event
}

func (x *run) rangeOp(r *pb.RangeRequest) *pb.RangeResponse {
	s := x.now
	if r.Revision > 0 {
		s = x.past(r.Revision)
	}
	kvs := s.in(r.Key, r.RangeEnd)
	resp := &pb.RangeResponse{Count: int64(len(kvs))}
	if r.CountOnly {
		return resp
	}
	if r.SortTarget == pb.RangeRequest_MOD {
		slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(b.ModRevision, a.ModRevision) })
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More = kvs[:r.Limit], true
	}
	resp.Kvs = kvs
	return resp
}

func (x *run) put(r *pb.PutRequest) *pb.PutResponse {
	resp := &pb.PutResponse{}
	if r.PrevKv {
		resp.PrevKv = x.now[string(r.Key)]
	}
	x.events = append(x.events, &mvccpb.Event{Kv: x.now.put(r, x.rev)})
	return resp
}

func (x *run) del(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	kvs := x.now.in(r.Key, r.RangeEnd)
	resp := &pb.DeleteRangeResponse{Deleted: int64(len(kvs))}
	if r.PrevKv {
		resp.PrevKvs = kvs
	}
	for _, kv := range kvs {
		delete(x.now, string(kv.Key))
		x.events = append(x.events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: x.rev}})
	}
	return resp
}

func (x *run) txn(r *pb.TxnRequest) *pb.TxnResponse {
	ops, succeeded := x.now.Branch(r)
	resp := &pb.TxnResponse{Succeeded: succeeded}
	for _, op := range ops {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: x.rangeOp(r.RequestRange)}})
		case *pb.RequestOp_RequestPut:
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: x.put(r.RequestPut)}})
		case *pb.RequestOp_RequestDeleteRange:
			resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: x.del(r.RequestDeleteRange)}})
		}
	}
	return resp
}

// Branch gives the operations of a transaction that its comparisons choose, and whether they hold.
func (s State) Branch(r *pb.TxnRequest) ([]*pb.RequestOp, bool) {
	if slices.ContainsFunc(r.Compare, func(c *pb.Compare) bool { return !s.holds(c) }) {
		return r.Failure, false
	}
	return r.Success, true
}

// holds evaluates a comparison. A key that is not there compares as zeros, and no value of it compares at all.
func (s State) holds(c *pb.Compare) bool {
	kv := s[string(c.Key)]
	if kv == nil && c.Target == pb.Compare_VALUE {
		return false
	}
	if kv == nil {
		kv = &mvccpb.KeyValue{}
	}
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	default:
		return order < 0
	}
}
