package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// Sizes of the load.
const (
	writers       = 16
	keysPerWriter = 6
	sharedKeys    = 3
	sharers       = 3
	readers       = 2
	leaseHolders  = 2
	leasesEach    = 5
)

// load is what runs between a start of the server and its end.
type load struct {
	client *clientv3.Client
	rng    func(worker int) *rand.Rand
	round  int
	// compactTo gives the highest revision that may be compacted.
	compactTo func() int64

	// ending is set just before the server is ended: from then on errors are expected.
	ending atomic.Bool
	// floor is the highest revision that any answer so far has shown.
	floor atomic.Int64
	// compacted is the highest revision of which a compaction was acknowledged.
	compacted atomic.Int64
	acks      atomic.Int64

	mu     sync.Mutex
	ledger *ledger
}

// errEnded says that a request was not answered because the server was ended.
var errEnded = errors.New("the server was ended")

// run loads the server until it is ended and then ctx. Any error before that is given.
func (l *load) run(ctx context.Context) error {
	var g errgroup.Group
	worker := 0
	start := func(n int, prepare func(i int, rng *rand.Rand) func(context.Context) error) {
		for i := range n {
			step := prepare(i, l.rng(worker))
			worker++
			g.Go(func() error {
				for {
					if err := step(ctx); errors.Is(err, errEnded) {
						return nil
					} else if err != nil {
						return err
					}
				}
			})
		}
	}
	start(writers, l.writer)
	start(sharers, l.sharer)
	start(readers, l.reader)
	start(leaseHolders, l.holder)
	start(1, l.compactor)
	start(1, l.defragmenter)
	return g.Wait()
}

// failed turns the error of a request into errEnded if the server was ended.
func (l *load) failed(what string, err error) error {
	if l.ending.Load() {
		return errEnded
	}
	return fmt.Errorf("%s: %w", what, err)
}

// saw takes note of an answer's revision; before is the floor when it was asked.
func (l *load) saw(rev, before int64) error {
	if rev < before {
		return fmt.Errorf("header revision %d, but %d was answered before it was asked", rev, before)
	}
	for {
		floor := l.floor.Load()
		if rev <= floor || l.floor.CompareAndSwap(floor, rev) {
			return nil
		}
	}
}

func (l *load) record(o *op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.rev != 0 {
		l.acks.Add(1)
	}
	return l.ledger.record(o)
}

// change sends a request that changes something, and records it with its answer.
func (l *load) change(effects []effect, send func() (int64, map[string]*kv, error)) (int64, error) {
	before := l.floor.Load()
	rev, prev, err := send()
	if err != nil {
		if rerr := l.record(&op{effects: effects}); rerr != nil {
			return 0, rerr
		}
		return 0, l.failed("change", err)
	}
	if rev <= before {
		return 0, fmt.Errorf("a change was given revision %d, but %d was answered before it was asked", rev, before)
	}
	if err := l.saw(rev, before); err != nil {
		return 0, err
	}
	return rev, l.record(&op{effects: effects, rev: rev, prev: prev})
}

func writerKey(writer, i int) string { return fmt.Sprintf("writer/%02d/%d", writer, i) }

func writerKeys(writer int) []string {
	keys := make([]string, keysPerWriter)
	for i := range keys {
		keys[i] = writerKey(writer, i)
	}
	return keys
}

// writer changes keys that nobody else changes, so it knows what is there.
func (l *load) writer(id int, rng *rand.Rand) func(context.Context) error {
	known := map[string]int64{} // mod revisions
	for _, v := range l.ledger.values(writerKeys(id)) {
		known[v.key] = v.mod
	}
	seq := 0
	value := func() string {
		seq++
		size := rng.IntN(1200)
		if rng.IntN(200) == 0 {
			size = 50_000
		}
		return fmt.Sprintf("%d/%d/%d/%s", l.round, id, seq, strings.Repeat("x", size))
	}
	return func(ctx context.Context) error {
		key := writerKey(id, rng.IntN(keysPerWriter))
		switch n := rng.IntN(10); {
		case n < 4:
			return l.put(ctx, known, effect{key: key, value: value()})
		case n < 7:
			return l.guarded(ctx, known, effect{key: key, value: value()})
		case n < 8:
			return l.remove(ctx, known, key, clientv3.WithPrevKV())
		case n < 9:
			return l.several(ctx, known, id, value)
		default:
			return l.remove(ctx, known, writerKey(id, 0), clientv3.WithPrevKV(), clientv3.WithRange(writerKey(id, 3)))
		}
	}
}

func (l *load) put(ctx context.Context, known map[string]int64, e effect) error {
	rev, err := l.change([]effect{e}, func() (int64, map[string]*kv, error) {
		resp, err := l.client.Put(ctx, e.key, e.value, clientv3.WithPrevKV())
		if err != nil {
			return 0, nil, err
		}
		prev := map[string]*kv{}
		if resp.PrevKv != nil {
			before := toKV(resp.PrevKv)
			prev[e.key] = &before
		}
		return resp.Header.Revision, prev, nil
	})
	known[e.key] = rev
	return err
}

// guarded is a create or an update as kube-apiserver sends it.
func (l *load) guarded(ctx context.Context, known map[string]int64, e effect) error {
	rev, err := l.change([]effect{e}, func() (int64, map[string]*kv, error) {
		resp, err := l.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(e.key), "=", known[e.key])).
			Then(clientv3.OpPut(e.key, e.value)).
			Else(clientv3.OpGet(e.key)).Commit()
		if err != nil {
			return 0, nil, err
		}
		if !resp.Succeeded {
			return 0, nil, fmt.Errorf("the only writer of %s expected revision %d, found %v", e.key, known[e.key], resp.Responses[0].GetResponseRange().Kvs)
		}
		return resp.Header.Revision, nil, nil
	})
	known[e.key] = rev
	return err
}

// remove deletes a key or a range of keys; with none there, nothing changes.
func (l *load) remove(ctx context.Context, known map[string]int64, key string, opts ...clientv3.OpOption) error {
	del := clientv3.OpDelete(key, opts...)
	var effects []effect
	for i := range keysPerWriter {
		k := key[:len(key)-1] + fmt.Sprint(i)
		in := k == key || k > key && k < string(del.RangeBytes())
		if in && known[k] != 0 {
			effects = append(effects, effect{key: k, deleted: true})
		}
	}
	before := l.floor.Load()
	if len(effects) == 0 {
		resp, err := l.client.Do(ctx, del)
		if err != nil {
			return l.failed("delete", err)
		}
		if n := resp.Del().Deleted; n != 0 {
			return fmt.Errorf("%d keys from %s were deleted, none should be there", n, key)
		}
		return l.saw(resp.Del().Header.Revision, before)
	}
	_, err := l.change(effects, func() (int64, map[string]*kv, error) {
		resp, err := l.client.Do(ctx, del)
		if err != nil {
			return 0, nil, err
		}
		prev := map[string]*kv{}
		for _, p := range resp.Del().PrevKvs {
			before := toKV(p)
			prev[before.key] = &before
		}
		return resp.Del().Header.Revision, prev, nil
	})
	for _, e := range effects {
		delete(known, e.key)
	}
	return err
}

// several puts two keys and deletes a third in one transaction.
func (l *load) several(ctx context.Context, known map[string]int64, id int, value func() string) error {
	effects := []effect{{key: writerKey(id, 0), value: value()}, {key: writerKey(id, 2), value: value()}}
	ops := []clientv3.Op{
		clientv3.OpPut(effects[0].key, effects[0].value),
		clientv3.OpGet(effects[0].key),
		clientv3.OpPut(effects[1].key, effects[1].value),
	}
	if gone := writerKey(id, 1); known[gone] != 0 {
		effects = append(effects, effect{key: gone, deleted: true})
		ops = append(ops, clientv3.OpDelete(gone))
	}
	rev, err := l.change(effects, func() (int64, map[string]*kv, error) {
		resp, err := l.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return 0, nil, err
		}
		read := resp.Responses[1].GetResponseRange().Kvs
		if len(read) != 1 || string(read[0].Value) != effects[0].value {
			return 0, nil, fmt.Errorf("a transaction did not read its own put of %s", effects[0].key)
		}
		return resp.Header.Revision, nil, nil
	})
	for _, e := range effects {
		if known[e.key] = rev; e.deleted {
			delete(known, e.key)
		}
	}
	return err
}

func sharedKey(i int) string { return fmt.Sprintf("shared/%d", i) }

// sharer updates keys that others update too: read, then put if nothing came between.
func (l *load) sharer(id int, rng *rand.Rand) func(context.Context) error {
	seq := 0
	return func(ctx context.Context) error {
		key := sharedKey(rng.IntN(sharedKeys))
		found, err := l.read(ctx, []string{key}, key)
		if err != nil {
			return err
		}
		var mod int64
		if len(found) > 0 {
			mod = found[0].mod
		}
		seq++
		e := effect{key: key, value: fmt.Sprintf("%d/shared/%d/%d", l.round, id, seq)}
		before := l.floor.Load()
		resp, err := l.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", mod)).
			Then(clientv3.OpPut(key, e.value)).
			Else(clientv3.OpGet(key)).Commit()
		switch {
		case err != nil:
			return errors.Join(l.record(&op{effects: []effect{e}}), l.failed("update", err))
		case resp.Succeeded:
			return errors.Join(l.record(&op{effects: []effect{e}, rev: resp.Header.Revision}), l.saw(resp.Header.Revision, before))
		}
		l.observe(observation{keys: []string{key}, kvs: toKVs(resp.Responses[0].GetResponseRange().Kvs), rev: resp.Header.Revision})
		return l.saw(resp.Header.Revision, before)
	}
}

func (l *load) observe(o observation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger.observed = append(l.ledger.observed, o)
}

// read reads keys, all that there can be in the range, and leaves the answer to be checked.
func (l *load) read(ctx context.Context, keys []string, key string, opts ...clientv3.OpOption) ([]kv, error) {
	before := l.floor.Load()
	resp, err := l.client.Get(ctx, key, opts...)
	if err != nil {
		return nil, l.failed("read", err)
	}
	kvs := toKVs(resp.Kvs)
	l.observe(observation{keys: keys, kvs: kvs, rev: resp.Header.Revision})
	return kvs, l.saw(resp.Header.Revision, before)
}

// reader reads all keys of a writer, or a shared one, as they are now.
func (l *load) reader(_ int, rng *rand.Rand) func(context.Context) error {
	return func(ctx context.Context) error {
		id := rng.IntN(writers)
		_, err := l.read(ctx, writerKeys(id), writerKey(id, 0), clientv3.WithRange(writerKey(id, keysPerWriter)))
		return err
	}
}

// defragmenter has the server give back what is free in its file, so that kills come in the midst of that.
func (l *load) defragmenter(_ int, rng *rand.Rand) func(context.Context) error {
	return func(ctx context.Context) error {
		if !paused(ctx, time.Duration(100+rng.IntN(900))*time.Millisecond) {
			return errEnded
		}
		if _, err := l.client.Defragment(ctx, l.client.Endpoints()[0]); err != nil {
			return l.failed("defragment", err)
		}
		return nil
	}
}

// paused tells whether a while has passed, and ctx has not ended before.
func paused(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// compactor compacts now and then, half of the time physically.
func (l *load) compactor(_ int, rng *rand.Rand) func(context.Context) error {
	return func(ctx context.Context) error {
		if !paused(ctx, time.Duration(50+rng.IntN(300))*time.Millisecond) {
			return errEnded
		}
		rev := l.compactTo()
		if rev < 2 {
			return nil
		}
		var opts []clientv3.CompactOption
		if rng.IntN(2) == 0 {
			opts = append(opts, clientv3.WithCompactPhysical())
		}
		_, err := l.client.Compact(ctx, rev, opts...)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted): // automatic compaction was further
			return nil
		case err != nil:
			return l.failed("compact", err)
		}
		l.compacted.Store(max(rev, l.compacted.Load()))
		return nil
	}
}
