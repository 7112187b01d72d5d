package etcdv3

import (
	"math"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// header is the header that s gives at a revision, as a message.
func header(s *Server, rev int64) *pb.ResponseHeader {
	c := s.opts.Cluster
	return &pb.ResponseHeader{ClusterId: c.ID, MemberId: c.Member, RaftTerm: c.Term(), Revision: rev}
}

// answer answers a RangeRequest at the latest revision from the messages that were kept.
func (h *history) answer(s *Server, r *pb.RangeRequest) *pb.RangeResponse {
	resp := &pb.RangeResponse{Header: header(s, h.ix.Rev)}
	rng := mvcc.NewRange(r.Key, r.RangeEnd)
	for _, k := range h.keys() {
		if !rng.Contains(k) {
			continue
		}
		resp.Count++
		kv := proto.CloneOf(h.live[k])
		if r.KeysOnly {
			kv.Value = nil
			if r.SortTarget != pb.RangeRequest_VALUE {
				kv.Lease = 0 // as in etcd 3.7
			}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	switch {
	case r.CountOnly:
		resp.Kvs = nil
	case r.SortOrder == pb.RangeRequest_DESCEND:
		slices.Reverse(resp.Kvs)
	}
	if r.Limit > 0 && int64(len(resp.Kvs)) > r.Limit {
		resp.Kvs, resp.More = resp.Kvs[:r.Limit], true
	}
	return resp
}

// encodeAnswer answers a RangeRequest as the server does.
func (h *history) encodeAnswer(s *Server, r *pb.RangeRequest) *encoded {
	h.t.Helper()
	sel, err := h.ix.Select(r, h.at)
	if err != nil {
		h.t.Fatal(err)
	}
	values, err := sel.Fetch(h.at)
	if err != nil {
		h.t.Fatal(err)
	}
	return s.encodeRange(sel, values)
}

func (h *history) cluster() *Server {
	ids := []uint64{0, 1, 1<<64 - 1, h.Uint64()}
	id := func() uint64 { return ids[h.IntN(len(ids))] }
	term := id()
	return &Server{opts: Options{Cluster: Cluster{ID: id(), Member: id(), Term: func() uint64 { return term }}}}
}

// TestRangeEncoding: an answer encoded from the index is the message that etcd would send.
func TestRangeEncoding(t *testing.T) {
	longest := 0
	for seed := range uint64(25) {
		h := newHistory(t, seed)
		h.fill(h.IntN(100))
		s := h.cluster()
		for range 20 {
			r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: int64(h.IntN(30)), KeysOnly: h.IntN(3) == 0, CountOnly: h.IntN(6) == 0}
			switch keys := h.keys(); {
			case len(keys) > 0 && h.IntN(3) == 0:
				r.Key, r.RangeEnd = []byte(keys[h.IntN(len(keys))]), nil
			case h.IntN(3) == 0:
				r.Key, r.RangeEnd = []byte("k05"), []byte("k15")
			}
			switch {
			case r.KeysOnly && r.Limit == 0 && h.IntN(3) == 0:
				// Sorted by a value that is not told: of a single key, since the order is not what is tried here.
				r.SortTarget, r.RangeEnd = pb.RangeRequest_VALUE, nil
			case h.IntN(3) == 0:
				r.SortOrder = pb.RangeRequest_DESCEND
			}
			m := h.encodeAnswer(s, r)
			checkEncoded(t, m, h.answer(s, r))
			longest = max(longest, len(m.pieces))
		}
	}
	if longest < 4 {
		t.Errorf("no answer of more than %d pieces", longest)
	}
}

// TestRangeEncodingAtBounds: keys that just fit into a buffer, and that just do not.
func TestRangeEncodingAtBounds(t *testing.T) {
	pieces := map[int]int{}
	for _, bound := range []int{1 << 12, 1 << 14, 1 << 15, chunkSize, 1 << 20} {
		for less := -8; less <= 120; less++ {
			h := newHistory(t, uint64(less+8))
			s := h.cluster()
			h.put("a", h.bytes(bound-less), 0)
			h.put("b", nil, 0)
			h.put("c", []byte("v"), 0)
			r := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("d")}
			m := h.encodeAnswer(s, r)
			checkEncoded(t, m, h.answer(s, r))
			pieces[len(m.pieces)]++
		}
	}
	if len(pieces) < 2 {
		t.Errorf("every answer has the same number of pieces: %v", pieces)
	}
}

// TestRangeEncodingOfAnyRequest holds the encoding against mvcc's own answer in messages: with
// revisions of the past, filters and all orders.
func TestRangeEncodingOfAnyRequest(t *testing.T) {
	for seed := range uint64(20) {
		h := newHistory(t, seed)
		h.fill(80)
		s := h.cluster()
		rev := func() int64 { return max(0, h.Int64N(2*h.ix.Rev)-h.ix.Rev) }
		for range 100 {
			r := &pb.RangeRequest{
				Key: []byte{0}, RangeEnd: []byte{0}, Limit: int64(max(0, h.IntN(40)-20)), Revision: rev(),
				KeysOnly: h.IntN(3) == 0, CountOnly: h.IntN(8) == 0,
				SortOrder: pb.RangeRequest_SortOrder(h.IntN(3)), SortTarget: pb.RangeRequest_SortTarget(h.IntN(5)),
				MinModRevision: rev(), MinCreateRevision: rev(), MaxModRevision: rev() * 2, MaxCreateRevision: rev() * 2,
			}
			want, fills, err := h.ix.Range(r, h.at)
			if err == nil {
				err = mvcc.Fetch(fills, h.at)
			}
			if err != nil {
				t.Fatal(err)
			}
			want.Header = header(s, h.ix.Rev)
			checkEncoded(t, h.encodeAnswer(s, r), want)
		}
	}
}

// TestCodec: encoded messages pass as they are, all others as gRPC's own codec makes them.
func TestCodec(t *testing.T) {
	h := newHistory(t, 1)
	h.put("k", h.bytes(3*chunkSize), 0)
	h.put("l", h.bytes(3*chunkSize), 0)
	s := h.cluster()
	r := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte{0}}
	got, err := newCodec().Marshal(h.encodeAnswer(s, r))
	if err != nil {
		t.Fatal(err)
	}
	var resp pb.RangeResponse
	if err := newCodec().Unmarshal(got, &resp); err != nil {
		t.Fatal(err)
	}
	if want := h.answer(s, r); !proto.Equal(&resp, want) {
		t.Errorf("%.100v instead of %.100v", &resp, want)
	}
	plain, err := newCodec().Marshal(&resp)
	if err != nil {
		t.Fatal(err)
	}
	want, err := encoding.GetCodecV2("proto").Marshal(&resp)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(plain.Materialize(), want.Materialize()) {
		t.Error("a message is not encoded as gRPC does")
	}
}

// TestVarints: fields at the bounds of varints, and the one that has no value.
func TestVarints(t *testing.T) {
	for _, v := range []int64{0, 1, 127, 128, 1<<14 - 1, 1 << 14, math.MaxInt64, math.MinInt64, -1} {
		b := appendUint(appendBool(nil, tagMore, v%2 == 0), tagCount, uint64(v))
		var got pb.RangeResponse
		if err := proto.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if want := (&pb.RangeResponse{More: v%2 == 0, Count: v}); !proto.Equal(&got, want) || len(b) != proto.Size(want) {
			t.Errorf("%v in %d bytes instead of %v in %d", &got, len(b), want, proto.Size(want))
		}
	}
}
