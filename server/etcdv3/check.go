package etcdv3

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	_, order := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	if !order || !target {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if !mvcc.DefaultOrder(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if mvcc.Filtered(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks the form of a transaction. A nested one may have as many
// operations as its parent left over of maxOps.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, side := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range side {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch u := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(u.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(u.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(u.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(u.RequestTxn, maxOps)
	}
	return rpctypes.ErrGRPCKeyNotFound // etcd's answer to an empty operation
}

// checkCollisions refuses a transaction that would change a key twice, whichever way its compares go.
func checkCollisions(r *pb.TxnRequest) error {
	for _, side := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if len(side) == 0 || len(side) == 1 && side[0].GetRequestTxn() == nil {
			continue // most transactions of a Kubernetes API server
		}
		if err := checkOverlaps(side); err != nil {
			return err
		}
	}
	return nil
}

// checkOverlaps refuses operations of which one puts a key that another one
// puts or deletes too. The two sides of a nested transaction exclude each other and
// may overlap. As in etcd, deletes collide with puts on the same level or above it,
// and with those of transactions nested after them.
//
// In other words: when each side is gone through with its own deletes first, then what is
// nested in it, then its own puts, a put collides with whatever came before it and is not excluded. The
// work is O(n log² n), whatever the request: a client can put 50,000 operations into one.
func checkOverlaps(ops []*pb.RequestOp) error {
	keys := putKeys(nil, ops)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	t := touched{puts: make([]int, len(keys)), dels: make([]int, len(keys)+1)}
	if !t.visit(newChanges(keys, ops)) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	return nil
}

// putKeys appends every key that is put, nested or not.
func putKeys(keys []string, ops []*pb.RequestOp) []string {
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			keys = append(keys, string(p.Key))
		}
		if n := op.GetRequestTxn(); n != nil {
			keys = putKeys(putKeys(keys, n.Success), n.Failure)
		}
	}
	return keys
}

// changes are what one side of a transaction puts and deletes. Keys are numbered, in their order, as far as
// the transaction puts them: others cannot collide.
type changes struct {
	dels   []span
	nested [][2]*changes // the two sides of each, the smaller one first
	puts   []int
	size   int // of all of it
}

// span is the keys from one number up to another one, exclusive.
type span struct{ from, to int }

func newChanges(keys []string, ops []*pb.RequestOp) *changes {
	c := new(changes)
	number := func(key string) int {
		i, _ := slices.BinarySearch(keys, key)
		return i
	}
	for _, op := range ops {
		switch u := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			c.puts = append(c.puts, number(string(u.RequestPut.Key)))
		case *pb.RequestOp_RequestDeleteRange:
			r := mvcc.NewRange(u.RequestDeleteRange.Key, u.RequestDeleteRange.RangeEnd)
			// To etcd's check, a delete from a key on (no end) is empty, and so it is here.
			if s := (span{number(r.Start), number(r.End)}); s.from < s.to {
				c.dels = append(c.dels, s)
			}
		case *pb.RequestOp_RequestTxn:
			n := [2]*changes{newChanges(keys, u.RequestTxn.Success), newChanges(keys, u.RequestTxn.Failure)}
			if n[0].size > n[1].size {
				n[0], n[1] = n[1], n[0]
			}
			if size := n[0].size + n[1].size; size > 0 {
				c.nested = append(c.nested, n)
				c.size += size
			}
		}
	}
	c.size += len(c.dels) + len(c.puts)
	return c
}

// touched counts, for each key, the puts and deletes met so far.
type touched struct {
	puts []int
	dels []int // a Fenwick tree of where spans begin (+1) and end (-1)
}

// visit notes changes; it gives false at the first put of a key that is touched already. Of
// two sides that exclude each other, the smaller one is taken back while the other is
// visited, and noted again afterwards; so each change is noted O(log n) times.
func (t *touched) visit(c *changes) bool {
	for _, s := range c.dels {
		t.delete(s, 1)
	}
	for _, n := range c.nested {
		if !t.visit(n[0]) {
			return false
		}
		t.note(n[0], -1)
		if !t.visit(n[1]) {
			return false
		}
		t.note(n[0], 1)
	}
	for _, k := range c.puts {
		if t.puts[k] > 0 || t.deleted(k) {
			return false
		}
		t.puts[k]++
	}
	return true
}

// note counts changes, or takes them back, by.
func (t *touched) note(c *changes, by int) {
	for _, s := range c.dels {
		t.delete(s, by)
	}
	for _, n := range c.nested {
		t.note(n[0], by)
		t.note(n[1], by)
	}
	for _, k := range c.puts {
		t.puts[k] += by
	}
}

func (t *touched) delete(s span, by int) {
	for i := s.from + 1; i < len(t.dels); i += i & -i {
		t.dels[i] += by
	}
	for i := s.to + 1; i < len(t.dels); i += i & -i {
		t.dels[i] -= by
	}
}

func (t *touched) deleted(key int) bool {
	n := 0
	for i := key + 1; i > 0; i -= i & -i {
		n += t.dels[i]
	}
	return n > 0
}
