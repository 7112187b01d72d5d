package sqllog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// company are servers on one log, and clients who use them all at once. What clients know of each other is
// real time: who asks after another one was answered sees what that one did.
type company struct {
	t       *testing.T
	mem     *memory.Store
	servers []*server

	mu      sync.Mutex
	acked   map[string]int64 // by key, the highest revision of a put that was acknowledged
	created map[string]int   // how many creations of a key were acknowledged
	refused map[string]bool  // values of which it was said that they are not written
	failed  int              // requests that did not get their answer
}

// TestServers: on one, two and three servers, with logs that fail now and then.
func TestServers(t *testing.T) {
	for _, how := range []struct {
		servers int
		change  []func(*Options)
	}{{servers: 1, change: []func(*Options){alone}}, {servers: 1}, {servers: 2}, {servers: 3}} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%d shared %v seed %d", how.servers, how.change == nil, seed), func(t *testing.T) {
				c := &company{t: t, mem: memory.NewStore(), acked: map[string]int64{}, created: map[string]int{}, refused: map[string]bool{}}
				for range how.servers {
					c.servers = append(c.servers, start(t, c.mem, how.change...))
				}
				c.run(seed)
			})
		}
	}
}

func (c *company) run(seed uint64) {
	var wg sync.WaitGroup
	var following []func()
	for _, s := range c.servers {
		following = append(following, s.follow())
	}
	for n := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			for i := range 100 {
				c.fail(r)
				c.step(r, int64(1000*n+i+1))
			}
		})
	}
	wg.Wait()
	for _, stop := range following {
		stop()
	}
	c.finish()
}

// any gives one of the servers.
func (c *company) any(r *rand.Rand) *server { return c.servers[r.IntN(len(c.servers))] }

// fail has a log fail now and then.
func (c *company) fail(r *rand.Rand) {
	ops := []memory.Op{memory.OpAppend, memory.OpAppend, memory.OpAppend, memory.OpReadIndex, memory.OpFollow, memory.OpHold, memory.OpValues}
	op, l := ops[r.IntN(len(ops))], c.any(r).log
	if r.IntN(6) > 0 || l.Pending(op) > 0 {
		return
	}
	f := memory.Fault{Err: errors.New("no answer")}
	if op == memory.OpAppend {
		f = []memory.Fault{{Err: drivers.ErrUncertain}, {Err: drivers.ErrUncertain, Apply: true}, {Err: drivers.ErrUncertain, Late: true}, {Err: drivers.ErrNoSpace}}[r.IntN(4)]
	}
	l.Inject(op, f)
}

// answered tells whether a request got its answer, and not one of those that a log that fails explains.
func (c *company) answered(err error) bool {
	switch {
	case err == nil:
		return true
	case errors.Is(err, ErrStorage), errors.Is(err, drivers.ErrUncertain):
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed++
	default:
		c.t.Errorf("the answer is %v", err)
	}
	return false
}

// step does something at random; id is nobody else's.
func (c *company) step(r *rand.Rand, id int64) {
	key, value := fmt.Sprint("k", r.IntN(5)), fmt.Sprint(id)
	c.mu.Lock()
	least := c.acked[key]
	c.mu.Unlock()
	switch r.IntN(10) {
	case 0, 1, 2, 3:
		c.put(c.any(r), key, value)
	case 4:
		c.create(c.any(r), fmt.Sprint("c", id%100/3), value)
	case 5:
		// A transaction that changes nothing, through the loop.
		resp, err := c.any(r).do(&pb.TxnRequest{Success: create(key, "").Failure})
		if c.answered(err) {
			c.fresh("a transaction", resp.(*pb.TxnResponse).Responses[0].GetResponseRange().Kvs, least)
		}
	case 6:
		c.lease(r, id)
	default:
		resp, err := c.any(r).ReadTxn(context.Background(), &pb.TxnRequest{Success: create(key, "").Failure})
		if c.answered(err) {
			c.fresh("a read", resp.Responses[0].GetResponseRange().Kvs, least)
		}
	}
}

// fresh checks that what was read is not older than what was acknowledged before it was asked for.
func (c *company) fresh(what string, kvs []*mvccpb.KeyValue, least int64) {
	if len(kvs) == 0 && least > 0 || len(kvs) > 0 && kvs[0].ModRevision < least {
		c.t.Errorf("%s gives %v, revision %d had been acknowledged before", what, kvs, least)
	}
}

func (c *company) put(s *server, key, value string) {
	resp, err := s.do(put(key, value))
	if !c.answered(err) {
		if !errors.Is(err, drivers.ErrUncertain) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.refused[value] = true
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[key] = max(c.acked[key], resp.(*pb.PutResponse).Header.Revision)
}

func (c *company) create(s *server, key, value string) {
	resp, err := s.do(create(key, value))
	if c.answered(err) && resp.(*pb.TxnResponse).Succeeded {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.created[key]++
	}
}

// lease does with a lease what is done with one, each on another server.
func (c *company) lease(r *rand.Rand, id int64) {
	for _, request := range []any{&pb.LeaseGrantRequest{ID: id, TTL: 60}, &mvcc.Renew{ID: id}, &pb.PutRequest{Key: fmt.Append(nil, "l", id), Lease: id}, &pb.LeaseRevokeRequest{ID: id}} {
		if _, err := c.any(r).do(request); !c.answered(err) {
			return
		}
	}
	_, values, err := c.any(r).Range(context.Background(), &pb.RangeRequest{Key: fmt.Append(nil, "l", id)})
	if c.answered(err) && len(values) > 0 {
		c.t.Errorf("a key outlives lease %d", id)
	}
}

// finish lets all servers come to the end, where they have told the same.
func (c *company) finish() {
	for _, s := range c.servers {
		for ok := false; !ok; {
			_, err := s.do(&mvcc.Barrier{})
			_, _, rerr := s.Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
			ok = c.answered(err) && c.answered(rerr)
		}
	}
	for _, s := range c.servers {
		if _, err := s.Linearizable(c.t.Context()); err != nil && !errors.Is(err, ErrStorage) {
			c.t.Error(err)
		}
		s.checkPublished()
		s.checkSame(c.servers[0])
		if !slices.EqualFunc(s.events, c.servers[0].events, func(a, b *mvcc.Event) bool {
			return a.Key == b.Key && a.Version == b.Version && a.Prev == b.Prev && string(a.Value) == string(b.Value)
		}) {
			c.t.Error("two servers have published different events")
		}
	}
	puts := map[string]int{}
	for _, ev := range c.servers[0].events {
		if c.refused[string(ev.Value)] {
			c.t.Errorf("%q of %q was said not to be written", ev.Value, ev.Key)
		}
		if !ev.Tombstone() {
			puts[ev.Key+" "+string(ev.Value)]++
		}
	}
	for what, n := range puts {
		if n > 1 && what[0] != 'l' {
			c.t.Errorf("%q was written %d times", what, n)
		}
	}
	for key, n := range c.created {
		if n > 1 {
			c.t.Errorf("%q was created %d times", key, n)
		}
	}
	if c.failed == 0 {
		c.t.Error("nothing failed")
	}
	checkLog(c.t, c.mem)
	start(c.t, c.mem).checkSame(c.servers[0])
}
