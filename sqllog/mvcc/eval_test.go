package mvcc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// TestBatchIsOneByOne: a batch gives what its requests give one by one.
func TestBatchIsOneByOne(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 4))
		m, together, single := newModel(), newTestLog(), newTestLog()
		a, b := NewIndex(), NewIndex()
		for range 10 {
			var requests []any
			for range 20 {
				requests = append(requests, randomRequest(r, m))
			}
			builder, results := Evaluate(a, Env{Values: together.values}, requests)
			a = builder.Index(together.append(builder.Entries()))
			for i, req := range requests {
				before := dump(b)
				builder, one := Evaluate(b, Env{Values: single.values}, []any{req})
				if one[0].Err != nil && (len(builder.Entries()) != 0 || dump(builder.Index(b.End)) != before) {
					t.Fatalf("%v was refused (%v) and left %d entries", req, one[0].Err, len(builder.Entries()))
				}
				b = builder.Index(single.append(builder.Entries()))
				sameResult(t, req, together, results[i], single, one[0])
				_ = m.request(req) // for the revisions of compactions
			}
			if dump(a) != dump(b) {
				t.Fatalf("seed %d: together\n%s\none by one\n%s", seed, dump(a), dump(b))
			}
			if !reflect.DeepEqual(together.entries, single.entries) {
				t.Fatalf("seed %d: the entries differ", seed)
			}
		}
	}
}

func sameResult(t *testing.T, req any, la *testLog, a Result, lb *testLog, b Result) {
	t.Helper()
	if !errors.Is(a.Err, b.Err) {
		t.Fatalf("%v: %v in a batch, %v alone", req, a.Err, b.Err)
	}
	if a.Err != nil {
		return
	}
	if err := errors.Join(Fetch(a.Fills, la.values), Fetch(b.Fills, lb.values)); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(a.Response.(proto.Message), b.Response.(proto.Message)) {
		t.Fatalf("%v: %v in a batch, %v alone", req, a.Response, b.Response)
	}
}

func putOp(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

// TestUnreadableValue: when a value cannot be read in the middle of a
// transaction, the transaction leaves nothing behind and its neighbours are as if it had never been.
func TestUnreadableValue(t *testing.T) {
	l := newTestLog()
	b, _ := Evaluate(NewIndex(), Env{Values: l.values}, []any{
		&pb.PutRequest{Key: []byte("bad"), Value: []byte("x")}, &pb.PutRequest{Key: []byte("good"), Value: []byte("y")},
	})
	ix := b.Index(l.append(b.Entries()))
	unreadable := errors.New("unreadable")
	calls := 0
	env := Env{Values: func(positions []int64) ([][]byte, error) {
		calls++
		for _, p := range positions {
			if p == 1 {
				return nil, unreadable
			}
		}
		return l.values(positions)
	}}
	keep := &pb.PutRequest{Key: []byte("bad"), IgnoreValue: true}
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{putOp("first", "1"), putOp("second", "2"),
		{Request: &pb.RequestOp_RequestPut{RequestPut: keep}}}}
	neighbours := []any{
		&pb.PutRequest{Key: []byte("n1"), Value: []byte("1")},
		&pb.PutRequest{Key: []byte("good"), IgnoreValue: true, PrevKv: true},
		&pb.LeaseGrantRequest{ID: 9, TTL: 50},
	}
	requests := []any{neighbours[0], txn, neighbours[1], keep, txn, neighbours[2]}
	b, results := Evaluate(ix, env, requests)
	for i, want := range []error{nil, unreadable, nil, unreadable, unreadable, nil} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("request %d: %v, want %v", i, results[i].Err, want)
		}
	}
	c, alone := Evaluate(ix, Env{Values: l.values}, neighbours)
	if !reflect.DeepEqual(b.Entries(), c.Entries()) || !reflect.DeepEqual(b.Events(), c.Events()) || !reflect.DeepEqual(b.Leases(), c.Leases()) {
		t.Errorf("entries %v, without the refused requests %v", b.Entries(), c.Entries())
	}
	for i, j := range []int{0, 2, 5} {
		if !proto.Equal(results[j].Response.(proto.Message), alone[i].Response.(proto.Message)) || len(results[j].Fills) != len(alone[i].Fills) {
			t.Errorf("neighbour %d: %v, alone %v", i, results[j].Response, alone[i].Response)
		}
	}
	if dump(b.Index(ix.End)) != dump(c.Index(ix.End)) {
		t.Error("the refused requests left something in the index")
	}
}

// TestCompareOnUnreadableValue: that is an error, never "compare failed".
func TestCompareOnUnreadableValue(t *testing.T) {
	l := newTestLog()
	b, _ := Evaluate(NewIndex(), Env{Values: l.values}, []any{&pb.PutRequest{Key: []byte("k"), Value: []byte("x")}})
	ix := b.Index(l.append(b.Entries()))
	unreadable := errors.New("unreadable")
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("k"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("x")}}},
		Failure: []*pb.RequestOp{putOp("k", "lost")},
	}
	b, results := Evaluate(ix, Env{Values: func([]int64) ([][]byte, error) { return nil, unreadable }}, []any{txn})
	if !errors.Is(results[0].Err, unreadable) || len(b.Entries()) != 0 {
		t.Errorf("%+v, %d entries", results[0], len(b.Entries()))
	}
}

// TestManyDeletes: one request deletes many keys at one revision, in entries of bounded size.
func TestManyDeletes(t *testing.T) {
	l, ix := newTestLog(), NewIndex()
	var requests []any
	const n = 30_000
	for i := range n {
		requests = append(requests, &pb.PutRequest{Key: fmt.Appendf(nil, "k%09d%s", i*7919%n, "padding"), Lease: 0})
	}
	b, _ := Evaluate(ix, Env{Values: l.values}, requests)
	ix = b.Index(l.append(b.Entries()))
	b, results := Evaluate(ix, Env{Values: l.values}, []any{&pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}})
	if got := results[0].Response.(*pb.DeleteRangeResponse); got.Deleted != n || got.Header.Revision != n+2 {
		t.Fatalf("%v", got)
	}
	for i, ev := range b.Events() {
		if ev.Main != n+2 || int(ev.Sub) != i || ev.Prev.Main == 0 {
			t.Fatalf("event %d: %+v", i, ev)
		}
	}
	entries := b.Entries()
	for _, e := range entries {
		if len(e.Meta) > maxDeleteMeta+64 {
			t.Errorf("an entry of %d bytes", len(e.Meta))
		}
	}
	after := b.Index(l.append(entries))
	if after.Keys() != 0 || dump(l.load(t)) != dump(after) {
		t.Errorf("%d keys live; the loaded index is another", after.Keys())
	}
	if got := l.load(t).Count(Everything, n+1); got != n {
		t.Errorf("%d keys before the deletion", got)
	}
}
