package nullserver

import (
	"bytes"
	"maps"
	"slices"
	"sort"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// store is the map of keys. A key-value is never changed once it is in the map: a put replaces it.
type store struct {
	mu       sync.RWMutex
	rev      int64
	live     map[string]*mvccpb.KeyValue
	sorted   []string // the keys in order; nil when a key was added since they were last sorted
	watchers map[string][]*watcher
}

func newStore() *store {
	return &store{rev: 1, live: make(map[string]*mvccpb.KeyValue), watchers: make(map[string][]*watcher)}
}

func (s *store) revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.rev
}

func (s *store) put(r *pb.PutRequest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putLocked(r)
}

// putIf puts when the key's mod_revision, 0 for a key that is not there, is the one given.
func (s *store) putIf(key string, modRevision int64, r *pb.PutRequest) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[key].GetModRevision() != modRevision {
		return s.rev, false
	}
	return s.putLocked(r), true
}

func (s *store) putLocked(r *pb.PutRequest) int64 {
	s.rev++
	key := string(r.Key)
	prev := s.live[key]
	kv := &mvccpb.KeyValue{
		Key: r.Key, Value: r.Value, Lease: r.Lease,
		CreateRevision: s.rev, ModRevision: s.rev, Version: 1,
	}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	} else {
		s.sorted = nil
	}
	s.live[key] = kv
	s.publishLocked(key, kv, prev)
	return s.rev
}

// read answers a range at the latest revision.
func (s *store) read(r *pb.RangeRequest) *pb.RangeResponse {
	if len(r.RangeEnd) == 0 {
		s.mu.RLock()
		defer s.mu.RUnlock()
		resp := &pb.RangeResponse{Header: header(s.rev)}
		if kv := s.live[string(r.Key)]; kv != nil {
			resp.Kvs, resp.Count = []*mvccpb.KeyValue{kv}, 1
		}
		return resp
	}
	keys := s.sortedKeys()
	s.mu.RLock()
	defer s.mu.RUnlock()
	from, to := sort.SearchStrings(keys, string(r.Key)), len(keys)
	if !bytes.Equal(r.RangeEnd, []byte{0}) {
		to = max(from, sort.SearchStrings(keys, string(r.RangeEnd)))
	}
	resp := &pb.RangeResponse{Header: header(s.rev), Count: int64(to - from)}
	if r.CountOnly {
		return resp
	}
	if r.Limit > 0 && int64(to-from) > r.Limit {
		to, resp.More = from+int(r.Limit), true
	}
	resp.Kvs = make([]*mvccpb.KeyValue, 0, to-from)
	for _, key := range keys[from:to] {
		resp.Kvs = append(resp.Kvs, answered(s.live[key], r.KeysOnly))
	}
	return resp
}

func answered(kv *mvccpb.KeyValue, keysOnly bool) *mvccpb.KeyValue {
	if !keysOnly {
		return kv
	}
	return &mvccpb.KeyValue{
		Key: kv.Key, Lease: kv.Lease,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
	}
}

// sortedKeys gives all keys in order. The slice is not changed afterwards.
func (s *store) sortedKeys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sorted == nil {
		s.sorted = slices.Sorted(maps.Keys(s.live))
	}
	return s.sorted
}
