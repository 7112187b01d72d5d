package etcdv3

import (
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
		if _, err := checkOverlaps(side); err != nil {
			return err
		}
	}
	return nil
}

// touched is what one side of a transaction puts and deletes, nested ones included.
type touched struct {
	puts map[string]struct{}
	dels map[string]struct{} // of single keys
	many []mvcc.Range        // of more than one
}

func (t *touched) deletes(key string) bool {
	if _, ok := t.dels[key]; ok {
		return true
	}
	for _, r := range t.many {
		if r.Contains(key) {
			return true
		}
	}
	return false
}

// checkOverlaps refuses operations of which one puts a key that another one
// puts or deletes too. The two sides of a nested transaction exclude each other and
// may overlap. As in etcd, deletes collide with puts on the same level or above it,
// and with those of transactions nested after them.
func checkOverlaps(ops []*pb.RequestOp) (*touched, error) {
	t := &touched{puts: make(map[string]struct{}), dels: make(map[string]struct{})}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			t.addDelete(d)
		}
	}
	for _, op := range ops {
		if n := op.GetRequestTxn(); n != nil {
			if err := t.nest(n); err != nil {
				return nil, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if _, twice := t.puts[string(p.Key)]; twice || t.deletes(string(p.Key)) {
				return nil, rpctypes.ErrGRPCDuplicateKey
			}
			t.puts[string(p.Key)] = struct{}{}
		}
	}
	return t, nil
}

// addDelete notes the keys that a delete takes. One from a key on is an empty
// interval to etcd's check, and so it is here.
func (t *touched) addDelete(d *pb.DeleteRangeRequest) {
	switch {
	case len(d.RangeEnd) == 0:
		t.dels[string(d.Key)] = struct{}{}
	case len(d.RangeEnd) == 1 && d.RangeEnd[0] == 0:
	default:
		t.many = append(t.many, mvcc.NewRange(d.Key, d.RangeEnd))
	}
}

func (t *touched) nest(n *pb.TxnRequest) error {
	then, err := checkOverlaps(n.Success)
	if err != nil {
		return err
	}
	otherwise, err := checkOverlaps(n.Failure)
	if err != nil {
		return err
	}
	for k := range then.puts {
		if _, twice := t.puts[k]; twice || t.deletes(k) {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	for k := range otherwise.puts {
		if _, twice := t.puts[k]; twice || t.deletes(k) {
			return rpctypes.ErrGRPCDuplicateKey
		}
	}
	for _, side := range []*touched{then, otherwise} {
		for k := range side.puts {
			t.puts[k] = struct{}{}
		}
		for k := range side.dels {
			t.dels[k] = struct{}{}
		}
		t.many = append(t.many, side.many...)
	}
	return nil
}
