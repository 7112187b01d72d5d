package load

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestKeys(t *testing.T) {
	k := keyspace{resource: "pods", namespaces: 100}
	for i, want := range map[int]string{
		0:          "/registry/pods/team-0000/object-00000000",
		7:          "/registry/pods/team-0007/object-00000007",
		1234:       "/registry/pods/team-0034/object-00001234",
		99_999_999: "/registry/pods/team-0099/object-99999999",
	} {
		if got := k.key(i); got != want {
			t.Errorf("key(%d) = %q, want %q", i, got, want)
		}
		if !strings.HasPrefix(want, k.namespace(i%100)) || !strings.HasPrefix(want, k.prefix()) {
			t.Errorf("key %q lies outside of %q or %q", want, k.namespace(i%100), k.prefix())
		}
		if got := indexOf([]byte(want)); got != i {
			t.Errorf("indexOf(%q) = %d, want %d", want, got, i)
		}
	}
	for _, key := range []string{"", "short", "/registry/pods/team-0001/object-0000x000"} {
		if got := indexOf([]byte(key)); got != -1 {
			t.Errorf("indexOf(%q) = %d, want -1", key, got)
		}
	}
}

func TestValuesDifferAndComeBack(t *testing.T) {
	v, again := NewValues(), NewValues()
	seen := map[string]bool{}
	for i := range 1000 {
		for generation := range 3 {
			value := v.at(i, generation, valueSize)
			if len(value) != valueSize || value != again.at(i, generation, valueSize) {
				t.Fatalf("value %d.%d has %d bytes, or is another one the second time", i, generation, len(value))
			}
			if seen[value] {
				t.Fatalf("value %d.%d came before", i, generation)
			}
			seen[value] = true
		}
	}
}

func TestRevisionsMustRise(t *testing.T) {
	var w worker
	for _, rev := range []int64{2, 3, 9} {
		if err := w.wrote(0, rev); err != nil {
			t.Errorf("revision %d: %v", rev, err)
		}
	}
	for _, rev := range []int64{9, 8, 0} {
		if err := w.wrote(0, rev); !errors.Is(err, ErrWrong) {
			t.Errorf("revision %d after 9 gives %v, want ErrWrong", rev, err)
		}
	}
}

// event is an update of key i at revision rev, whose last revision was prev (0: no prev_kv).
func event(i int, rev, prev int64) *clientv3.Event {
	kv := &mvccpb.KeyValue{Key: []byte(pods.key(i)), ModRevision: rev, Value: make([]byte, valueSize)}
	ev := &clientv3.Event{Kv: kv}
	if prev != 0 {
		ev.PrevKv = &mvccpb.KeyValue{Key: kv.Key, ModRevision: prev}
	}
	return ev
}

func TestWatcherTakesWhatIsRight(t *testing.T) {
	w := &watcher{prefix: pods.prefix(), prevKV: true, byKey: make([]int64, 10)}
	for _, ev := range []*clientv3.Event{event(1, 5, 2), event(2, 6, 3), event(1, 9, 5)} {
		if err := w.take(ev); err != nil {
			t.Fatal(err)
		}
	}
	if want := mix(1, 5) + mix(2, 6) + mix(1, 9); w.count != 3 || w.sum != want {
		t.Errorf("after three events: count %d, sum %x, want 3, %x", w.count, w.sum, want)
	}
}

func TestWatcherRefusesWhatIsWrong(t *testing.T) {
	shortValue := event(1, 7, 5)
	shortValue.Kv.Value = nil
	otherPrev := event(1, 7, 5)
	otherPrev.PrevKv.Key = []byte(pods.key(2))
	elsewhere := event(1, 7, 5)
	elsewhere.Kv.Key = []byte("/registry/nodes/00000001")
	for name, ev := range map[string]*clientv3.Event{
		"the same again":         event(1, 5, 2),
		"older":                  event(2, 4, 2),
		"no prev_kv":             event(1, 7, 0),
		"a version was left out": event(1, 7, 6),
		"prev_kv of another key": otherPrev,
		"no value":               shortValue,
		"not watched":            elsewhere,
	} {
		w := &watcher{prefix: pods.prefix(), prevKV: true, byKey: make([]int64, 10)}
		if err := w.take(event(1, 5, 2)); err != nil {
			t.Fatal(err)
		}
		if err := w.take(ev); !errors.Is(err, ErrWrong) {
			t.Errorf("%s: take gives %v, want ErrWrong", name, err)
		}
	}
}

func TestWatchersTogetherMustKnowAllWrites(t *testing.T) {
	stopped := time.Now()
	told := func(sums ...uint64) (ws []*watcher) {
		for _, s := range sums {
			ws = append(ws, &watcher{count: 1, sum: s, ending: stopped.Add(time.Second)})
		}
		return ws
	}
	out := &outcome{done: 2, sum: mix(1, 2) + mix(2, 3)}
	if lag, err := allTold(told(mix(2, 3), mix(1, 2)), out, stopped); err != nil || lag != time.Second {
		t.Errorf("all were told: lag %v, %v, want 1s", lag, err)
	}
	for name, ws := range map[string][]*watcher{
		"one is missing":             told(mix(1, 2)),
		"one twice, another missing": told(mix(1, 2), mix(1, 2)),
		"one at another revision":    told(mix(1, 2), mix(2, 4)),
	} {
		if _, err := allTold(ws, out, stopped); !errors.Is(err, ErrWrong) {
			t.Errorf("%s: %v, want ErrWrong", name, err)
		}
	}
}

func TestListsAreChecked(t *testing.T) {
	const total = 1000
	answer := func() *clientv3.GetResponse {
		resp := &clientv3.GetResponse{Count: total}
		k := keyspace{resource: "pods", namespaces: 1}
		for i := range total {
			resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte(k.key(i)), Value: make([]byte, valueSize)})
		}
		return resp
	}
	l := &lister{total: total}
	if err := l.check(&worker{}, answer(), valueSize); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*clientv3.GetResponse){
		"one short":       func(r *clientv3.GetResponse) { r.Kvs = r.Kvs[1:] },
		"a wrong count":   func(r *clientv3.GetResponse) { r.Count-- },
		"not everything":  func(r *clientv3.GetResponse) { r.More = true },
		"out of order":    func(r *clientv3.GetResponse) { r.Kvs[7], r.Kvs[8] = r.Kvs[8], r.Kvs[7] },
		"one key twice":   func(r *clientv3.GetResponse) { r.Kvs[7] = r.Kvs[8] },
		"a value missing": func(r *clientv3.GetResponse) { r.Kvs[7].Value = nil },
	} {
		resp := answer()
		spoil(resp)
		if err := l.check(&worker{}, resp, valueSize); !errors.Is(err, ErrWrong) {
			t.Errorf("%s: %v, want ErrWrong", name, err)
		}
	}
}
