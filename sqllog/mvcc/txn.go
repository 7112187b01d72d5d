package mvcc

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ReadOnly tells whether a transaction consists of ranges alone, in etcd's
// sense: a nested transaction makes it a writing one, whatever is in it.
func ReadOnly(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestRange() == nil {
				return false
			}
		}
	}
	return true
}

// Serializable tells whether all that a transaction does is serializable ranges.
func Serializable(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if rr := op.GetRequestRange(); rr == nil || !rr.Serializable {
				return false
			}
		}
	}
	return true
}

func putsAnything(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if op.GetRequestPut() != nil || op.GetRequestTxn() != nil && putsAnything(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

// branch is the side of a transaction that its compares chose, with those of
// the transactions nested in it, in order. All compares are judged
// before anything is done.
type branch struct {
	succeeded bool
	ops       []*pb.RequestOp
	nested    []*branch
}

// txn decides a transaction in etcd's three steps: choose the branches, check
// every operation against the state before, then do them, each seeing the ones before it.
func (ev *evaluator) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if ev.full() && putsAnything(r) {
		return nil, ErrNoSpace
	}
	br, err := ev.choose(r)
	if err != nil {
		return nil, err
	}
	var deleted []Range
	if err := ev.check(br, &deleted); err != nil {
		return nil, err
	}
	resp, err := ev.do(br)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = ev.b.ix.Rev
	return resp, nil
}

func (ev *evaluator) choose(r *pb.TxnRequest) (*branch, error) {
	br := &branch{succeeded: true, ops: r.Success}
	for _, c := range r.Compare {
		ok, err := ev.compare(c)
		if err != nil {
			return nil, err
		}
		if !ok {
			br.succeeded, br.ops = false, r.Failure
			break
		}
	}
	for _, op := range br.ops {
		if t := op.GetRequestTxn(); t != nil {
			n, err := ev.choose(t)
			if err != nil {
				return nil, err
			}
			br.nested = append(br.nested, n)
		}
	}
	return br, nil
}

// compare judges a Compare: it must hold for every key of its range. On an
// empty range a key with zeros everywhere is compared, but a value never holds.
func (ev *evaluator) compare(c *pb.Compare) (bool, error) {
	if c.Target == pb.Compare_VALUE {
		return ev.compareValues(c)
	}
	empty := true
	for _, v := range ev.b.ix.Scan(NewRange(c.Key, c.RangeEnd), ev.b.ix.Rev) {
		if !compareVersion(c, v, nil) {
			return false, nil
		}
		empty = false
	}
	return !empty || compareVersion(c, &Version{}, nil), nil
}

// comparedAtOnce is how many values are read together for a Compare.
const comparedAtOnce = 256

// compareValues is compare for values, which are read in groups.
func (ev *evaluator) compareValues(c *pb.Compare) (bool, error) {
	var positions []int64
	hold := func() (bool, error) {
		got, err := ev.values(positions)
		positions = positions[:0]
		for _, value := range got {
			if err == nil && !compareVersion(c, &Version{}, value) {
				return false, nil
			}
		}
		return true, err
	}
	empty := true
	for _, v := range ev.b.ix.Scan(NewRange(c.Key, c.RangeEnd), ev.b.ix.Rev) {
		empty = false
		if positions = append(positions, v.Position); len(positions) < comparedAtOnce {
			continue
		}
		if ok, err := hold(); err != nil || !ok {
			return false, err
		}
	}
	ok, err := hold()
	return ok && !empty, err
}

// check refuses what cannot be done. deleted collects what the operations
// before delete: a put that keeps the value or lease of a key which is gone by then would have nothing to keep.
// (etcd's check of overlaps does not see a delete from a key on, and etcd panics.)
func (ev *evaluator) check(br *branch, deleted *[]Range) error {
	nested := br.nested
	for _, op := range br.ops {
		var err error
		switch {
		case op.GetRequestRange() != nil:
			err = ev.checkRange(op.GetRequestRange())
		case op.GetRequestPut() != nil:
			put := op.GetRequestPut()
			if err = ev.checkPut(put); err == nil && (put.IgnoreValue || put.IgnoreLease) && contains(*deleted, string(put.Key)) {
				err = ErrDuplicateKey
			}
		case op.GetRequestDeleteRange() != nil:
			del := op.GetRequestDeleteRange()
			*deleted = append(*deleted, NewRange(del.Key, del.RangeEnd))
		case op.GetRequestTxn() != nil:
			err = ev.check(nested[0], deleted)
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func contains(ranges []Range, key string) bool {
	for _, r := range ranges {
		if r.Contains(key) {
			return true
		}
	}
	return false
}

// checkRange judges the revision of a range in a transaction: against the
// state before it, and unlike a range of its own also if negative.
func (ev *evaluator) checkRange(r *pb.RangeRequest) error {
	switch {
	case r.Revision == 0:
		return nil
	case r.Revision > ev.b.ix.Rev:
		return ErrFutureRev
	case r.Revision < ev.b.ix.Compact:
		return ErrCompacted
	}
	return nil
}

func (ev *evaluator) do(br *branch) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: br.succeeded}
	resp.Responses = make([]*pb.ResponseOp, 0, len(br.ops))
	nested := br.nested
	for _, op := range br.ops {
		out := &pb.ResponseOp{}
		var err error
		switch {
		case op.GetRequestRange() != nil:
			var rr *pb.RangeResponse
			var fills []Fill
			rr, fills, err = ev.b.ix.Range(op.GetRequestRange(), ev.values)
			ev.fill(fills)
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: rr}
		case op.GetRequestPut() != nil:
			var pr *pb.PutResponse
			pr, err = ev.put(op.GetRequestPut())
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: pr}
		case op.GetRequestDeleteRange() != nil:
			var dr *pb.DeleteRangeResponse
			dr, err = ev.deleteRange(op.GetRequestDeleteRange())
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: dr}
		case op.GetRequestTxn() != nil:
			var tr *pb.TxnResponse
			tr, err = ev.do(nested[0])
			nested = nested[1:]
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: tr}
		}
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses, out)
	}
	return resp, nil
}
