package history

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxFound bounds how much one check reports.
const maxFound = 20

// checker holds what the rules share.
type checker struct {
	ops   []*Op
	model *model
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
	m, err := newModel(views[0].Events())
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
	c.leases()
	return errors.Join(c.found...)
}

// changes says whether the answer says that something was changed.
func changes(response proto.Message) bool {
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
	if h.Revision < 1 || h.Revision > c.model.last() {
		c.fail("revision %d is not one of 1 to %d: %v", h.Revision, c.model.last(), op)
		return
	}
	before := h.Revision
	if changes(op.Response) {
		if before--; before < 1 {
			c.fail("a change in the first revision: %v", op)
			return
		}
		if other := c.by[h.Revision]; other != nil {
			c.fail("two changes have the revision %d:\n%v\n%v", h.Revision, other, op)
		}
		c.by[h.Revision] = op
	}
	if r, ok := op.Request.(*pb.RangeRequest); ok && r.Revision > c.model.last() {
		c.fail("there is no such revision to read: %v", op)
		return
	}
	want, events := c.model.execute(op.Request, before, h.Revision)
	if got := withoutHeaders(op.Response); !proto.Equal(got, want) {
		c.fail("revision %d explains another answer: %v\n%v", before, want, op)
	}
	if _, revoke := op.Request.(*pb.LeaseRevokeRequest); revoke {
		if len(events) > 0 {
			c.fail("the lease's keys are still there at revision %d: %v", h.Revision, op)
		}
		return
	}
	if len(events) > 0 && !sameEvents(events, c.model.events[h.Revision]) {
		c.fail("revision %d is %v, and not what was asked: %v", h.Revision, c.model.events[h.Revision], op)
	}
}

// withoutHeaders is a copy of an answer without its headers, inner ones too.
func withoutHeaders(response proto.Message) proto.Message {
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

// sameEvents leaves previous values aside: they were checked when the events were replayed.
func sameEvents(a, b []*mvccpb.Event) bool {
	return slices.EqualFunc(a, b, func(a, b *mvccpb.Event) bool { return a.Type == b.Type && proto.Equal(a.Kv, b.Kv) })
}

// unanswered finds who made each revision that no answered request made.
func (c *checker) unanswered() {
	var candidates []*Op
	for _, op := range c.ops {
		_, revoke := op.Request.(*pb.LeaseRevokeRequest)
		if op.Unknown || revoke && op.Err == nil {
			candidates = append(candidates, op)
		}
	}
	slices.SortStableFunc(candidates, func(a, b *Op) int { return cmp.Compare(a.End, b.End) })
	known := c.knownRevisions()
	for rev := int64(2); rev <= c.model.last(); rev++ {
		if c.by[rev] != nil {
			continue
		}
		at := slices.IndexFunc(candidates, func(op *Op) bool { return known.allow(op, rev) && c.couldMake(op, rev) })
		if at < 0 {
			c.fail("nobody asked for revision %d: %v", rev, c.model.events[rev])
			continue
		}
		c.by[rev] = candidates[at]
		candidates = slices.Delete(candidates, at, at+1)
	}
}

func (c *checker) couldMake(op *Op, rev int64) bool {
	_, events := c.model.execute(op.Request, rev-1, rev)
	if len(events) == 0 || !sameEvents(events, c.model.events[rev]) {
		return false
	}
	h := op.header()
	return h == nil || h.Revision >= rev
}

// known is what answers say of revisions and time.
type known struct{ begins, ends []moment }

// knownRevisions sorts the answers by time. In ends each moment has the highest revision known by then, in
// begins the lowest that anybody got who began later.
func (c *checker) knownRevisions() *known {
	k := &known{}
	for _, op := range c.ops {
		h := op.header()
		if h == nil {
			continue
		}
		k.ends = append(k.ends, moment{op.End, h.Revision, op})
		if r, _ := op.Request.(*pb.RangeRequest); !r.GetSerializable() {
			k.begins = append(k.begins, moment{op.Begin, h.Revision, op})
		}
	}
	slices.SortFunc(k.begins, byTime)
	slices.SortFunc(k.ends, byTime)
	for i := 1; i < len(k.ends); i++ {
		k.ends[i].rev = max(k.ends[i].rev, k.ends[i-1].rev)
	}
	for i := len(k.begins) - 2; i >= 0; i-- {
		k.begins[i].rev = min(k.begins[i].rev, k.begins[i+1].rev)
	}
	return k
}

// allow says whether a request can have made a revision, judged by the requests before and after it.
func (k *known) allow(op *Op, rev int64) bool {
	before, _ := slices.BinarySearchFunc(k.ends, op.Begin, moment.compare)
	if before > 0 && k.ends[before-1].rev >= rev {
		return false
	}
	after, found := slices.BinarySearchFunc(k.begins, op.End, moment.compare)
	for found && after < len(k.begins) && k.begins[after].at == op.End {
		after++
	}
	return after == len(k.begins) || k.begins[after].rev >= rev
}

// moment is a revision that somebody knew, or a request that has one.
type moment struct {
	at  time.Duration
	rev int64
	op  *Op
}

func (m moment) compare(at time.Duration) int { return cmp.Compare(m.at, at) }

func byTime(a, b moment) int { return cmp.Compare(a.at, b.at) }

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
		r, _ := b.op.Request.(*pb.RangeRequest)
		if b.rev < known.rev && !r.GetSerializable() || b.rev == known.rev && changed {
			c.fail("revision %d, after revision %d was known:\n%v\n%v", b.rev, known.rev, known.op, b.op)
		}
	}
}

// leases checks that what a revoked lease held stays away, and that a lease is refused for a reason.
func (c *checker) leases() {
	revoked := map[int64][]*Op{}
	for _, op := range c.ops {
		r, ok := op.Request.(*pb.LeaseRevokeRequest)
		if !ok {
			continue
		}
		revoked[r.ID] = append(revoked[r.ID], op)
		if h := op.header(); h != nil {
			c.away(r.ID, h.Revision)
		}
	}
	for _, op := range c.ops {
		if op.Err == nil || op.Unknown {
			continue
		}
		var leases []int64
		switch r := op.Request.(type) {
		case *pb.PutRequest:
			leases = append(leases, r.Lease)
		case *pb.LeaseRevokeRequest:
			leases = append(leases, r.ID)
		}
		reason := slices.ContainsFunc(leases, func(id int64) bool {
			return slices.ContainsFunc(revoked[id], func(r *Op) bool { return r != op && (r.Err == nil || r.Unknown) && r.Begin < op.End })
		})
		want := status.Convert(rpctypes.ErrGRPCLeaseNotFound)
		got := status.Convert(op.Err)
		if !reason || got.Code() != want.Code() || got.Message() != want.Message() {
			c.fail("an error without a reason: %v", op)
		}
	}
}

func (c *checker) away(lease, from int64) {
	for rev := from; rev <= c.model.last(); rev++ {
		for _, e := range c.model.events[rev] {
			if e.Kv.Lease == lease && rev > from {
				c.fail("revision %d uses lease %d, which was revoked by revision %d", rev, lease, from)
			}
		}
	}
}
