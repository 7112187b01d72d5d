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

// state is what keys hold at one revision. It is not changed once it is made.
type state map[string]*mvccpb.KeyValue

// model is the states after each revision, as the events make them. Revision 1 is the empty store.
type model struct {
	events [][]*mvccpb.Event // by revision
	states []state           // by revision
}

func (m *model) last() int64 { return int64(len(m.states)) - 1 }

// newModel replays events, which must be all of the store's, in order.
func newModel(all []*mvccpb.Event) (*model, error) {
	m := &model{events: make([][]*mvccpb.Event, 2), states: []state{nil, {}}}
	for len(all) > 0 {
		rev := m.last() + 1
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
func (s state) apply(e *mvccpb.Event, rev int64) error {
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
func (s state) put(r *pb.PutRequest, rev int64) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, CreateRevision: rev, ModRevision: rev, Version: 1}
	if before := s[string(r.Key)]; before != nil {
		kv.CreateRevision, kv.Version = before.CreateRevision, before.Version+1
	}
	s[string(r.Key)] = kv
	return kv
}

// in returns what is in a range, in the order of keys.
func (s state) in(key, end []byte) []*mvccpb.KeyValue {
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

// run is the execution of one request by the model.
type run struct {
	model  *model
	now    state // changed by the request
	rev    int64 // of the changes, if there are any
	events []*mvccpb.Event
}

// execute gives the answer to a request on a state, without headers, and the events that it makes. A
// request that changes nothing is executed on the state at its header's revision, another one on
// the state before.
func (m *model) execute(r proto.Message, before, rev int64) (proto.Message, []*mvccpb.Event) {
	x := &run{model: m, now: maps.Clone(m.states[before]), rev: rev}
	switch r := r.(type) {
	case *pb.RangeRequest:
		return x.rangeOp(r), nil
	case *pb.PutRequest:
		resp := x.put(r)
		return resp, x.events
	case *pb.DeleteRangeRequest:
		resp := x.del(r)
		return resp, x.events
	case *pb.TxnRequest:
		resp := x.txn(r)
		return resp, x.events
	case *pb.LeaseRevokeRequest:
		for _, kv := range x.now.in([]byte{0}, []byte{0xff}) {
			if kv.Lease == r.ID {
				x.del(&pb.DeleteRangeRequest{Key: kv.Key})
			}
		}
		return &pb.LeaseRevokeResponse{}, x.events
	case *pb.LeaseGrantRequest:
		return &pb.LeaseGrantResponse{ID: r.ID, TTL: r.TTL}, nil
	}
	panic(fmt.Sprintf("a request that the model does not know: %T", r))
}

func (x *run) rangeOp(r *pb.RangeRequest) *pb.RangeResponse {
	s := x.now
	if r.Revision > 0 {
		s = x.model.states[r.Revision]
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
	resp := &pb.TxnResponse{Succeeded: true}
	for _, c := range r.Compare {
		resp.Succeeded = resp.Succeeded && x.holds(c)
	}
	ops := r.Success
	if !resp.Succeeded {
		ops = r.Failure
	}
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

// holds evaluates a comparison. A key that is not there compares as zeros, and no value of it compares at all.
func (x *run) holds(c *pb.Compare) bool {
	kv := x.now[string(c.Key)]
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
