package etcdv3

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/encoding/prototext"
)

// step is a step on the way from a transaction to an operation nested in it.
type step struct {
	failure bool // the side
	op      int  // the operation of that side
}

// placed is a put or delete, and the way to it.
type placed struct {
	way []step
	put *pb.PutRequest
	del *pb.DeleteRangeRequest
}

func place(all []placed, r *pb.TxnRequest, way []step) []placed {
	for i, side := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for j, op := range side {
			w := append(way[:len(way):len(way)], step{failure: i == 1, op: j})
			switch {
			case op.GetRequestPut() != nil:
				all = append(all, placed{way: w, put: op.GetRequestPut()})
			case op.GetRequestDeleteRange() != nil:
				all = append(all, placed{way: w, del: op.GetRequestDeleteRange()})
			case op.GetRequestTxn() != nil:
				all = place(all, op.GetRequestTxn(), w)
			}
		}
	}
	return all
}

// takes tells what a delete takes in the eyes of etcd's check.
func takes(d *pb.DeleteRangeRequest, key string) bool {
	switch from, to := string(d.Key), string(d.RangeEnd); to {
	case "":
		return key == from
	case "\x00":
		return false // "from a key on" is an empty interval there
	default:
		return from <= key && key < to
	}
}

// collide judges a put and another operation, by where their ways part.
func collide(p, other placed) bool {
	i := 0
	for p.way[i] == other.way[i] {
		i++
	}
	if p.way[i].failure != other.way[i].failure {
		return false // only one of them is done
	}
	if other.put != nil {
		return string(p.put.Key) == string(other.put.Key)
	}
	direct := i == len(p.way)-1 || i == len(other.way)-1 // the side's own
	return takes(other.del, string(p.put.Key)) && (direct || other.way[i].op < p.way[i].op)
}

// modelCollisions asks every put about every other operation.
func modelCollisions(r *pb.TxnRequest) bool {
	all := place(nil, r, nil)
	for i, p := range all {
		for j, other := range all {
			if p.put != nil && i != j && collide(p, other) {
				return true
			}
		}
	}
	return false
}

// modelForm is the first thing wrong with a transaction's form, read from its beginning to its end. ops is what its
// ancestors count.
func modelForm(r *pb.TxnRequest, ops, maxOps int) error {
	if ops += max(len(r.Compare), len(r.Success), len(r.Failure)); ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	var wrong []error
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			wrong = append(wrong, rpctypes.ErrGRPCEmptyKey)
		}
	}
	for _, op := range append(append([]*pb.RequestOp(nil), r.Success...), r.Failure...) {
		key := "-"
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			key = string(u.RequestRange.Key)
			if key != "" && (u.RequestRange.SortOrder < 0 || u.RequestRange.SortOrder > 2 || u.RequestRange.SortTarget < 0 || u.RequestRange.SortTarget > 4) {
				wrong = append(wrong, rpctypes.ErrGRPCInvalidSortOption)
			}
		case *pb.RequestOp_RequestPut:
			key = string(u.RequestPut.Key)
			if key != "" && u.RequestPut.IgnoreValue && len(u.RequestPut.Value) > 0 {
				wrong = append(wrong, rpctypes.ErrGRPCValueProvided)
			}
			if key != "" && u.RequestPut.IgnoreLease && u.RequestPut.Lease != 0 {
				wrong = append(wrong, rpctypes.ErrGRPCLeaseProvided)
			}
		case *pb.RequestOp_RequestDeleteRange:
			key = string(u.RequestDeleteRange.Key)
		case *pb.RequestOp_RequestTxn:
			if err := modelForm(u.RequestTxn, ops, maxOps); err != nil {
				wrong = append(wrong, err)
			}
		default:
			wrong = append(wrong, rpctypes.ErrGRPCKeyNotFound)
		}
		if key == "" {
			wrong = append(wrong, rpctypes.ErrGRPCEmptyKey)
		}
	}
	if len(wrong) > 0 {
		return wrong[0]
	}
	return nil
}

// txnMaker makes random transactions.
type txnMaker struct {
	*rand.Rand
	keys   []string // to choose from
	faulty int      // one operation of so many has a fault of form; 0: none has
}

func (m txnMaker) key() []byte { return []byte(m.keys[m.IntN(len(m.keys))]) }

func (m txnMaker) fault() bool { return m.faulty > 0 && m.IntN(m.faulty) == 0 }

func (m txnMaker) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{Success: m.side(depth), Failure: m.side(depth)}
	for range m.IntN(3) {
		c := &pb.Compare{Key: m.key()}
		if m.fault() {
			c.Key = nil
		}
		r.Compare = append(r.Compare, c)
	}
	return r
}

func (m txnMaker) side(depth int) (ops []*pb.RequestOp) {
	for range m.IntN(4) {
		ops = append(ops, m.op(depth))
	}
	return ops
}

func (m txnMaker) op(depth int) *pb.RequestOp {
	if m.fault() {
		return m.faultyOp()
	}
	switch n := m.IntN(9); {
	case n < 3 && depth > 0:
		return nestedOp(m.txn(depth - 1))
	case n < 5:
		return putOp(&pb.PutRequest{Key: m.key()})
	case n < 8:
		d := &pb.DeleteRangeRequest{Key: m.key()}
		switch m.IntN(5) {
		case 0, 1:
			d.RangeEnd = m.key() // also one below the key
		case 2:
			d.RangeEnd = []byte{0}
		}
		return deleteOp(d)
	}
	return rangeOp(&pb.RangeRequest{Key: m.key(), RangeEnd: m.key()})
}

func (m txnMaker) faultyOp() *pb.RequestOp {
	switch m.IntN(8) {
	case 0:
		return rangeOp(&pb.RangeRequest{SortOrder: 9})
	case 1:
		return rangeOp(&pb.RangeRequest{Key: m.key(), SortOrder: pb.RangeRequest_SortOrder(m.IntN(5) - 1)})
	case 2:
		return rangeOp(&pb.RangeRequest{Key: m.key(), SortTarget: pb.RangeRequest_SortTarget(m.IntN(7) - 1)})
	case 3:
		return putOp(&pb.PutRequest{IgnoreValue: true, Value: []byte("v")})
	case 4:
		return putOp(&pb.PutRequest{Key: m.key(), IgnoreValue: true, Value: []byte("v"), IgnoreLease: true, Lease: 1})
	case 5:
		return putOp(&pb.PutRequest{Key: m.key(), IgnoreLease: true, Lease: 1})
	case 6:
		return deleteOp(&pb.DeleteRangeRequest{RangeEnd: m.key()})
	}
	return &pb.RequestOp{}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func deleteOp(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func nestedOp(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

// TestCollisions holds the check against a model that compares every two operations. Few keys
// make collisions, many make transactions that are let through only if everything is right.
func TestCollisions(t *testing.T) {
	for seed, keys := range [][]string{
		{"a", "b"},
		{"a", "a\x00", "b", "ba", "c", "\x00", "\xff"},
		numbers(30), numbers(300),
	} {
		m := txnMaker{Rand: rand.New(rand.NewPCG(uint64(seed), 0)), keys: keys}
		const rounds = 5000
		seen := map[bool]int{}
		for round := range rounds {
			r := m.txn(round % 6)
			got := checkCollisions(r)
			if got != nil && !errors.Is(got, rpctypes.ErrGRPCDuplicateKey) {
				t.Fatalf("round %d: %v", round, got)
			}
			want := modelCollisions(r)
			if (got != nil) != want {
				t.Fatalf("seed %d, round %d: %v, collisions in the model: %v\n%s", seed, round, got, want, prototext.Format(r))
			}
			if len(place(nil, r, nil)) > 2 {
				seen[want]++
			}
		}
		if seen[true] < rounds/20 || seen[false] < rounds/20 {
			t.Errorf("seed %d: the requests are one-sided: %v", seed, seen)
		}
	}
}

func numbers(n int) (keys []string) {
	for i := range n {
		keys = append(keys, fmt.Sprintf("%03d", i))
	}
	return keys
}

// TestForm holds the check of a transaction's form against its definition: the first fault counts.
func TestForm(t *testing.T) {
	m := txnMaker{Rand: rand.New(rand.NewPCG(1, 1)), keys: numbers(3), faulty: 20}
	seen := map[string]int{}
	for round := range 20000 {
		r, maxOps := m.txn(round%5), m.IntN(16)
		got, want := checkTxn(r, maxOps), modelForm(r, 0, maxOps)
		if !errors.Is(got, want) {
			t.Fatalf("round %d, %d operations: %v instead of %v\n%s", round, maxOps, got, want, prototext.Format(r))
		}
		seen[fmt.Sprint(want)]++
	}
	for _, want := range []error{nil, rpctypes.ErrGRPCTooManyOps, rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCKeyNotFound,
		rpctypes.ErrGRPCInvalidSortOption, rpctypes.ErrGRPCValueProvided, rpctypes.ErrGRPCLeaseProvided} {
		if seen[fmt.Sprint(want)] < 50 {
			t.Errorf("%v comes %d times", want, seen[fmt.Sprint(want)])
		}
	}
}

// TestChangesAreNotedRarely: of two sides the smaller one comes first, so that what it costs to take it back
// adds up to n log n, however deep transactions are nested.
func TestChangesAreNotedRarely(t *testing.T) {
	m := txnMaker{Rand: rand.New(rand.NewPCG(2, 2)), keys: numbers(50)}
	for round := range 2000 {
		// A chain with something on the other side all the way down, as well as trees.
		r := m.txn(3)
		for range m.IntN(20) {
			r = &pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: m.key()})}, Failure: []*pb.RequestOp{nestedOp(r)}}
		}
		side := []*pb.RequestOp{nestedOp(r)}
		keys := putKeys(nil, side)
		slices.Sort(keys)
		c := newChanges(slices.Compact(keys), side)
		again := 0
		var walk func(*changes) int
		walk = func(c *changes) int {
			n := len(c.dels) + len(c.puts)
			for _, kids := range c.nested {
				small, large := walk(kids[0]), walk(kids[1])
				again += small
				n += small + large
			}
			if n != c.size {
				t.Fatalf("round %d: size %d, there are %d", round, c.size, n)
			}
			return n
		}
		if n := walk(c); again > n*bits.Len(uint(n))/2 {
			t.Fatalf("round %d: of %d changes, %d are taken back", round, n, again)
		}
	}
}
