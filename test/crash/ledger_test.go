package crash

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// kv is a key's value as an answer shows it.
type kv struct {
	key, value                string
	create, mod, version, lea int64
}

// event is one change as a watcher sees it. prev is nil for a key that was not there.
type event struct {
	kv
	deleted bool
	prev    *kv
}

// revision is what one revision changed, and when a watcher was told.
type revision struct {
	events []event
	seen   time.Time
}

// effect is one change that a writer asked for.
type effect struct {
	key, value string
	deleted    bool
	lease      int64
}

// op is one request that changes something.
type op struct {
	effects []effect
	// rev is the revision of the answer, 0 if there was no answer.
	rev int64
	// prev has the previous values as the answer gave them, by key, nil if it was not asked.
	prev map[string]*kv
}

// observation is the answer of a read: all of keys that existed at rev.
type observation struct {
	keys []string
	kvs  []kv
	rev  int64
}

// leaseState is what is known of a lease.
type leaseState struct {
	id  int64
	ttl time.Duration
	// renewed is a moment before the last renewal that was answered: it does not expire before renewed+ttl.
	renewed time.Time
	// left is the most that can be left of it at the moment at.
	left time.Duration
	at   time.Time
	// unsure is a lease of which a grant or a revocation was not answered: it may be there or not.
	unsure bool
	// gone is a lease that was revoked or has expired.
	gone bool
}

// ledger holds what was asked and answered since the last settlement, and the
// state of all keys as of it. Its methods are for one goroutine at a time.
type ledger struct {
	settled  int64 // everything up to this revision is checked
	state    map[string]kv
	acked    map[int64]*op
	unknown  []*op
	observed []observation
	leases   map[int64]*leaseState
}

func newLedger() *ledger {
	return &ledger{settled: 1, state: map[string]kv{}, acked: map[int64]*op{}, leases: map[int64]*leaseState{}}
}

// record takes an op after its answer, or after it is known that none will come.
func (l *ledger) record(o *op) error {
	if o.rev == 0 {
		l.unknown = append(l.unknown, o)
		return nil
	}
	if o.rev <= l.settled {
		return fmt.Errorf("revision %d was handed out for %v, but was settled before", o.rev, o.effects)
	}
	if other := l.acked[o.rev]; other != nil {
		return fmt.Errorf("revision %d was handed out twice: for %v and for %v", o.rev, other.effects, o.effects)
	}
	l.acked[o.rev] = o
	return nil
}

// settle checks the history from the last settlement to its end against what
// was asked, answered and read. It fills in the events' prev.
func (l *ledger) settle(history map[int64]*revision, end int64) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	slices.SortStableFunc(l.observed, func(a, b observation) int { return cmp.Compare(a.rev, b.rev) })
	l.settleReads(l.settled, fail)
	for rev := l.settled + 1; rev <= end && len(errs) < 10; rev++ {
		r := history[rev]
		if r == nil {
			fail("revision %d of %d is missing", rev, end)
			continue
		}
		asked := l.askedFor(rev, r, fail)
		for i := range r.events {
			l.apply(&r.events[i], rev, fail)
		}
		if asked != nil {
			l.checkPrev(asked, r, rev, fail)
		}
		l.settleReads(rev, fail)
	}
	for rev, o := range l.acked {
		if rev > end {
			fail("revision %d was acknowledged for %v and is lost: the end is %d", rev, o.effects, end)
		}
	}
	for _, o := range l.observed {
		fail("a read was answered at revision %d, the end is %d", o.rev, end)
	}
	l.settled, l.acked, l.unknown, l.observed = end, map[int64]*op{}, nil, nil
	return errors.Join(errs...)
}

// askedFor finds who asked for a revision.
func (l *ledger) askedFor(rev int64, r *revision, fail func(string, ...any)) *op {
	if o := l.acked[rev]; o != nil {
		if !matches(o.effects, r.events) {
			fail("revision %d was acknowledged for %v and holds %v", rev, o.effects, r.events)
		}
		l.endLease(r)
		return o
	}
	for i, o := range l.unknown {
		if matches(o.effects, r.events) {
			l.unknown = slices.Delete(l.unknown, i, i+1)
			l.endLease(r)
			return nil
		}
	}
	if le := l.leaseOf(r.events); le != nil {
		if early := le.renewed.Add(le.ttl).Sub(r.seen); early > 0 {
			fail("lease %x expired at revision %d, %v too early", le.id, rev, early)
		}
		le.gone = true
		return nil
	}
	fail("revision %d holds what nobody asked for, or twice: %v", rev, r.events)
	return nil
}

// endLease notes that the keys of a lease were deleted: only a revocation does that.
func (l *ledger) endLease(r *revision) {
	if le := l.leaseOf(r.events); le != nil {
		le.gone = true
	}
}

// leaseOf gives the lease all of whose keys, and no others, are deleted by events.
func (l *ledger) leaseOf(events []event) *leaseState {
	id := l.state[events[0].key].lea
	le := l.leases[id]
	if id == 0 || le == nil || le.gone {
		return nil
	}
	for _, e := range events {
		if !e.deleted || l.state[e.key].lea != id {
			return nil
		}
	}
	if len(events) != len(l.leaseKeys(id)) {
		return nil
	}
	return le
}

func (l *ledger) leaseKeys(id int64) []string {
	var keys []string
	for i := range keysPerLease {
		if k := leaseKey(id, i); l.state[k].lea == id {
			keys = append(keys, k)
		}
	}
	return keys
}

func matches(want []effect, got []event) bool {
	return slices.EqualFunc(want, got, func(w effect, g event) bool {
		return w.key == g.key && w.deleted == g.deleted && (w.deleted || w.value == g.value && w.lease == g.lea)
	})
}

// apply moves the state by one event and checks what the event says of itself.
func (l *ledger) apply(e *event, rev int64, fail func(string, ...any)) {
	if before, ok := l.state[e.key]; ok {
		e.prev = &before
	}
	if e.deleted {
		if e.prev == nil {
			fail("revision %d deletes %s, which is not there", rev, e.key)
		}
		delete(l.state, e.key)
		return
	}
	want := kv{key: e.key, value: e.value, create: rev, mod: rev, version: 1, lea: e.lea}
	if e.prev != nil {
		want.create, want.version = e.prev.create, e.prev.version+1
	}
	if e.kv != want {
		fail("revision %d: event %v, want %v", rev, e.kv, want)
	}
	l.state[e.key] = want
}

func (l *ledger) checkPrev(o *op, r *revision, rev int64, fail func(string, ...any)) {
	if o.prev == nil {
		return
	}
	for _, e := range r.events {
		if got := o.prev[e.key]; !equalKV(got, e.prev) {
			fail("revision %d: the answer's prev_kv of %s is %v, want %v", rev, e.key, got, e.prev)
		}
	}
}

func equalKV(a, b *kv) bool { return a == b || a != nil && b != nil && *a == *b }

// settleReads checks the reads that were answered at rev, which is the state now.
func (l *ledger) settleReads(rev int64, fail func(string, ...any)) {
	i := 0
	for ; i < len(l.observed) && l.observed[i].rev <= rev; i++ {
		o := l.observed[i]
		if o.rev < rev {
			fail("a read was answered at revision %d, which was settled before it was asked", o.rev)
			continue
		}
		if want := l.values(o.keys); !slices.Equal(o.kvs, want) {
			fail("a read at revision %d gave %v, want %v", rev, o.kvs, want)
		}
	}
	l.observed = l.observed[i:]
}

// values gives the state of the keys that exist, in order.
func (l *ledger) values(keys []string) []kv {
	out := []kv{}
	for _, k := range keys {
		if v, ok := l.state[k]; ok {
			out = append(out, v)
		}
	}
	return out
}

// all gives the whole state in the order of keys.
func (l *ledger) all() []kv {
	out := []kv{}
	for _, v := range l.state {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b kv) int { return strings.Compare(a.key, b.key) })
	return out
}

// String keeps failures short: values are long.
func (v kv) String() string {
	return fmt.Sprintf("{%s=%s create=%d mod=%d version=%d lease=%x}", v.key, short(v.value), v.create, v.mod, v.version, v.lea)
}

func (e event) String() string {
	if e.deleted {
		return "{delete " + e.key + "}"
	}
	return e.kv.String()
}

func (e effect) String() string {
	if e.deleted {
		return "{delete " + e.key + "}"
	}
	return fmt.Sprintf("{%s=%s lease=%x}", e.key, short(e.value), e.lease)
}

func short(s string) string { return s[:min(len(s), 24)] }

const keysPerLease = 2

func leaseKey(id int64, i int) string { return fmt.Sprintf("lease/%016x/%d", uint64(id), i) }
