package linear

import (
	"errors"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// telling writes histories down: each request begins at the moment that its place says, and ends so much later.
type telling struct {
	ops    []*history.Op
	events []*mvccpb.Event
	takes  time.Duration
}

func (s *telling) add(op *history.Op) *telling {
	op.Begin = time.Duration(10 * len(s.ops))
	op.End = op.Begin + max(1, s.takes)
	s.ops, s.takes = append(s.ops, op), 0
	return s
}

// long makes the next request last while so many others follow.
func (s *telling) long(others int) *telling {
	s.takes = time.Duration(10*others + 5)
	return s
}

func (s *telling) ok(request, response proto.Message, rev int64) *telling {
	return s.add(&history.Op{Request: request, Response: withRevision(proto.Clone(response), rev)})
}

func (s *telling) refused(request proto.Message, err error) *telling {
	return s.add(&history.Op{Request: request, Err: err})
}

func (s *telling) lost(request proto.Message) *telling {
	return s.add(&history.Op{Request: request, Err: rpctypes.ErrGRPCTimeout, Unknown: true})
}

func (s *telling) shown(events ...*mvccpb.Event) *telling {
	s.events = append(s.events, events...)
	return s
}

func put(key, value string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}
}

func set(key, value string, lease, create, mod, version int64) *mvccpb.Event {
	return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), Lease: lease, CreateRevision: create, ModRevision: mod, Version: version}}
}

func gone(key string, rev int64) *mvccpb.Event {
	return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev}}
}

func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

func found(events ...*mvccpb.Event) *pb.RangeResponse {
	r := &pb.RangeResponse{Count: int64(len(events))}
	for _, e := range events {
		r.Kvs = append(r.Kvs, e.Kv)
	}
	return r
}

// TestOrder has reads and writes that meet or do not.
func TestOrder(t *testing.T) {
	t.Parallel()
	a, b := set("k", "a", 0, 2, 2, 1), set("k", "b", 0, 2, 3, 2)
	done := &pb.PutResponse{}
	tell := func() *telling { return (&telling{}).shown(a, b) }
	verify(t, map[string]telling{
		"a read of the old value beside the write": *tell().ok(put("k", "a", 0), done, 2).long(1).ok(put("k", "b", 0), done, 3).ok(get("k"), found(a), 2),
		"a read without an answer":                 *tell().ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3).lost(get("k")),
		"writes that meet, in another order":       *tell().long(1).ok(put("k", "b", 0), done, 3).ok(put("k", "a", 0), done, 2),
		"a lost answer, and the write is seen":     *tell().lost(put("k", "a", 0)).ok(put("k", "b", 0), done, 3).ok(get("k"), found(b), 3),
		"a lost answer, and the write comes late":  *tell().lost(put("k", "b", 0)).ok(put("k", "a", 0), done, 2).ok(get("k"), found(a), 2).ok(get("k"), found(b), 3),
		"a lost answer, and no write":              *tell().lost(put("k", "c", 0)).ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3).ok(get("k"), found(b), 3),
		"a serializable read of the past": *tell().ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3).
			ok(&pb.RangeRequest{Key: []byte("k"), Serializable: true}, found(a), 2),
	}, map[string]telling{
		"a read of the old value after the write":   *tell().ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3).ok(get("k"), found(a), 2),
		"the old value with the new revision":       *tell().ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3).ok(get("k"), found(a), 3),
		"a read of the future":                      *tell().ok(put("k", "a", 0), done, 2).ok(get("k"), found(b), 3).ok(put("k", "b", 0), done, 3),
		"writes that do not meet, in another order": *tell().ok(put("k", "b", 0), done, 3).ok(put("k", "a", 0), done, 2),
		"two writes of one revision":                *tell().ok(put("k", "a", 0), done, 2).ok(put("j", "b", 0), done, 2),
		"a revision that nobody made":               *tell().ok(put("k", "a", 0), done, 2).ok(get("k"), found(b), 3),
		"a write is seen and then is not":           *tell().lost(put("k", "b", 0)).ok(put("k", "a", 0), done, 2).ok(get("k"), found(b), 3).ok(get("k"), found(a), 2),
		"an answered write is not there":            *(&telling{}).shown(a).ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3).ok(get("k"), found(a), 2),
		"a write before it was asked for":           *tell().ok(put("k", "a", 0), done, 2).ok(get("k"), found(b), 3).lost(put("k", "b", 0)),
	})
}

// TestLeases has leases whose grants and revocations have no answers.
func TestLeases(t *testing.T) {
	t.Parallel()
	grant, revoke := &pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.LeaseRevokeRequest{ID: 7}
	granted := func() *pb.LeaseGrantResponse { return &pb.LeaseGrantResponse{ID: 7, TTL: 60} }
	revoked, done := &pb.LeaseRevokeResponse{}, &pb.PutResponse{}
	a := set("k", "a", 7, 2, 2, 1)
	missing := rpctypes.ErrGRPCLeaseNotFound
	tell := func() *telling { return &telling{} }
	held := func() *telling { return tell().shown(a).ok(grant, granted(), 1).ok(put("k", "a", 7), done, 2) }
	verify(t, map[string]telling{
		"not granted, then granted":       *tell().shown(a).lost(grant).refused(put("k", "x", 7), missing).ok(put("k", "a", 7), done, 2),
		"never granted":                   *tell().lost(grant).refused(put("k", "x", 7), missing).refused(revoke, missing),
		"revoked with a key":              *held().shown(gone("k", 3)).lost(revoke).ok(get("k"), found(), 3).refused(put("k", "b", 7), missing),
		"not revoked":                     *held().shown(set("k", "b", 7, 2, 3, 2)).lost(revoke).ok(put("k", "b", 7), done, 3),
		"revoked without a key":           *tell().ok(grant, granted(), 1).lost(revoke).refused(put("k", "b", 7), missing),
		"revoked late":                    *held().shown(gone("k", 3)).lost(revoke).ok(get("k"), found(a), 2).ok(get("k"), found(), 3),
		"revoked by an answered one":      *held().shown(gone("k", 3)).ok(revoke, revoked, 3).refused(revoke, missing),
		"the answer's header is of later": *held().shown(gone("k", 3), set("k", "b", 0, 4, 4, 1)).long(1).ok(revoke, revoked, 4).ok(put("k", "b", 0), done, 4),
		"granted and revoked, unanswered": *tell().shown(a, gone("k", 3)).lost(grant).lost(revoke).ok(put("k", "a", 7), done, 2).ok(get("k"), found(), 3),
	}, map[string]telling{
		"not found after the grant":           *tell().ok(grant, granted(), 1).refused(put("k", "a", 7), missing),
		"found, then not found":               *tell().shown(a).lost(grant).ok(put("k", "a", 7), done, 2).refused(put("k", "b", 7), missing),
		"not found while it has a key":        *held().lost(revoke).refused(put("k", "b", 7), missing),
		"found after the revocation":          *held().shown(gone("k", 3), set("k", "b", 7, 4, 4, 1)).ok(revoke, revoked, 3).ok(put("k", "b", 7), done, 4),
		"not found, and then found":           *tell().shown(a).ok(grant, granted(), 1).lost(revoke).refused(put("k", "x", 7), missing).ok(put("k", "a", 7), done, 2),
		"revoked, and the key is still there": *held().ok(revoke, revoked, 2).ok(get("k"), found(a), 2),
		"used before the grant":               *tell().shown(a).ok(put("k", "a", 7), done, 2).ok(grant, granted(), 2),
	})
}

// TestCompactions has compactions with and without answers.
func TestCompactions(t *testing.T) {
	t.Parallel()
	a, b := set("k", "a", 0, 2, 2, 1), set("k", "b", 0, 2, 3, 2)
	done, compacted := &pb.PutResponse{}, &pb.CompactionResponse{}
	compact := func(rev int64) *pb.CompactionRequest { return &pb.CompactionRequest{Revision: rev} }
	past := &pb.RangeRequest{Key: []byte("k"), Revision: 2}
	tell := func() *telling {
		return (&telling{}).shown(a, b).ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 3)
	}
	verify(t, map[string]telling{
		"the past":                        *tell().ok(past, found(a), 3),
		"what is left":                    *tell().ok(compact(2), compacted, 3).ok(past, found(a), 3),
		"compacted":                       *tell().ok(compact(3), compacted, 3).refused(past, rpctypes.ErrGRPCCompacted).refused(compact(2), rpctypes.ErrGRPCCompacted),
		"perhaps, and yes":                *tell().lost(compact(3)).refused(past, rpctypes.ErrGRPCCompacted),
		"perhaps, and no":                 *tell().lost(compact(3)).ok(past, found(a), 3),
		"perhaps, and then yes":           *tell().lost(compact(3)).ok(past, found(a), 3).refused(past, rpctypes.ErrGRPCCompacted),
		"perhaps, and done a second time": *tell().lost(compact(3)).ok(compact(3), compacted, 3).refused(past, rpctypes.ErrGRPCCompacted),
		"the future":                      *tell().refused(&pb.RangeRequest{Key: []byte("k"), Revision: 9}, rpctypes.ErrGRPCFutureRev),
	}, map[string]telling{
		"the past after it was compacted":      *tell().ok(compact(3), compacted, 3).ok(past, found(a), 3),
		"not compacted, and refused":           *tell().refused(past, rpctypes.ErrGRPCCompacted),
		"compacted less, and refused":          *tell().ok(compact(2), compacted, 3).refused(past, rpctypes.ErrGRPCCompacted),
		"compacted twice":                      *tell().ok(compact(3), compacted, 3).ok(compact(3), compacted, 3),
		"perhaps, and yes, and then no":        *tell().lost(compact(3)).refused(past, rpctypes.ErrGRPCCompacted).ok(past, found(a), 3),
		"the present is said to be the future": *tell().refused(&pb.RangeRequest{Key: []byte("k"), Revision: 3}, rpctypes.ErrGRPCFutureRev),
		"a refusal that has no reason":         *tell().refused(put("k", "c", 0), rpctypes.ErrGRPCNoSpace),
	})
}

// TestDeletions has deletions without answers, of which any may have made a revision.
func TestDeletions(t *testing.T) {
	t.Parallel()
	done := &pb.PutResponse{}
	narrow := &pb.DeleteRangeRequest{Key: []byte("k")}
	wide := &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("m")}
	tell := func() *telling {
		return (&telling{}).shown(set("k", "a", 0, 2, 2, 1), gone("k", 3), set("k", "b", 0, 4, 4, 1), set("l", "c", 0, 5, 5, 1), gone("k", 6), gone("l", 6))
	}
	rest := func(s *telling) telling {
		return *s.ok(put("k", "a", 0), done, 2).ok(put("k", "b", 0), done, 4).ok(put("l", "c", 0), done, 5).ok(get("l"), found(), 6)
	}
	verify(t, map[string]telling{
		"the wide one is asked for first": rest(tell().lost(wide).lost(narrow)),
		"and last":                        rest(tell().lost(narrow).lost(wide)),
		"with more than needed":           rest(tell().lost(wide).lost(narrow).lost(narrow).lost(wide)),
	}, map[string]telling{
		"only narrow ones": rest(tell().lost(narrow).lost(narrow)),
		"only one":         rest(tell().lost(wide)),
	})
}

// verify judges true and false histories.
func verify(t *testing.T, right, wrong map[string]telling) {
	t.Helper()
	for name, s := range right {
		if _, err := Check(s.ops, s.events, time.Minute); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range wrong {
		if _, err := Check(s.ops, s.events, time.Minute); !errors.Is(err, ErrIllegal) {
			t.Errorf("%s is not found: %v", name, err)
		}
	}
}
