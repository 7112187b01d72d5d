package crash

import (
	"strings"
	"testing"
	"time"
)

// story is a small true history, and what was asked for it.
type story struct {
	history  map[int64]*revision
	ops      []*op
	observed []observation
	leases   map[int64]*leaseState
	end      int64
}

func trueStory() *story {
	a := kv{key: "a", value: "1", create: 2, mod: 2, version: 1}
	a2 := kv{key: "a", value: "2", create: 2, mod: 3, version: 2}
	b := kv{key: "b", value: "3", create: 3, mod: 3, version: 1}
	held := kv{key: leaseKey(7, 0), value: "h", create: 5, mod: 5, version: 1, lea: 7}
	now := time.Now()
	at := func(events ...event) *revision { return &revision{events: events, seen: now} }
	return &story{
		history: map[int64]*revision{
			2: at(event{kv: a}),
			3: at(event{kv: a2}, event{kv: b}),
			4: at(event{kv: kv{key: "a", mod: 4}, deleted: true}),
			5: at(event{kv: held}),
			6: at(event{kv: kv{key: held.key, mod: 6}, deleted: true}),
		},
		ops: []*op{
			{effects: []effect{{key: "a", value: "1"}}, rev: 2, prev: map[string]*kv{}},
			{effects: []effect{{key: "a", value: "2"}, {key: "b", value: "3"}}},
			{effects: []effect{{key: "a", deleted: true}}, rev: 4, prev: map[string]*kv{"a": &a2}},
			{effects: []effect{{key: held.key, value: "h", lease: 7}}, rev: 5},
			{effects: []effect{{key: "c", value: "never"}}},
		},
		observed: []observation{{keys: []string{"a", "b"}, kvs: []kv{a2, b}, rev: 3}, {keys: []string{"a"}, kvs: []kv{}, rev: 6}},
		leases:   map[int64]*leaseState{7: {id: 7, ttl: time.Second, renewed: now.Add(-time.Minute)}},
		end:      6,
	}
}

func (s *story) settle() error {
	l := newLedger()
	l.leases, l.observed = s.leases, s.observed
	for _, o := range s.ops {
		if err := l.record(o); err != nil {
			return err
		}
	}
	return l.settle(s.history, s.end)
}

// TestLedger makes a true story false in one thing at a time.
func TestLedger(t *testing.T) {
	t.Parallel()
	if err := trueStory().settle(); err != nil {
		t.Fatalf("the true story: %v", err)
	}
	for _, c := range []struct {
		name, want string
		change     func(s *story)
	}{
		{"lost", "is lost", func(s *story) { s.end = 4 }},
		{"gap", "revision 3 of 6 is missing", func(s *story) { delete(s.history, 3) }},
		{"handed out twice", "handed out twice", func(s *story) { s.ops[3].rev = 4 }},
		{"half", "nobody asked for", func(s *story) { s.history[3].events = s.history[3].events[:1] }},
		{"order of a transaction", "nobody asked for", func(s *story) { e := s.history[3].events; e[0], e[1] = e[1], e[0] }},
		{"other value", "was acknowledged for", func(s *story) { s.history[2].events[0].value = "x" }},
		{"twice", "nobody asked for", func(s *story) {
			s.end = 7
			s.history[7] = &revision{events: s.history[3].events}
		}},
		{"version", "event", func(s *story) { s.history[3].events[0].version = 1 }},
		{"create revision", "event", func(s *story) { s.history[3].events[0].create = 3 }},
		{"delete of nothing", "not there", func(s *story) {
			s.ops[4].effects = []effect{{key: "c", deleted: true}}
			s.end = 7
			s.history[7] = &revision{events: []event{{kv: kv{key: "c", mod: 7}, deleted: true}}}
		}},
		{"prev_kv", "prev_kv", func(s *story) { s.ops[2].prev = map[string]*kv{} }},
		{"stale read", "a read at revision 3", func(s *story) { s.observed[0].kvs = nil }},
		{"read ahead of the end", "the end is 6", func(s *story) { s.observed[1].rev = 7 }},
		{"read of a revision settled before", "settled before", func(s *story) { s.observed[0].rev = 0 }},
		{"lease too early", "too early", func(s *story) { s.leases[7].renewed = time.Now() }},
		{"lease gone before", "nobody asked for", func(s *story) { s.leases[7].gone = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := trueStory()
			c.change(s)
			if err := s.settle(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
