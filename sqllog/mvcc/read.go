package mvcc

import (
	"bytes"
	"cmp"
	"math"
	"sort"
	"unsafe"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Fill says that the value at a position of the log belongs into a KeyValue of
// a response. Deciding needs no values, so they are fetched afterwards.
type Fill struct {
	KV       *mvccpb.KeyValue
	Position int64
}

// Values fetches values by position, in the order asked for.
type Values func(positions []int64) ([][]byte, error)

// Fetch fills in the values of fills.
func Fetch(fills []Fill, values Values) error {
	if len(fills) == 0 {
		return nil
	}
	positions := make([]int64, len(fills))
	for i, f := range fills {
		positions[i] = f.Position
	}
	got, err := values(positions)
	if err != nil {
		return err
	}
	for i, f := range fills {
		f.KV.Value = got[i]
	}
	return nil
}

// CheckRevision judges the revision of a read: 0 or below asks for the current one.
func (ix *Index) CheckRevision(rev int64) (int64, error) {
	switch {
	case rev > ix.Rev:
		return 0, ErrFutureRev
	case rev <= 0:
		rev = ix.Rev
	}
	if rev < ix.Compact {
		return 0, ErrCompacted
	}
	return rev, nil
}

// KeysOnly tells whether a request is answered from the index alone. As in
// etcd 3.7, such an answer does not tell the leases of its keys.
func KeysOnly(r *pb.RangeRequest) bool {
	return r.KeysOnly && r.SortTarget != pb.RangeRequest_VALUE
}

// DefaultOrder tells whether the order asked for is that of the index.
func DefaultOrder(r *pb.RangeRequest) bool {
	return r.SortOrder == pb.RangeRequest_NONE ||
		r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND
}

// Filtered tells whether a request names bounds for mod or create revisions.
func Filtered(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

// Range answers a RangeRequest, but for the values named by the fills. Only
// sorting by value reads values here. The request is not changed.
//
// Quirks of etcd that clients can see are kept: a limit cuts before sorting
// if the sort order is NONE, bounds on revisions do not change the count.
func (ix *Index) Range(r *pb.RangeRequest, values Values) (*pb.RangeResponse, []Fill, error) {
	rev, err := ix.CheckRevision(r.Revision)
	if err != nil {
		return nil, nil, err
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: ix.Rev}}
	rng := NewRange(r.Key, r.RangeEnd)
	if r.CountOnly {
		resp.Count = ix.Count(rng, rev)
		return resp, nil, nil
	}
	limit := int64(math.MaxInt64)
	if r.Limit > 0 && DefaultOrder(r) && !Filtered(r) {
		limit = r.Limit
	}
	var items []item
	var walked int64
	for k, v := range ix.Scan(rng, rev) {
		if walked++; walked > limit {
			resp.More = true
			break
		}
		if passes(r, v) {
			items = append(items, item{k, v, nil})
		}
	}
	resp.Count = walked
	if resp.More {
		resp.Count = ix.Count(rng, rev)
	}
	if err := sortItems(items, r, values); err != nil {
		return nil, nil, err
	}
	if r.Limit > 0 && int64(len(items)) > r.Limit {
		items, resp.More = items[:r.Limit], true
	}
	var fills []Fill
	resp.Kvs, fills = keyValues(items, r)
	return resp, fills, nil
}

func passes(r *pb.RangeRequest, v *Version) bool {
	return (r.MaxModRevision == 0 || v.Main <= r.MaxModRevision) &&
		(r.MinModRevision == 0 || v.Main >= r.MinModRevision) &&
		(r.MaxCreateRevision == 0 || v.Create <= r.MaxCreateRevision) &&
		(r.MinCreateRevision == 0 || v.Create >= r.MinCreateRevision)
}

type item struct {
	key   string
	v     *Version
	value []byte // only when sorting by value
}

// keyValues makes the KeyValues of a response, in two allocations, and says which of them need values.
func keyValues(items []item, r *pb.RangeRequest) ([]*mvccpb.KeyValue, []Fill) {
	slab := make([]mvccpb.KeyValue, len(items))
	kvs := make([]*mvccpb.KeyValue, len(items))
	var fills []Fill
	if !r.KeysOnly {
		fills = make([]Fill, 0, len(items))
	}
	for i, it := range items {
		kv := &slab[i]
		kvs[i] = kv
		fillKeyValue(kv, it.key, it.v)
		switch {
		case KeysOnly(r):
			kv.Lease = 0
		case r.KeysOnly || it.v.Size == 0:
		default:
			fills = append(fills, Fill{kv, it.v.Position})
		}
	}
	return kvs, fills
}

func fillKeyValue(kv *mvccpb.KeyValue, key string, v *Version) {
	kv.Key = bytesOf(key)
	kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease = v.Create, v.Main, v.Count, v.Lease
}

// bytesOf gives the bytes of a string without copying: for messages, which are only ever read.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

type byTarget struct {
	items   []item
	compare func(a, b *item) int
}

func (s *byTarget) Len() int           { return len(s.items) }
func (s *byTarget) Swap(i, j int)      { s.items[i], s.items[j] = s.items[j], s.items[i] }
func (s *byTarget) Less(i, j int) bool { return s.compare(&s.items[i], &s.items[j]) < 0 }

var comparisons = map[pb.RangeRequest_SortTarget]func(a, b *item) int{
	pb.RangeRequest_KEY:     func(a, b *item) int { return cmp.Compare(a.key, b.key) },
	pb.RangeRequest_VERSION: func(a, b *item) int { return cmp.Compare(a.v.Count, b.v.Count) },
	pb.RangeRequest_CREATE:  func(a, b *item) int { return cmp.Compare(a.v.Create, b.v.Create) },
	pb.RangeRequest_MOD:     func(a, b *item) int { return cmp.Compare(a.v.Main, b.v.Main) },
	pb.RangeRequest_VALUE:   func(a, b *item) int { return bytes.Compare(a.value, b.value) },
}

// sortItems sorts with sort.Sort, which is not stable, because etcd does: then
// equal items come in the same order too.
func sortItems(items []item, r *pb.RangeRequest, values Values) error {
	if r.SortTarget == pb.RangeRequest_KEY && r.SortOrder != pb.RangeRequest_DESCEND {
		return nil
	}
	if r.SortTarget == pb.RangeRequest_VALUE {
		if err := fetchItems(items, values); err != nil {
			return err
		}
	}
	var sorter sort.Interface = &byTarget{items, comparisons[r.SortTarget]}
	if r.SortOrder == pb.RangeRequest_DESCEND {
		sorter = sort.Reverse(sorter)
	}
	sort.Sort(sorter)
	return nil
}

func fetchItems(items []item, values Values) error {
	positions := make([]int64, len(items))
	for i := range items {
		positions[i] = items[i].v.Position
	}
	got, err := values(positions)
	if err != nil {
		return err
	}
	for i := range items {
		items[i].value = got[i]
	}
	return nil
}

// Chunks answers a RangeRequest in pieces of about chunkBytes, in order, as etcd's
// RangeStream does: the last piece has the header, the count and whether there is more.
func (ix *Index) Chunks(r *pb.RangeRequest, chunkBytes int, send func(*pb.RangeResponse, []Fill) error) error {
	rev, err := ix.CheckRevision(r.Revision)
	if err != nil {
		return err
	}
	rng := NewRange(r.Key, r.RangeEnd)
	last := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: ix.Rev}}
	if r.CountOnly {
		last.Count = ix.Count(rng, rev)
		return send(last, nil)
	}
	var items []item
	size := 0
	for k, v := range ix.Scan(rng, rev) {
		if r.Limit > 0 && last.Count == r.Limit {
			last.More = true
			last.Count = ix.Count(rng, rev)
			break
		}
		if size >= chunkBytes {
			chunk := new(pb.RangeResponse)
			var fills []Fill
			chunk.Kvs, fills = keyValues(items, r)
			if err := send(chunk, fills); err != nil {
				return err
			}
			items, size = items[:0], 0
		}
		items = append(items, item{k, v, nil})
		last.Count++
		size += len(k) + 32
		if !r.KeysOnly {
			size += int(v.Size)
		}
	}
	var fills []Fill
	last.Kvs, fills = keyValues(items, r)
	return send(last, fills)
}
