package etcdv3

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// history is an index with its log, made of random changes, and beside it what etcd's messages say of
// them, kept in nothing but those messages. It is a store to a watch.Hub.
type history struct {
	*rand.Rand
	t      *testing.T
	ix     *mvcc.Index
	values [][]byte // by position, from 1 on
	live   map[string]*mvccpb.KeyValue
	events []*mvcc.Event
	told   []*mvccpb.Event // parallel to events, with prev_kv

	scrubbed bool // no value can be had any more
}

func newHistory(t *testing.T, seed uint64) *history {
	return &history{
		Rand: rand.New(rand.NewPCG(seed, 0)), t: t, ix: mvcc.NewIndex(),
		values: make([][]byte, 1), live: make(map[string]*mvccpb.KeyValue),
	}
}

// do evaluates a request.
func (h *history) do(request any) {
	h.t.Helper()
	b, results := mvcc.Evaluate(h.ix, mvcc.Env{}, []any{request})
	if results[0].Err != nil {
		h.t.Fatal(results[0].Err)
	}
	end := h.ix.End
	end.Position += int64(len(b.Entries()))
	for _, e := range b.Entries() {
		h.values = append(h.values, e.Value)
	}
	h.ix = b.Index(end)
	h.events = append(h.events, b.Events()...)
}

func (h *history) grant(id int64) { h.do(&pb.LeaseGrantRequest{ID: id, TTL: 100}) }

func (h *history) put(key string, value []byte, lease int64) {
	h.do(&pb.PutRequest{Key: []byte(key), Value: value, Lease: lease})
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: h.ix.Rev, ModRevision: h.ix.Rev, Version: 1, Lease: lease}
	prev := h.live[key]
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	h.live[key] = kv
	h.told = append(h.told, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv, PrevKv: prev})
}

func (h *history) deleteFrom(key string) {
	h.do(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte{0}})
	for _, k := range h.keys() {
		if k >= key {
			gone := &mvccpb.KeyValue{Key: []byte(k), ModRevision: h.ix.Rev}
			h.told = append(h.told, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: gone, PrevKv: h.live[k]})
			delete(h.live, k)
		}
	}
}

func (h *history) keys() []string { return slices.Sorted(maps.Keys(h.live)) }

// value makes a value of a random size: empty, ordinary, or at a bound of varints, of buffers or of chunks.
func (h *history) value() []byte {
	bound := []int{1 << 7, 1 << 8, 1 << 12, 1 << 14, 1 << 15, chunkSize, 1 << 20}
	switch n := h.IntN(60); {
	case n < 10:
		return nil
	case n < 50:
		return h.bytes(h.IntN(300))
	default:
		return h.bytes(bound[h.IntN(len(bound))] + h.IntN(130) - 110)
	}
}

func (h *history) bytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, h.Uint64())
	}
	return b[:n:n]
}

// fill makes random changes to some twenty keys.
func (h *history) fill(changes int) {
	leases := []int64{0, 0, 1, 127, 128, 1<<63 - 1}
	for _, id := range leases[2:] {
		h.grant(id)
	}
	for range changes {
		if h.IntN(12) == 0 {
			h.deleteFrom(fmt.Sprintf("k%02d", 10+h.IntN(10)))
			continue
		}
		key := fmt.Sprintf("k%02d", h.IntN(20))
		if h.IntN(4) == 0 {
			key += string(h.bytes(200)) // any bytes
		}
		h.put(key, h.value(), leases[h.IntN(len(leases))])
	}
}

// Index, History and Values make it a store to a watch.Hub.
func (h *history) Index() *mvcc.Index { return h.ix }

func (h *history) History(context.Context, *mvcc.Index, int64, func([]*mvcc.Event) bool) error {
	panic("no watcher lags in these tests")
}

func (h *history) Values(_ context.Context, positions []int64) ([][]byte, error) {
	if h.scrubbed {
		return nil, drivers.ErrScrubbed
	}
	return h.at(positions)
}

func (h *history) at(positions []int64) ([][]byte, error) {
	out := make([][]byte, len(positions))
	for i, p := range positions {
		out[i] = h.values[p]
	}
	return out, nil
}

// checkEncoded: an encoded message is what generated code makes of want, nothing missing and nothing too much.
func checkEncoded(t *testing.T, m *encoded, want proto.Message) {
	t.Helper()
	b := m.pieces.Materialize()
	got := want.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, got); err != nil {
		t.Fatalf("%d bytes: %v", len(b), err)
	}
	if !proto.Equal(got, want) || !proto.Equal(want, got) {
		t.Fatalf("the message says otherwise:\n%.2000v\ninstead of\n%.2000v", got, want)
	}
	// Also what decoding does not tell: lengths, and fields that say no more than their absence.
	if len(b) != m.size || len(b) != proto.Size(want) {
		t.Fatalf("%d bytes, taken for %d, instead of %d", len(b), m.size, proto.Size(want))
	}
}
