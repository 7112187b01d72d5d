package history

import (
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// maxFound bounds how much one check reports.
const maxFound = 20

// checker holds what the rules share.
type checker struct {
	ops   []*Op
	model *Model
	by    map[int64]*Op // who made a revision
	found []error
}

func (c *checker) fail(format string, args ...any) {
	if len(c.found) < maxFound {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

// Check holds requests and views against each other. The first view is that of a watch of
// everything from the first revision on; it must reach as far as any answer does.
func Check(ops []*Op, views []*View) error {
	if len(views) == 0 {
		return errors.New("history: no view of the revisions")
	}
	m, err := NewModel(views[0].Events())
	if err != nil {
		return fmt.Errorf("watcher %s: %w", views[0].Name, err)
	}
	c := &checker{ops: ops, model: m, by: map[int64]*Op{}}
	for _, v := range views {
		c.view(v)
	}
	for _, op := range ops {
		c.answer(op)
	}
	c.unanswered()
	c.realTime()
	c.revocations()
	c.refusals()
	return errors.Join(c.found...)
}

// Changed says whether an answer says that it changed something; that of a revocation does not say.
func Changed(response proto.Message) bool {
	switch r := response.(type) {
	case *pb.PutResponse:
		return true
	case *pb.DeleteRangeResponse:
		return r.Deleted > 0
	case *pb.TxnResponse:
		return slices.ContainsFunc(r.Responses, func(op *pb.ResponseOp) bool {
			return op.GetResponsePut() != nil || op.GetResponseDeleteRange().GetDeleted() > 0
		})
	}
	return false
}

// answer explains one answer by the state at its revision.
func (c *checker) answer(op *Op) {
	h := op.header()
	if h == nil {
		return
	}
	if h.Revision < 1 || h.Revision > c.model.Last() {
		c.fail("revision %d is not one of 1 to %d: %v", h.Revision, c.model.Last(), op)
		return
	}
	before := h.Revision
	if Changed(op.Response) {
		if before--; before < 1 {
			c.fail("a change in the first revision: %v", op)
			return
		}
		if other := c.by[h.Revision]; other != nil {
			c.fail("two changes have the revision %d:\n%v\n%v", h.Revision, other, op)
		}
		c.by[h.Revision] = op
	}
	if r, ok := op.Request.(*pb.RangeRequest); ok && r.Revision > c.model.Last() {
		c.fail("there is no such revision to read: %v", op)
		return
	}
	want, events := c.model.execute(op.Request, before, h.Revision)
	if got := WithoutHeaders(op.Response); !proto.Equal(got, want) {
		c.fail("revision %d explains another answer: %v\n%v", before, want, op)
	}
	if _, revoke := op.Request.(*pb.LeaseRevokeRequest); revoke {
		if len(events) > 0 {
			c.fail("the lease's keys are still there at revision %d: %v", h.Revision, op)
		}
		return
	}
	if len(events) > 0 && !SameEvents(events, c.model.events[h.Revision]) {
		c.fail("revision %d is %v, and not what was asked: %v", h.Revision, c.model.events[h.Revision], op)
	}
}

// WithoutHeaders is a copy of an answer without its headers, inner ones too.
func WithoutHeaders(response proto.Message) proto.Message {
	m := proto.Clone(response)
	switch r := m.(type) {
	case *pb.RangeResponse:
		r.Header = nil
	case *pb.PutResponse:
		r.Header = nil
	case *pb.DeleteRangeResponse:
		r.Header = nil
	case *pb.LeaseGrantResponse:
		r.Header = nil
	case *pb.LeaseRevokeResponse:
		r.Header = nil
	case *pb.CompactionResponse:
		r.Header = nil
	case *pb.TxnResponse:
		r.Header = nil
		for _, op := range r.Responses {
			if x := op.GetResponseRange(); x != nil {
				x.Header = nil
			}
			if x := op.GetResponsePut(); x != nil {
				x.Header = nil
			}
			if x := op.GetResponseDeleteRange(); x != nil {
				x.Header = nil
			}
		}
	}
	return m
}

// SameEvents compares events, but leaves previous values aside: they are checked when events are replayed.
func SameEvents(a, b []*mvccpb.Event) bool {
	return slices.EqualFunc(a, b, func(a, b *mvccpb.Event) bool { return a.Type == b.Type && proto.Equal(a.Kv, b.Kv) })
}

// realTime checks that revisions follow the order of requests that did not overlap.
func (c *checker) realTime() {
	made := map[*Op]int64{}
	for rev, op := range c.by {
		made[op] = rev
	}
	var begins, ends []moment
	for _, op := range c.ops {
		rev, changed := made[op]
		if h := op.header(); h != nil && !changed {
			rev = h.Revision
		}
		if rev == 0 {
			continue
		}
		begins = append(begins, moment{op.Begin, rev, op})
		ends = append(ends, moment{op.End, rev, op})
	}
	slices.SortFunc(begins, byTime)
	slices.SortFunc(ends, byTime)
	var known moment
	for _, b := range begins {
		for len(ends) > 0 && ends[0].at < b.at {
			if ends[0].rev > known.rev {
				known = ends[0]
			}
			ends = ends[1:]
		}
		_, changed := made[b.op]
		if b.rev < known.rev && !b.op.Serializable() || b.rev == known.rev && changed {
			c.fail("revision %d, after revision %d was known:\n%v\n%v", b.rev, known.rev, known.op, b.op)
		}
	}
}
