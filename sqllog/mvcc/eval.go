package mvcc

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// MaxLeaseTTL is the longest time to live in seconds, etcd's.
const MaxLeaseTTL = 9_000_000_000

// Checkpoint is a request of the server's own: it records what is left of the
// TTL of leases, so that their deadlines survive a restart. A Remaining of 0 means the whole TTL. It is passed over in another term than
// Term (see Env.Term).
type Checkpoint struct {
	Leases []Remaining
	Term   uint64
}

// Remaining is the time in seconds that a lease has left. It is passed over unless
// Grant is that of the lease (see Lease.Grant) or 0, and Entry that of the lease (see Lease.Entry) or 0.
type Remaining struct{ ID, Remaining, Grant, Entry int64 }

// Expire is a request of the server's own: it revokes a lease whose time is up. Entry is the newest one
// of the lease that was seen: it is refused if the lease of this id is another one by now, or was renewed since, on whichever server. It is refused
// in another term than Term, too (see Env.Term): where one server leads the others, renewals need no entry, and the leader of a later term may have acknowledged some.
type Expire struct {
	ID, Entry int64
	Term      uint64
}

// Renew is a request of the server's own: it writes down that a lease has its whole TTL again, for all servers to read.
// The response is the TTL in seconds, an int64.
type Renew struct{ ID int64 }

// Barrier is a request of the server's own that changes nothing but the log's
// end: its success proves that the log can be appended to.
type Barrier struct {
	// Room is the number of bytes that there has to be room for.
	Room int
}

// Env is what evaluation may know besides the index and the requests.
type Env struct {
	// Values reads values at positions up to the index's end.
	Values Values
	// MinLeaseTTL is the shortest TTL granted, in seconds.
	MinLeaseTTL int64
	// Term is the term in which this server leads the others, 0 where none does.
	Term uint64
	// Corrupt tells by the alarms of an index whether the data must not be changed here. Default: if any CORRUPT alarm is raised.
	Corrupt func(*Index) bool
}

// Result answers one request: Err, or a response that lacks the values named by Fills.
type Result struct {
	Response any
	Fills    []Fill
	Err      error
}

// Evaluate decides a batch of requests on an index, one after the other, each seeing what the
// earlier ones did, and gives one result for each. What they change
// is in the builder. A request that is refused changes nothing and disturbs no other.
//
// Requests are etcdserverpb's: PutRequest, DeleteRangeRequest, TxnRequest, CompactionRequest,
// LeaseGrantRequest (with its id chosen), LeaseRevokeRequest, AlarmRequest, those of the Auth API that change users (with
// passwords hashed) and roles; and *Checkpoint, *Expire, *Renew, *Barrier and those about members, from *Member to *PublishMember. They must have passed the checks of the API (see package etcdv3) and must not be changed any more.
func Evaluate(ix *Index, env Env, requests []any) (*Builder, []Result) {
	results := make([]Result, len(requests))
	var failed map[int]error
again:
	b := ix.Edit(true)
	for i, r := range requests {
		if err := failed[i]; err != nil {
			results[i] = Result{Err: err}
			continue
		}
		ev, before := evaluator{b: b, env: env, begin: b.ix.Rev}, len(b.entries)
		resp, err := ev.evaluate(r)
		if err != nil && len(b.entries) > before {
			// A value could not be read, say, when changes had been made already: leave
			// this request out and begin again.
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[i] = err
			goto again
		}
		results[i] = Result{Response: resp, Fills: ev.fills, Err: err}
	}
	return b, results
}

// ReadTxn answers a transaction that can change nothing on an index.
func ReadTxn(ix *Index, env Env, r *pb.TxnRequest) Result {
	b := &Builder{ix: *ix}
	ev := evaluator{b: b, env: env, begin: ix.Rev}
	resp, err := ev.txn(r)
	return Result{Response: resp, Fills: ev.fills, Err: err}
}

// evaluator decides one request.
type evaluator struct {
	b     *Builder
	env   Env
	begin int64 // the revision before the request
	sub   int32 // changes made so far
	fills []Fill
}

func (ev *evaluator) evaluate(request any) (any, error) {
	if ev.corrupt() {
		switch request.(type) {
		case *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest, *pb.CompactionRequest,
			*pb.LeaseGrantRequest, *pb.LeaseRevokeRequest, *Expire:
			return nil, ErrCorrupt
		}
	}
	switch r := request.(type) {
	case *pb.PutRequest:
		return ev.putAlone(r)
	case *pb.DeleteRangeRequest:
		return ev.deleteRange(r)
	case *pb.TxnRequest:
		return ev.txn(r)
	case *pb.CompactionRequest:
		return ev.compact(r)
	case *pb.LeaseGrantRequest:
		return ev.grant(r)
	case *pb.LeaseRevokeRequest:
		return ev.revoke(r)
	case *Expire:
		if l := ev.b.ix.Lease(r.ID); l == nil || l.position != r.Entry || r.Term != ev.env.Term {
			return nil, ErrLeaseNotFound
		}
		return ev.revoke(&pb.LeaseRevokeRequest{ID: r.ID})
	case *Renew:
		return ev.renew(r)
	case *pb.AlarmRequest:
		return ev.alarm(r)
	case *Checkpoint:
		return ev.checkpoint(r)
	case *Barrier:
		ev.b.discard(ev.b.emit(KindBarrier, []byte{0}, make([]byte, r.Room)))
		return nil, nil
	}
	return ev.members(request)
}

func (ev *evaluator) corrupt() bool {
	if ev.env.Corrupt != nil {
		return ev.env.Corrupt(&ev.b.ix)
	}
	return ev.b.ix.Alarmed(int32(pb.AlarmType_CORRUPT))
}

func (ev *evaluator) full() bool { return ev.b.ix.Alarmed(int32(pb.AlarmType_NOSPACE)) }

// main is the revision that the request's changes carry.
func (ev *evaluator) main() int64 { return ev.begin + 1 }

func (ev *evaluator) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: ev.b.ix.Rev}
}

// values reads values also of entries that are not in the log yet.
func (ev *evaluator) values(positions []int64) ([][]byte, error) {
	out := make([][]byte, len(positions))
	var logged, index []int64
	for i, pos := range positions {
		if at := pos - ev.b.ix.End.Position - 1; at >= 0 {
			out[i] = ev.b.entries[at].Value
			continue
		}
		logged, index = append(logged, pos), append(index, int64(i))
	}
	if len(logged) == 0 {
		return out, nil
	}
	got, err := ev.env.Values(logged)
	for i, v := range got {
		out[index[i]] = v
	}
	return out, err
}

// fill notes which values are to come, and fills in those that only this batch has.
func (ev *evaluator) fill(fills []Fill) {
	for _, f := range fills {
		if at := f.Position - ev.b.ix.End.Position - 1; at >= 0 {
			f.KV.Value = ev.b.entries[at].Value
			continue
		}
		ev.fills = append(ev.fills, f)
	}
}

// prevKV gives a live version as a response's prev_kv.
func (ev *evaluator) prevKV(key string, v *Version) *mvccpb.KeyValue {
	kv := new(mvccpb.KeyValue)
	fillKeyValue(kv, key, v)
	if v.Size > 0 {
		ev.fill([]Fill{{kv, v.Position}})
	}
	return kv
}

func (ev *evaluator) putAlone(r *pb.PutRequest) (*pb.PutResponse, error) {
	if ev.full() {
		return nil, ErrNoSpace
	}
	if err := ev.checkPut(r); err != nil {
		return nil, err
	}
	return ev.put(r)
}

func (ev *evaluator) checkPut(r *pb.PutRequest) error {
	if r.Lease != 0 && ev.b.ix.Lease(r.Lease) == nil {
		return ErrLeaseNotFound
	}
	if (r.IgnoreValue || r.IgnoreLease) && ev.b.ix.Get(string(r.Key), ev.b.ix.Rev) == nil {
		return ErrKeyNotFound
	}
	return nil
}

// put does a put that has been checked.
func (ev *evaluator) put(r *pb.PutRequest) (*pb.PutResponse, error) {
	key := string(r.Key)
	prev := ev.b.ix.Get(key, ev.b.ix.Rev)
	value, lease := r.Value, r.Lease
	if r.IgnoreLease {
		lease = prev.Lease
	}
	if r.IgnoreValue {
		got, err := ev.values([]int64{prev.Position})
		if err != nil {
			return nil, err
		}
		value = got[0]
	}
	resp := &pb.PutResponse{}
	if r.PrevKv && prev != nil {
		resp.PrevKv = ev.prevKV(key, prev)
	}
	v := Version{Main: ev.main(), Sub: ev.sub, Size: int32(len(value)), Create: ev.main(), Count: 1, Lease: lease}
	if prev != nil {
		v.Create, v.Count = prev.Create, prev.Count+1
	}
	v.Position = ev.b.emit(KindPut, appendPut(make([]byte, 0, len(key)+24), key, &v), value)
	ev.b.applyPut(key, v, value)
	ev.sub++
	resp.Header = ev.header()
	return resp, nil
}

func (ev *evaluator) deleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp := &pb.DeleteRangeResponse{}
	var keys []string
	for k, v := range ev.b.ix.Scan(NewRange(r.Key, r.RangeEnd), ev.b.ix.Rev) {
		keys = append(keys, k)
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, ev.prevKV(k, v))
		}
	}
	ev.deleteKeys(keys)
	resp.Deleted = int64(len(keys))
	resp.Header = ev.header()
	return resp, nil
}

// deleteKeys deletes live keys, given in ascending order.
func (ev *evaluator) deleteKeys(keys []string) {
	for len(keys) > 0 {
		meta, n := appendDelete(nil, ev.main(), ev.sub, keys)
		pos := ev.b.emit(KindDelete, meta, nil)
		for _, k := range keys[:n] {
			ev.b.applyDelete(k, Version{Main: ev.main(), Sub: ev.sub, Position: pos})
			ev.sub++
		}
		keys = keys[n:]
	}
}

func (ev *evaluator) compact(r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	switch {
	case r.Revision <= ev.b.ix.Compact:
		return nil, ErrCompacted
	case r.Revision > ev.b.ix.Rev:
		return nil, ErrFutureRev
	}
	pos := ev.b.emit(KindCompaction, appendInts(nil, r.Revision), nil)
	ev.b.applyCompaction(r.Revision, pos)
	return &pb.CompactionResponse{Header: ev.header()}, nil
}

func (ev *evaluator) grant(r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	switch {
	case ev.full():
		return nil, ErrNoSpace
	case r.ID == 0:
		return nil, ErrLeaseNotFound
	case r.TTL > MaxLeaseTTL:
		return nil, ErrLeaseTTLTooLong
	case ev.b.ix.Lease(r.ID) != nil:
		return nil, ErrLeaseExists
	}
	l := Lease{ID: r.ID, TTL: max(r.TTL, ev.env.MinLeaseTTL)}
	ev.writeLease(l)
	return &pb.LeaseGrantResponse{Header: ev.header(), ID: l.ID, TTL: l.TTL}, nil
}

func (ev *evaluator) writeLease(l Lease) {
	l.position = ev.b.emit(KindLease, appendInts(nil, l.ID, l.TTL, l.Remaining), nil)
	ev.b.applyLease(l)
}

func (ev *evaluator) revoke(r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	l := ev.b.ix.Lease(r.ID)
	if l == nil {
		return nil, ErrLeaseNotFound
	}
	keys := make([]string, 0, l.KeyCount())
	for k := range l.Keys() {
		keys = append(keys, k)
	}
	ev.deleteKeys(keys)
	pos := ev.b.emit(KindLeaseRevoked, appendInts(nil, r.ID), nil)
	ev.b.applyRevoked(r.ID, pos)
	return &pb.LeaseRevokeResponse{Header: ev.header()}, nil
}

func (ev *evaluator) renew(r *Renew) (int64, error) {
	l := ev.b.ix.Lease(r.ID)
	if l == nil {
		return 0, ErrLeaseNotFound
	}
	ev.writeLease(Lease{ID: l.ID, TTL: l.TTL})
	return l.TTL, nil
}

func (ev *evaluator) checkpoint(r *Checkpoint) (any, error) {
	if r.Term != ev.env.Term {
		return nil, nil
	}
	for _, c := range r.Leases {
		if l := ev.b.ix.Lease(c.ID); l != nil && l.Remaining != c.Remaining && (c.Grant == 0 || c.Grant == l.Grant) && (c.Entry == 0 || c.Entry == l.position) {
			ev.writeLease(Lease{ID: c.ID, TTL: l.TTL, Remaining: c.Remaining})
		}
	}
	return nil, nil
}

func (ev *evaluator) alarm(r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	resp := &pb.AlarmResponse{}
	member := func(a Alarm) *pb.AlarmMember {
		return &pb.AlarmMember{MemberID: a.Member, Alarm: pb.AlarmType(a.Type)}
	}
	a := Alarm{Member: r.MemberID, Type: int32(r.Alarm)}
	raised := false
	for _, old := range ev.b.ix.alarms {
		raised = raised || old.Member == a.Member && old.Type == a.Type
	}
	switch r.Action {
	case pb.AlarmRequest_GET:
		for _, old := range ev.b.ix.alarms {
			if r.Alarm == pb.AlarmType_NONE || int32(r.Alarm) == old.Type {
				resp.Alarms = append(resp.Alarms, member(old))
			}
		}
	case pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE:
		if r.Alarm == pb.AlarmType_NONE {
			break
		}
		on := r.Action == pb.AlarmRequest_ACTIVATE
		if on || raised {
			resp.Alarms = append(resp.Alarms, member(a))
		}
		if on != raised {
			a.position = ev.b.emit(KindAlarm, appendInts(nil, int64(a.Member), int64(a.Type), flag(on)), nil)
			ev.b.applyAlarm(a, on)
		}
	}
	resp.Header = ev.header()
	return resp, nil
}

func flag(on bool) int64 {
	if on {
		return 1
	}
	return 0
}

// compareVersion judges one version by a Compare. As in etcd, a target that is unknown compares equal and a result that is unknown holds.
func compareVersion(c *pb.Compare, v *Version, value []byte) bool {
	var result int
	switch c.Target {
	case pb.Compare_VALUE:
		result = bytes.Compare(value, c.GetValue())
	case pb.Compare_CREATE:
		result = cmp.Compare(v.Create, c.GetCreateRevision())
	case pb.Compare_MOD:
		result = cmp.Compare(v.Main, c.GetModRevision())
	case pb.Compare_VERSION:
		result = cmp.Compare(v.Count, c.GetVersion())
	case pb.Compare_LEASE:
		result = cmp.Compare(v.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return result == 0
	case pb.Compare_NOT_EQUAL:
		return result != 0
	case pb.Compare_GREATER:
		return result > 0
	case pb.Compare_LESS:
		return result < 0
	}
	return true
}
