package history

import (
	"cmp"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// makers assigns requests to the revisions that no answer claims. Several requests may have made one,
// and a request several, so it is a matching in a bipartite graph, found by augmenting paths.
type makers struct {
	candidates []*Op
	could      map[int64][]int // by revision, in candidates
	made       map[int]int64   // by candidate
}

// unanswered finds who made each revision that no answered request made.
func (c *checker) unanswered() {
	m := &makers{could: map[int64][]int{}, made: map[int]int64{}}
	for _, op := range c.ops {
		_, revoke := op.Request.(*pb.LeaseRevokeRequest)
		if op.Unknown || revoke && op.Err == nil {
			m.candidates = append(m.candidates, op)
		}
	}
	slices.SortStableFunc(m.candidates, func(a, b *Op) int { return cmp.Compare(a.End, b.End) })
	known := c.knownRevisions()
	for rev := int64(2); rev <= c.model.Last(); rev++ {
		if c.by[rev] != nil {
			continue
		}
		for i, op := range m.candidates {
			if known.allow(op, rev) && c.couldMake(op, rev) {
				m.could[rev] = append(m.could[rev], i)
			}
		}
		if !m.assign(rev, map[int]bool{}) {
			c.fail("nobody asked for revision %d: %v", rev, c.model.events[rev])
		}
	}
	for i, rev := range m.made {
		c.by[rev] = m.candidates[i]
	}
}

// assign finds a candidate for a revision; others may have to change theirs.
func (m *makers) assign(rev int64, tried map[int]bool) bool {
	for _, i := range m.could[rev] {
		if tried[i] {
			continue
		}
		tried[i] = true
		if other, taken := m.made[i]; !taken || m.assign(other, tried) {
			m.made[i] = rev
			return true
		}
	}
	return false
}

func (c *checker) couldMake(op *Op, rev int64) bool {
	_, events := c.model.execute(op.Request, rev-1, rev)
	if len(events) == 0 || !SameEvents(events, c.model.events[rev]) {
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
		if !op.Serializable() {
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
