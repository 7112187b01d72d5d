package watch

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Event is a change on its way to watchers. However many get it, it is encoded once.
type Event struct {
	*mvcc.Event
	plain, prev atomic.Pointer[[]byte]
}

// withoutPrev gives the event without the version that it replaced.
func (e *Event) withoutPrev() *Event {
	c := *e.Event
	c.Prev = mvcc.Version{}
	return &Event{Event: &c}
}

// cost is what an event takes in memory, roughly.
func (e *Event) cost() int { return len(e.Key) + len(e.Value) + 256 }

// Fields of mvccpb.Event and of etcdserverpb.WatchResponse, wire types included.
const (
	tagType   = 1<<3 | 0
	tagKV     = 2<<3 | 2
	tagPrevKV = 3<<3 | 2
	tagEvents = 11<<3 | 2
)

// Encode gives the event as it stands in a WatchResponse: a field of its own,
// ready to be put together with others. prevValue fetches the value of the version
// replaced; nil leaves prev_kv out. The bytes are shared and not to be changed.
func (e *Event) Encode(prevValue func() (value []byte, ok bool, err error)) ([]byte, error) {
	if prevValue == nil || e.Prev.Main == 0 {
		return encodeOnce(&e.plain, func() []byte { return e.encode(false, nil) }), nil
	}
	if p := e.prev.Load(); p != nil {
		return *p, nil
	}
	value, ok, err := prevValue()
	if err != nil {
		return nil, err
	}
	return encodeOnce(&e.prev, func() []byte { return e.encode(ok, value) }), nil
}

func encodeOnce(p *atomic.Pointer[[]byte], encode func() []byte) []byte {
	if b := p.Load(); b != nil {
		return *b
	}
	b := encode()
	p.Store(&b)
	return b
}

// forget gives the memory of the encodings back; they are made again when needed.
func (e *Event) forget() {
	e.plain.Store(nil)
	e.prev.Store(nil)
}

func (e *Event) encode(withPrev bool, prevValue []byte) []byte {
	v := e.Version
	size := 0
	if v.Tombstone() {
		v = mvcc.Version{Main: v.Main} // all that etcd tells of a deleted key
		size += 2
	}
	kv := mvcc.KeyValueSize(e.Key, &v, len(e.Value))
	size += 1 + varintSize(kv) + kv
	prev := 0
	if withPrev {
		prev = mvcc.KeyValueSize(e.Key, &e.Prev, len(prevValue))
		size += 1 + varintSize(prev) + prev
	}
	b := make([]byte, 0, 1+varintSize(size)+size)
	b = append(b, tagEvents)
	b = binary.AppendUvarint(b, uint64(size))
	if v.Tombstone() {
		b = append(b, tagType, 1)
	}
	b = append(b, tagKV)
	b = binary.AppendUvarint(b, uint64(kv))
	b = mvcc.AppendKeyValue(b, e.Key, &v, e.Value)
	if withPrev {
		b = append(b, tagPrevKV)
		b = binary.AppendUvarint(b, uint64(prev))
		b = mvcc.AppendKeyValue(b, e.Key, &e.Prev, prevValue)
	}
	return b
}

func varintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
