package mvcc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
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

// Selection is what a RangeRequest selects: all of the answer but the values.
type Selection struct {
	// Rev is the current revision, for the header.
	Rev   int64
	Count int64
	More  bool
	items []item
	r     *pb.RangeRequest
}

// Select decides a RangeRequest, which is not changed. Only sorting by value reads values here.
//
// Quirks of etcd that clients can see are kept: a limit cuts before sorting
// if the sort order is NONE, bounds on revisions do not change the count.
func (ix *Index) Select(r *pb.RangeRequest, values Values) (*Selection, error) {
	return ix.pick(r, values, true)
}

// pick is Select; without total the count of a cut selection is not made.
func (ix *Index) pick(r *pb.RangeRequest, values Values, total bool) (*Selection, error) {
	rev, err := ix.CheckRevision(r.Revision)
	if err != nil {
		return nil, err
	}
	sel := &Selection{Rev: ix.Rev, r: r}
	rng := NewRange(r.Key, r.RangeEnd)
	if r.CountOnly {
		sel.Count = ix.Count(rng, rev)
		return sel, nil
	}
	limit := int64(math.MaxInt64)
	if r.Limit > 0 && DefaultOrder(r) && !Filtered(r) {
		limit = r.Limit
	}
	if !Filtered(r) && !rng.single() && rev == ix.Rev {
		sel.items = make([]item, 0, min(ix.Count(rng, rev), limit)+1)
	}
	for k, v := range ix.Scan(rng, rev) {
		sel.Count++
		if passes(r, v) {
			sel.items = append(sel.items, item{k, v})
		}
		if sel.Count > limit { // one more is looked at, and sorted with the others
			if total {
				sel.Count = ix.Count(rng, rev)
			}
			break
		}
	}
	if err := sortItems(sel.items, r, values); err != nil {
		return nil, err
	}
	if r.Limit > 0 && int64(len(sel.items)) > r.Limit {
		sel.items, sel.More = sel.items[:r.Limit], true
	}
	return sel, nil
}

// Range answers a RangeRequest, but for the values named by the fills.
func (ix *Index) Range(r *pb.RangeRequest, values Values) (*pb.RangeResponse, []Fill, error) {
	sel, err := ix.Select(r, values)
	if err != nil {
		return nil, nil, err
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: sel.Rev}, More: sel.More, Count: sel.Count}
	var fills []Fill
	resp.Kvs, fills = keyValues(sel.items, r)
	return resp, fills, nil
}

// Len is the number of keys selected.
func (sel *Selection) Len() int { return len(sel.items) }

// Fetch gives the values of the keys selected, or nil if none are asked for.
func (sel *Selection) Fetch(values Values) ([][]byte, error) {
	if sel.r.KeysOnly || len(sel.items) == 0 {
		return nil, nil
	}
	positions := make([]int64, len(sel.items))
	for i := range sel.items {
		positions[i] = sel.items[i].v.Position
	}
	got, err := values(positions)
	if err != nil {
		return nil, err
	}
	for i := range sel.items {
		if len(got[i]) != int(sel.items[i].v.Size) {
			return nil, fmt.Errorf("%w: the value at position %d has %d bytes instead of %d",
				ErrBadEntry, positions[i], len(got[i]), sel.items[i].v.Size)
		}
	}
	return got, nil
}

// Append appends items from the i-th on, each as it stands in a RangeResponse,
// as far as they fit into the buffer's capacity, with values as Fetch
// gave them. It gives the index of the first that did not fit and what that one needs.
func (sel *Selection) Append(buf []byte, i int, values [][]byte) (out []byte, next, need int) {
	keysOnly, noLease := sel.r.KeysOnly, KeysOnly(sel.r)
	for ; i < len(sel.items); i++ {
		it := &sel.items[i]
		v, size := it.v, int(it.v.Size)
		if noLease && v.Lease != 0 {
			v = &Version{Main: v.Main, Create: v.Create, Count: v.Count}
		}
		if keysOnly {
			size = 0
		}
		n := KeyValueSize(it.key, v, size)
		if need = 1 + varintSize(uint64(n)) + n; cap(buf)-len(buf) < need {
			return buf, i, need
		}
		buf = binary.AppendUvarint(append(buf, tagKvs), uint64(n))
		if keysOnly {
			buf = AppendKeyValue(buf, it.key, v, nil)
		} else {
			buf = AppendKeyValue(buf, it.key, v, values[i])
		}
	}
	return buf, i, 0
}

// Size is about the number of bytes that the items take in a response, if no more than limit.
func (sel *Selection) Size(limit int) (size int) {
	for i := range sel.items {
		it := &sel.items[i]
		if size += len(it.key) + 48; !sel.r.KeysOnly {
			size += int(it.v.Size)
		}
		if size >= limit {
			return limit
		}
	}
	return size
}

const tagKvs = 2<<3 | 2 // etcdserverpb.RangeResponse.kvs, wire type included

func passes(r *pb.RangeRequest, v *Version) bool {
	return (r.MaxModRevision == 0 || v.Main <= r.MaxModRevision) &&
		(r.MinModRevision == 0 || v.Main >= r.MinModRevision) &&
		(r.MaxCreateRevision == 0 || v.Create <= r.MaxCreateRevision) &&
		(r.MinCreateRevision == 0 || v.Create >= r.MinCreateRevision)
}

type item struct {
	key string
	v   *Version
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
	items  []item
	values [][]byte // parallel to items, when sorting by value
	target pb.RangeRequest_SortTarget
}

func (s *byTarget) Len() int { return len(s.items) }

func (s *byTarget) Swap(i, j int) {
	s.items[i], s.items[j] = s.items[j], s.items[i]
	if s.values != nil {
		s.values[i], s.values[j] = s.values[j], s.values[i]
	}
}

func (s *byTarget) Less(i, j int) bool {
	a, b := &s.items[i], &s.items[j]
	switch s.target {
	case pb.RangeRequest_VERSION:
		return a.v.Count < b.v.Count
	case pb.RangeRequest_CREATE:
		return a.v.Create < b.v.Create
	case pb.RangeRequest_MOD:
		return a.v.Main < b.v.Main
	case pb.RangeRequest_VALUE:
		return bytes.Compare(s.values[i], s.values[j]) < 0
	}
	return a.key < b.key
}

// sortItems sorts with sort.Sort, which is not stable, because etcd does: then
// equal items come in the same order too.
func sortItems(items []item, r *pb.RangeRequest, values Values) error {
	if r.SortTarget == pb.RangeRequest_KEY && r.SortOrder != pb.RangeRequest_DESCEND {
		return nil
	}
	by := &byTarget{items: items, target: r.SortTarget}
	if r.SortTarget == pb.RangeRequest_VALUE {
		got, err := (&Selection{items: items, r: &pb.RangeRequest{}}).Fetch(values)
		if err != nil {
			return err
		}
		by.values = slices.Clone(got)
	}
	var sorter sort.Interface = by
	if r.SortOrder == pb.RangeRequest_DESCEND {
		sorter = sort.Reverse(sorter)
	}
	sort.Sort(sorter)
	return nil
}

// firstChunk is the number of keys in the first piece of a stream, as in etcd.
const firstChunk = 10

// Chunks answers a RangeRequest in pieces of about chunkBytes, as etcd's
// RangeStream does: the last piece has the header, the count and whether there is more. Pieces hold the
// numbers of keys that etcd's hold, since a sort target without a sort order sorts within each of them.
func (ix *Index) Chunks(r *pb.RangeRequest, chunkBytes int, values Values, send func(*pb.RangeResponse, []Fill) error) error {
	rev, err := ix.CheckRevision(r.Revision)
	if err != nil {
		return err
	}
	last := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: ix.Rev}}
	if r.CountOnly {
		last.Count = ix.Count(NewRange(r.Key, r.RangeEnd), rev)
		return send(last, nil)
	}
	left := r.Limit
	if left == 0 {
		left = math.MaxInt64
	}
	part := &pb.RangeRequest{
		Key: r.Key, RangeEnd: r.RangeEnd, Revision: rev, KeysOnly: r.KeysOnly,
		SortOrder: r.SortOrder, SortTarget: r.SortTarget, Limit: min(firstChunk, left),
	}
	for {
		sel, err := ix.pick(part, values, false)
		if err != nil {
			return err
		}
		last.Count += int64(sel.Len())
		left -= int64(sel.Len())
		resp := new(pb.RangeResponse)
		if !sel.More || left == 0 {
			resp = last
			if resp.More = sel.More; resp.More {
				rest := Range{Start: sel.items[sel.Len()-1].key + "\x00", End: NewRange(r.Key, r.RangeEnd).End}
				resp.Count += ix.Count(rest, rev)
			}
		}
		var fills []Fill
		resp.Kvs, fills = keyValues(sel.items, part)
		if err := send(resp, fills); err != nil || resp == last {
			return err
		}
		part.Key = []byte(sel.items[sel.Len()-1].key + "\x00")
		part.Limit = min(nextChunk(part.Limit, sel.Size(math.MaxInt), chunkBytes), left)
	}
}

// nextChunk adjusts the number of keys to a piece by the size that the last one came to.
func nextChunk(keys int64, size, want int) int64 {
	switch {
	case size < want/2:
		return keys * 2
	case size > want*2:
		return max(keys/2, 1)
	}
	return keys
}
