package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

func TestPutRoundTrip(t *testing.T) {
	for _, key := range []string{"a", "\x00", "\xff\xff", strings.Repeat("k", 70_000)} {
		for _, v := range []Version{
			{Main: 2, Create: 2, Count: 1},
			{Main: math.MaxInt64, Create: 2, Count: math.MaxInt64, Sub: math.MaxInt32, Size: math.MaxInt32, Lease: math.MaxInt64},
			{Main: 9, Create: 3, Count: 4, Sub: 7, Size: 1, Lease: -5},
		} {
			gotKey, got, err := decodePut(appendPut(nil, key, &v))
			if err != nil || gotKey != key || got != v {
				t.Errorf("%.10q %+v came back as %.10q %+v, %v", key, v, gotKey, got, err)
			}
		}
	}
}

func TestDeleteRoundTrip(t *testing.T) {
	var keys []string
	for i := range 20_000 {
		keys = append(keys, fmt.Sprintf("/registry/%d/%05d", i%3, i))
	}
	keys = append(keys, strings.Repeat("x", 100_000), "\x00")
	slices.Sort(keys)
	var got []string
	for rest := keys; len(rest) > 0; {
		meta, n := appendDelete(nil, 77, int32(len(got)), rest)
		if n < 1 || n > 1 && len(meta) > maxDeleteMeta+64 {
			t.Fatalf("%d keys in %d bytes", n, len(meta))
		}
		main, sub, some, err := decodeDelete(meta)
		if err != nil || main != 77 || int(sub) != len(got) || len(some) != n {
			t.Fatalf("revision %d, sub %d, %d keys, %v", main, sub, len(some), err)
		}
		got, rest = append(got, some...), rest[n:]
	}
	if !slices.Equal(got, keys) {
		t.Fatal("the keys did not come back as they were")
	}
}

// TestKeyValueBytes holds the hand-written encoding against the generated type.
func TestKeyValueBytes(t *testing.T) {
	for _, v := range []Version{{}, {Main: 1}, {Main: math.MaxInt64, Create: 127, Count: 128, Lease: -1}} {
		for _, key := range []string{"", "k", strings.Repeat("k", 300)} {
			for _, value := range [][]byte{nil, {0}, bytes.Repeat([]byte{1}, 20_000)} {
				want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&mvccpb.KeyValue{Key: []byte(key), Value: value,
					CreateRevision: v.Create, ModRevision: v.Main, Version: v.Count, Lease: v.Lease})
				if err != nil {
					t.Fatal(err)
				}
				got := AppendKeyValue([]byte("head"), key, &v, value)
				if !bytes.Equal(got, append([]byte("head"), want...)) {
					t.Errorf("%+v: %x, want %x", v, got, want)
				}
				if n := KeyValueSize(key, &v, len(value)); n != len(want) {
					t.Errorf("%+v: size %d, want %d", v, n, len(want))
				}
			}
		}
	}
}

// FuzzLoad takes in entries that may be garbage: an error, never a panic.
func FuzzLoad(f *testing.F) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}
	f.Add(KindPut, appendPut(nil, "k", &Version{Main: 2, Create: 2, Count: 1, Lease: 7}))
	meta, _ := appendDelete(nil, 3, 0, []string{"k", "kk"})
	f.Add(KindDelete, meta)
	f.Add(KindDelete, append([]byte{3, 0, 1, 0}, huge...))
	f.Add(KindDelete, append(append([]byte{3, 0, 1}, huge...), 0))
	f.Add(KindDelete, append([]byte{3, 0}, huge...))
	f.Add(KindLease, appendInts(nil, 7, 100, 0))
	f.Add(KindLeaseRevoked, appendInts(nil, 7))
	f.Add(KindCompaction, appendInts(nil, 2))
	f.Add(KindAlarm, appendInts(nil, 1, 1, 1))
	f.Add(KindMember, []byte{1})
	f.Add(KindJoined, []byte{1, 0, 8, 7})
	f.Add(KindJoined, []byte{1, 1, 8, 7})
	f.Add(KindJoined, []byte{1, 2, 8, 7})
	f.Add(KindUser, []byte{2, 0, 10, 1, 'u'})
	f.Add(KindUser, []byte{2, 1, 10, 1, 'u'})
	f.Add(KindRole, []byte{2, 0, 10, 1, 'r'})
	f.Add(KindRole, []byte{2, 1, 10, 9, 'r'})
	f.Add(KindBarrier, []byte{0})
	f.Add(uint8(200), []byte{0})
	f.Fuzz(func(t *testing.T, kind uint8, meta []byte) {
		b := NewIndex().Edit(true)
		first := drivers.Entry{Position: 1, Kind: KindPut, Meta: appendPut(nil, "k", &Version{Main: 2, Create: 2, Count: 1})}
		if err := b.Load([]drivers.Entry{first}); err != nil {
			t.Fatal(err)
		}
		e := drivers.Entry{Position: 2, Kind: kind, Meta: meta}
		if err := b.Load([]drivers.Entry{e}); err != nil && !errors.Is(err, ErrBadEntry) {
			t.Errorf("kind %d, %x: %v is no ErrBadEntry", kind, meta, err)
		}
		b.Settle()
		ix := b.Index(drivers.End{Position: 2})
		_, _ = ix.Events(&e, 0)
		_ = ix.NewHasher(10).Add(&e)
	})
}
