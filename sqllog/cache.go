package sqllog

import (
	"sync"
	"sync/atomic"
)

// cache keeps recently used values by position, up to a number of bytes. It evicts by SIEVE
// (Zhang and others, NSDI 2024): a hit sets a bit and moves nothing, so hits
// share a read lock; a hand goes from the oldest to the newest and
// evicts the first value whose bit is not set. One long scan does not sweep the cache.
type cache struct {
	shards [cacheShards]shard
}

const (
	cacheShards   = 16
	entryOverhead = 96 // what a value costs beside its bytes, roughly
)

type shard struct {
	mu     sync.RWMutex
	limit  int
	used   int
	values map[int64]*cached
	newest *cached
	oldest *cached
	hand   *cached
}

type cached struct {
	position     int64
	value        []byte
	visited      atomic.Bool
	newer, older *cached
}

func newCache(bytes int) *cache {
	c := new(cache)
	for i := range c.shards {
		c.shards[i].limit = bytes / cacheShards
		c.shards[i].values = make(map[int64]*cached)
	}
	return c
}

func (c *cache) shard(position int64) *shard { return &c.shards[uint64(position)%cacheShards] }

// get gives the value at a position, which is not to be changed.
func (c *cache) get(position int64) ([]byte, bool) {
	s := c.shard(position)
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.values[position]
	if !ok {
		return nil, false
	}
	if !e.visited.Load() {
		e.visited.Store(true)
	}
	return e.value, true
}

// put keeps the value; the cache owns it from here on. A value that would take more than
// an eighth of its shard is not kept.
func (c *cache) put(position int64, value []byte) {
	s := c.shard(position)
	cost := len(value) + entryOverhead
	if cost > s.limit/8 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.values[position]; ok {
		return
	}
	for s.used+cost > s.limit && s.oldest != nil {
		s.evict()
	}
	e := &cached{position: position, value: value, older: s.newest}
	if s.newest != nil {
		s.newest.newer = e
	} else {
		s.oldest = e
	}
	s.newest = e
	s.values[position] = e
	s.used += cost
}

// drop forgets the value at a position.
func (c *cache) drop(position int64) {
	s := c.shard(position)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.values[position]; ok {
		s.unlink(e)
	}
}

func (s *shard) evict() {
	e := s.hand
	if e == nil {
		e = s.oldest
	}
	for e.visited.Load() {
		e.visited.Store(false)
		if e = e.newer; e == nil {
			e = s.oldest
		}
	}
	s.hand = e
	s.unlink(e)
}

func (s *shard) unlink(e *cached) {
	if s.hand == e {
		s.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.oldest = e.newer
	}
	delete(s.values, e.position)
	s.used -= len(e.value) + entryOverhead
}
