package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// simulation is a store, a hub and its clients in one goroutine. Wherever the real ones may be interrupted, it calls
// step, which does something else first; so one seed is one interleaving. What etcd would tell of
// the changes is kept apart, in etcd's own messages.
type simulation struct {
	*rand.Rand
	t     *testing.T
	hub   *Hub
	steps int  // still to be done
	roomy bool // streams have room for everything

	ix        *mvcc.Index
	log       []drivers.Entry // position p at p-1; scrubbed ones are of kind 0
	publish   func()          // the commit that readers see already and watchers not yet
	freed     []int64         // to be scrubbed
	failing   bool            // the log cannot be read
	catching  bool            // the hub is catching up: one at a time
	behind    bool            // what is committed is another server's, and is told to nobody here
	depth     int             // of steps within steps
	live      map[string]*mvccpb.KeyValue
	changes   []*mvccpb.Event // all of them, with prev_kv
	clients   []*client
	happening map[string]int // what came about how often
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		Rand: rand.New(rand.NewPCG(seed, 1)), t: t, steps: 400, ix: mvcc.NewIndex(),
		live: make(map[string]*mvccpb.KeyValue), happening: make(map[string]int),
	}
	// From no room at all to room for everything.
	s.roomy = s.IntN(3) == 0
	opts := Options{RecentBytes: 1 + s.IntN(2)*s.IntN(6000), StreamBytes: 1 + s.IntN(3)*s.IntN(2000)}
	if s.roomy {
		opts.StreamBytes = 1 << 30
	}
	s.hub = NewHub(opts)
	s.hub.Attach(s)
	return s
}

func (s *simulation) Index() *mvcc.Index { return s.ix }

var errUnreadable = errors.New("the log cannot be read")

// History reads the log in slices that end with a revision, as sqllog.Store does; it is interrupted between entries.
func (s *simulation) History(_ context.Context, ix *mvcc.Index, from int64, fn func([]*mvcc.Event) bool) error {
	var slice []*mvcc.Event
	for p := ix.Before(from) + 1; p <= ix.End.Position; p++ {
		s.step()
		if s.failing {
			s.failing = false
			return errUnreadable
		}
		entry := s.log[p-1]
		events, err := ix.Events(&entry, from)
		if err != nil || len(events) == 0 {
			if err != nil {
				s.t.Error(err)
			}
			continue
		}
		if n := len(slice); n > 0 && slice[n-1].Main != events[0].Main && s.IntN(3) == 0 {
			if !fn(slice) {
				return nil
			}
			slice = nil
		}
		slice = append(slice, events...)
	}
	s.step()
	if len(slice) > 0 {
		fn(slice)
	}
	return nil
}

func (s *simulation) Values(_ context.Context, positions []int64) ([][]byte, error) {
	s.step()
	out := make([][]byte, len(positions))
	for i, p := range positions {
		if out[i] = s.log[p-1].Value; s.log[p-1].Kind == 0 {
			return nil, fmt.Errorf("position %d: %w", p, drivers.ErrScrubbed)
		}
	}
	return out, nil
}

// run does all steps.
func (s *simulation) run() {
	for s.steps > 0 {
		s.depth = 0
		s.step()
	}
}

// step does something at random, or nothing when it is within too many others.
func (s *simulation) step() {
	if s.depth == 3 || s.steps <= 0 || s.depth > 0 && s.IntN(3) > 0 {
		return
	}
	s.steps--
	s.depth++
	defer func() { s.depth-- }()
	switch n := s.IntN(100); {
	case n < 25:
		s.commit()
	case n < 35:
		s.publishLast()
	case n < 38:
		s.compact()
	case n < 42:
		s.prune()
	case n < 46:
		s.scrub()
	case n < 47:
		s.overhaul()
	case n < 48:
		s.failing = s.IntN(3) == 0
	case n < 50:
		s.reload()
	case n < 57:
		s.catchUp()
	case n < 60 && len(s.clients) < 4 || len(s.clients) == 0:
		s.clients = append(s.clients, &client{sim: s, stream: s.hub.NewStream(), known: make(map[int64]*watching), served: make(map[int64]*watching)})
	default:
		s.clients[s.IntN(len(s.clients))].step()
	}
}

func (s *simulation) publishLast() {
	if s.publish != nil {
		s.publish()
		s.publish = nil
	}
}

func (s *simulation) key() []byte { return []byte{byte('a' + s.IntN(6))} }

// evaluate does requests as one batch, and publishes it at once or later.
func (s *simulation) evaluate(requests ...any) {
	s.publishLast()
	b, results := mvcc.Evaluate(s.ix, mvcc.Env{}, requests)
	for _, r := range results {
		if r.Err != nil {
			s.t.Fatal(r.Err)
		}
	}
	s.log = append(s.log, b.Entries()...)
	end := s.ix.End
	end.Position = int64(len(s.log))
	s.ix = b.Index(end)
	ix, events := s.ix, b.Events()
	if len(events) == 0 || s.behind {
		return
	}
	s.publish = func() { s.hub.Publish(ix, events) }
	if s.IntN(4) > 0 {
		s.publishLast()
	}
}

// commit makes a batch of requests and tells what they do.
func (s *simulation) commit() {
	var requests []any
	rev := s.ix.Rev
	for range 1 + s.IntN(3) {
		before := len(s.changes)
		switch n := s.IntN(20); {
		case n == 0:
			requests = append(requests, &pb.DeleteRangeRequest{Key: []byte("d"), RangeEnd: []byte{0}})
			for _, k := range slices.Sorted(maps.Keys(s.live)) {
				if k >= "d" {
					s.tellDelete(k, rev+1)
				}
			}
		case n < 10:
			p := &pb.PutRequest{Key: s.key(), Value: s.value()}
			requests = append(requests, p)
			s.tellPut(p, rev+1)
		default:
			requests = append(requests, s.txn(rev+1))
		}
		if len(s.changes) > before {
			rev++
		}
	}
	s.evaluate(requests...)
	if s.ix.Rev != rev {
		s.t.Fatalf("revision %d, %d in the model", s.ix.Rev, rev)
	}
}

// txn makes a transaction that changes some keys, or deletes one that is not there.
func (s *simulation) txn(rev int64) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for _, k := range s.Perm(6)[:1+s.IntN(4)] {
		op := &pb.RequestOp{}
		key := string(rune('a' + k))
		if s.IntN(3) == 0 {
			d := &pb.DeleteRangeRequest{Key: []byte(key)}
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}
			s.tellDelete(key, rev)
		} else {
			p := &pb.PutRequest{Key: []byte(key), Value: s.value()}
			op.Request = &pb.RequestOp_RequestPut{RequestPut: p}
			s.tellPut(p, rev)
		}
		txn.Success = append(txn.Success, op)
	}
	return txn
}

func (s *simulation) value() []byte {
	if s.IntN(4) == 0 {
		return nil
	}
	return fmt.Appendf(nil, "%d", s.Uint64())
}

func (s *simulation) tellPut(p *pb.PutRequest, rev int64) {
	kv := &mvccpb.KeyValue{Key: p.Key, Value: p.Value, CreateRevision: rev, ModRevision: rev, Version: 1}
	prev := s.live[string(p.Key)]
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	s.live[string(p.Key)] = kv
	s.changes = append(s.changes, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv, PrevKv: prev})
}

func (s *simulation) tellDelete(key string, rev int64) {
	if prev := s.live[key]; prev != nil {
		delete(s.live, key)
		gone := &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev}
		s.changes = append(s.changes, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: gone, PrevKv: prev})
	}
}

func (s *simulation) compact() {
	if room := s.ix.Rev - max(s.ix.Compact, 1); room > 0 {
		s.evaluate(&pb.CompactionRequest{Revision: s.ix.Rev - s.Int64N(room)})
	}
}

// prune frees in the index what is compacted, as sqllog.Store.Prune does between two batches.
func (s *simulation) prune() {
	if s.ix.Compact <= 0 {
		return
	}
	s.publishLast()
	keys, _ := s.ix.Prunable("", s.ix.Compact, 1000)
	b := s.ix.Edit(false)
	s.freed = append(s.freed, mvcc.Positions(b.Prune(keys, s.ix.Compact))...)
	s.freed = append(s.freed, mvcc.Positions(b.TakeGarbage())...)
	s.ix = b.Index(s.ix.End)
}

// scrub removes from the log what was freed in the index.
func (s *simulation) scrub() {
	s.freed = slices.DeleteFunc(s.freed, func(p int64) bool {
		if p == int64(len(s.log)) {
			return false // the last one stays
		}
		s.log[p-1] = drivers.Entry{Position: p}
		return true
	})
}

// overhaul replaces every key in one revision and frees what there was.
func (s *simulation) overhaul() {
	txn, rev := &pb.TxnRequest{}, s.ix.Rev+1
	for k := range 6 {
		p := &pb.PutRequest{Key: []byte{byte('a' + k)}, Value: s.value()}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
		s.tellPut(p, rev)
	}
	s.evaluate(txn, &pb.CompactionRequest{Revision: rev})
	s.prune()
	s.scrub()
}

// reload has another server commit, and scrub, so much that this one has to load the log anew. Readers see the new
// index before watchers do, as with a commit.
func (s *simulation) reload() {
	s.publishLast()
	before := s.ix.Rev
	s.behind = true
	for range s.IntN(4) {
		s.commit()
	}
	if s.IntN(2) == 0 {
		s.compact()
		s.prune()
		s.scrub()
	}
	for range s.IntN(3) {
		s.commit()
	}
	s.behind = false
	b := mvcc.NewIndex().Edit(false)
	for _, e := range s.log {
		if e.Kind == 0 {
			continue
		}
		if err := b.Load([]drivers.Entry{e}); err != nil {
			s.t.Fatal(err)
		}
	}
	b.Settle()
	s.ix = b.Index(s.ix.End)
	if s.ix.Rev > before {
		s.happening["reloaded"]++
	}
	ix := s.ix
	s.publish = func() { s.hub.Reloaded(ix) }
	if s.IntN(2) == 0 {
		s.publishLast()
	}
}

// catchUp is a round of Hub.Run, if that was woken.
func (s *simulation) catchUp() {
	if s.catching {
		return
	}
	select {
	case <-s.hub.woken:
	default:
		return
	}
	s.catching = true
	defer func() { s.catching = false }()
	for rounds := 0; ; rounds++ {
		group := s.hub.pick()
		if len(group) == 0 {
			return
		}
		if rounds > 1000 {
			s.t.Fatal("watchers are caught up for ever")
		}
		s.step()
		if err := s.hub.catchUp(s.t.Context(), group); err != nil {
			if !errors.Is(err, errUnreadable) {
				s.t.Fatal(err)
			}
			s.happening["log unreadable"]++
			for _, w := range group {
				for _, c := range s.clients {
					c.mayFail = c.mayFail || c.stream == w.stream
				}
			}
			s.hub.breakStreams(group, err)
		}
	}
}

// settle lets everything that is under way come to its end, and asks all clients to read.
func (s *simulation) settle() {
	s.depth, s.steps, s.failing = 0, 0, false
	s.publishLast()
	for more := true; more; {
		s.catchUp()
		more = false
		for _, c := range slices.Clone(s.clients) {
			more = c.read() || more
		}
	}
}
