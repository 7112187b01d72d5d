package linear

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// lease is what is known of a lease that may be there.
type lease struct {
	// unsure is a lease whose grant had no answer, and that nobody has met yet.
	unsure bool
	// revoking is a lease of which a revocation had no answer.
	revoking bool
}

// state is that of one etcd. It is not changed once it is made.
type state struct {
	rev       int64
	keys      history.State
	before    *state // at the revision before
	leases    map[int64]lease
	compacted int64
	perhaps   []int64 // revisions of compactions without an answer, ascending; none is taken out

	path uint64 // hash of all that was done to keys
	rest uint64 // hash of leases and compactions
}

func initial() *state {
	return &state{rev: 1, keys: history.State{}, leases: map[int64]lease{}}
}

// equal compares by hashes of how the states came about: porcupine compares often.
func (s *state) equal(t *state) bool {
	return s == t || s.rev == t.rev && s.compacted == t.compacted && s.path == t.path && s.rest == t.rest
}

// past gives the keys at a revision up to the present one.
func (s *state) past(rev int64) history.State {
	for s.rev > rev {
		s = s.before
	}
	return s.keys
}

// change moves to the next revision.
func (s *state) change(seed maphash.Seed, o history.Outcome) *state {
	next := *s
	next.rev, next.keys, next.before = s.rev+1, o.State, s
	var h maphash.Hash
	h.SetSeed(seed)
	maphash.WriteComparable(&h, s.path)
	for _, e := range o.Events {
		maphash.WriteComparable(&h, [2]int64{int64(e.Type), e.Kv.Lease})
		maphash.WriteComparable(&h, [2]string{string(e.Kv.Key), string(e.Kv.Value)})
	}
	next.path = h.Sum64()
	return &next
}

// withLease changes what is known of a lease; nil means that it is not there.
func (s *state) withLease(seed maphash.Seed, id int64, l *lease) *state {
	old, was := s.leases[id]
	if l == nil && !was || l != nil && was && old == *l {
		return s
	}
	next := *s
	next.leases = maps.Clone(s.leases)
	type entry struct {
		id int64
		lease
	}
	if was {
		next.rest ^= maphash.Comparable(seed, entry{id, old})
		delete(next.leases, id)
	}
	if l != nil {
		next.rest ^= maphash.Comparable(seed, entry{id, *l})
		next.leases[id] = *l
	}
	return &next
}

// compactAt moves the compact revision.
func (s *state) compactAt(rev int64) *state {
	next := *s
	next.compacted = rev
	return &next
}

// perhapsCompacted takes a compaction without an answer.
func (s *state) perhapsCompacted(seed maphash.Seed, rev int64) *state {
	next := *s
	next.perhaps = append(slices.Clone(s.perhaps), rev)
	slices.Sort(next.perhaps)
	next.rest ^= maphash.Comparable(seed, [2]int64{rev, int64(len(next.perhaps))})
	return &next
}

// needs finds the leases that a request needs: it fails if one of them cannot be there.
func (s *state) needs(seed maphash.Seed, leases []int64) *state {
	for _, id := range leases {
		if id == 0 {
			continue
		}
		l, ok := s.leases[id]
		if !ok {
			return nil
		}
		if l.unsure {
			l.unsure = false
			s = s.withLease(seed, id, &l)
		}
	}
	return s
}

// misses explains that one of the leases was not found.
func (s *state) misses(seed maphash.Seed, leases []int64) *state {
	for _, id := range leases {
		if l, ok := s.leases[id]; id != 0 && (!ok || l.unsure) {
			return s
		}
	}
	for _, id := range leases {
		// With keys, its end would have been a revision.
		if l := s.leases[id]; l.revoking && !s.keys.Holds(id) {
			return s.withLease(seed, id, nil)
		}
	}
	return nil
}

// lacks explains that the past up to a revision, and including it or not, was compacted.
func (s *state) lacks(rev int64, including bool) *state {
	gone := func(compacted int64) bool { return rev < compacted || including && rev == compacted }
	if gone(s.compacted) {
		return s
	}
	for _, compacted := range s.perhaps {
		if gone(compacted) && compacted > s.compacted && compacted <= s.rev {
			return s.compactAt(compacted)
		}
	}
	return nil
}

// reads says whether revisions of the past can be read; zeros stand for the present.
func (s *state) reads(revs []int64) bool {
	return !slices.ContainsFunc(revs, func(rev int64) bool { return rev != 0 && (rev < s.compacted || rev > s.rev) })
}

// chosen gives the leases and the past revisions that a request needs in this state.
func (s *state) chosen(request any) (leases, revs []int64) {
	switch r := request.(type) {
	case *pb.TxnRequest:
		ops, _ := s.keys.Branch(r)
		return history.LeasesOfBranch(ops), history.PastOfBranch(ops)
	case *pb.RangeRequest:
		return nil, []int64{r.Revision}
	case *pb.PutRequest:
		return []int64{r.Lease}, nil
	case *pb.LeaseRevokeRequest:
		return []int64{r.ID}, nil
	}
	return nil, nil
}

// String shows a state as far as it helps.
func (s *state) String() string {
	var keys []string
	for _, kv := range s.keys {
		keys = append(keys, describeKV(kv))
	}
	slices.Sort(keys)
	return fmt.Sprintf("revision %d, compacted %d, %v, leases %v", s.rev, s.compacted, keys, s.leases)
}

func describeKV(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf("%s=%s(create %d, mod %d, version %d, lease %x)", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}
