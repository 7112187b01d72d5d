package linear

import (
	"hash/maphash"
	"slices"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// call is one step for porcupine to find a place for.
type call struct {
	op   *history.Op
	kind kind
	// answer is the response without its headers.
	answer proto.Message
	// makes are the revisions that one without an answer may have made.
	makes []int64
}

type kind int

const (
	// answered is a request with its answer.
	answered kind = iota
	// observed is the revision in an answer's header, where it is a read of its own.
	observed
	// announced is the moment from which on a request without an answer may have been done, without a trace.
	announced
	// shownLater is a request without an answer that may have made a revision.
	shownLater
)

// judge is the model and what the watch has shown.
type judge struct {
	shown *history.Model
	seed  maphash.Seed
}

// step gives the state after a call, or nil if the answer is not that of this state.
func (j *judge) step(s *state, c *call) *state {
	switch c.kind {
	case observed:
		if s.rev == c.op.Revision() {
			return s
		}
		return nil
	case announced:
		return j.announce(s, c.op.Request)
	case shownLater:
		if s.rev == j.shown.Last() {
			return s // it was not done, or it changed nothing
		}
		if !slices.Contains(c.makes, s.rev+1) {
			return nil
		}
		return j.asShown(s, c.op.Request)
	}
	if c.op.Err != nil {
		return j.refuse(s, c.op)
	}
	switch r := c.op.Request.(type) {
	case *pb.LeaseGrantRequest:
		if _, ok := s.leases[r.ID]; ok || !proto.Equal(c.answer, &pb.LeaseGrantResponse{ID: r.ID, TTL: r.TTL}) {
			return nil
		}
		return s.withLease(j.seed, r.ID, &lease{})
	case *pb.LeaseRevokeRequest:
		return j.revoke(s, c.op)
	case *pb.CompactionRequest:
		if r.Revision <= s.compacted || r.Revision > s.rev {
			return nil
		}
		return s.compactAt(r.Revision)
	}
	return j.answer(s, c)
}

// announce takes note of a request that may be done from now on.
func (j *judge) announce(s *state, request proto.Message) *state {
	switch r := request.(type) {
	case *pb.LeaseGrantRequest:
		return s.withLease(j.seed, r.ID, &lease{unsure: true})
	case *pb.LeaseRevokeRequest:
		if l, ok := s.leases[r.ID]; ok {
			l.revoking = true
			return s.withLease(j.seed, r.ID, &l)
		}
	case *pb.CompactionRequest:
		return s.perhapsCompacted(j.seed, r.Revision)
	}
	return s
}

// answer does a request on keys, and compares what comes of it.
func (j *judge) answer(s *state, c *call) *state {
	rev := c.op.Revision()
	if rev != s.rev && rev != s.rev+1 {
		return nil
	}
	leases, revs := s.chosen(c.op.Request)
	if s = s.needs(j.seed, leases); s == nil || !s.reads(revs) {
		return nil
	}
	o := history.Execute(s.keys, c.op.Request, s.rev+1, s.past)
	if len(o.Events) > 0 {
		s = s.change(j.seed, o)
	}
	if s.rev != rev || !proto.Equal(o.Response, c.answer) {
		return nil
	}
	return s
}

// asShown does a request without an answer, if it comes to what the watch has shown.
func (j *judge) asShown(s *state, request proto.Message) *state {
	leases, revs := s.chosen(request)
	if s = s.needs(j.seed, leases); s == nil || !s.reads(revs) {
		return nil
	}
	o := history.Execute(s.keys, request, s.rev+1, s.past)
	if len(o.Events) == 0 || !j.isShown(s.rev+1, o.Events) {
		return nil
	}
	s = s.change(j.seed, o)
	if r, ok := request.(*pb.LeaseRevokeRequest); ok {
		s = s.withLease(j.seed, r.ID, nil)
	}
	return s
}

func (j *judge) isShown(rev int64, events []*mvccpb.Event) bool {
	return rev <= j.shown.Last() && history.SameEvents(events, j.shown.Events(rev))
}

// revoke ends a lease. Which revision took its keys is not in the answer; the watch tells.
func (j *judge) revoke(s *state, op *history.Op) *state {
	id := op.Request.(*pb.LeaseRevokeRequest).ID
	if s.keys.Holds(id) {
		s = j.asShown(s, op.Request)
	} else if s = s.needs(j.seed, []int64{id}); s != nil {
		s = s.withLease(j.seed, id, nil)
	}
	if s == nil || op.Revision() < s.rev {
		return nil
	}
	return s
}

// refuse explains an error. What it explains may become sure by that.
func (j *judge) refuse(s *state, op *history.Op) *state {
	leases, revs := s.chosen(op.Request)
	compaction, compacts := op.Request.(*pb.CompactionRequest)
	switch {
	case history.Is(op.Err, rpctypes.ErrGRPCLeaseNotFound):
		return s.misses(j.seed, leases)
	case history.Is(op.Err, rpctypes.ErrGRPCCompacted) && compacts:
		return s.lacks(compaction.Revision, true)
	case history.Is(op.Err, rpctypes.ErrGRPCCompacted):
		for _, rev := range revs {
			if rev == 0 {
				continue
			}
			if next := s.lacks(rev, false); next != nil {
				return next
			}
		}
	case history.Is(op.Err, rpctypes.ErrGRPCFutureRev) && compacts:
		if compaction.Revision > s.rev {
			return s
		}
	case history.Is(op.Err, rpctypes.ErrGRPCFutureRev):
		if slices.ContainsFunc(revs, func(rev int64) bool { return rev > s.rev }) {
			return s
		}
	}
	return nil
}
