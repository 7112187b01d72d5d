package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/keelson-io/keelson/drivers"
)

// model is the naive store that the index is compared with: every version of
// every key, nothing ever freed.
type model struct {
	rev, compact int64
	keys         map[string][]modelVersion
	leases       map[int64]int64 // TTL
	auth         authModel
}

type modelVersion struct {
	main, create, count, lease int64
	sub                        int32
	value                      []byte
}

func newModel() *model {
	return &model{rev: 1, compact: -1, keys: map[string][]modelVersion{}, leases: map[int64]int64{}, auth: newAuthModel()}
}

func (m *model) at(key string, rev int64) *modelVersion {
	vs := m.keys[key]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].main <= rev {
			if vs[i].count == 0 {
				return nil
			}
			return &vs[i]
		}
	}
	return nil
}

func (m *model) live(r Range, rev int64) (keys []string) {
	for k := range m.keys {
		if r.Contains(k) && m.at(k, rev) != nil {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

// request applies one and gives the number of changes.
func (m *model) request(request any) error {
	changes := int32(0)
	put := func(r *pb.PutRequest) {
		v := modelVersion{main: m.rev + 1, sub: changes, create: m.rev + 1, count: 1, lease: r.Lease, value: r.Value}
		if old := m.at(string(r.Key), m.rev+1); old != nil {
			v.create, v.count = old.create, old.count+1
			if r.IgnoreLease {
				v.lease = old.lease
			}
			if r.IgnoreValue {
				v.value = old.value
			}
		}
		m.keys[string(r.Key)] = append(m.keys[string(r.Key)], v)
		changes++
	}
	del := func(keys []string) {
		for _, k := range keys {
			m.keys[k] = append(m.keys[k], modelVersion{main: m.rev + 1, sub: changes})
			changes++
		}
	}
	check := func(r *pb.PutRequest) error {
		if _, ok := m.leases[r.Lease]; r.Lease != 0 && !ok {
			return ErrLeaseNotFound
		}
		if (r.IgnoreLease || r.IgnoreValue) && m.at(string(r.Key), m.rev) == nil {
			return ErrKeyNotFound
		}
		return nil
	}
	switch r := request.(type) {
	case *pb.PutRequest:
		if err := check(r); err != nil {
			return err
		}
		put(r)
	case *pb.DeleteRangeRequest:
		del(m.live(NewRange(r.Key, r.RangeEnd), m.rev))
	case *pb.TxnRequest:
		for _, op := range r.Success {
			if p := op.GetRequestPut(); p != nil {
				if err := check(p); err != nil {
					return err
				}
			}
		}
		for _, op := range r.Success {
			if p := op.GetRequestPut(); p != nil {
				put(p)
			} else if d := op.GetRequestDeleteRange(); d != nil {
				del(m.live(NewRange(d.Key, d.RangeEnd), m.rev+1))
			}
		}
	case *pb.CompactionRequest:
		if r.Revision <= m.compact {
			return ErrCompacted
		}
		if r.Revision > m.rev {
			return ErrFutureRev
		}
		m.compact = r.Revision
	case *pb.LeaseGrantRequest:
		if _, ok := m.leases[r.ID]; ok {
			return ErrLeaseExists
		}
		m.leases[r.ID] = r.TTL
	case *pb.LeaseRevokeRequest:
		if _, ok := m.leases[r.ID]; !ok {
			return ErrLeaseNotFound
		}
		var keys []string
		for _, k := range m.live(Everything, m.rev) {
			if m.at(k, m.rev).lease == r.ID {
				keys = append(keys, k)
			}
		}
		del(keys)
		delete(m.leases, r.ID)
	default:
		return m.auth.request(request)
	}
	if changes > 0 {
		m.rev++
	}
	return nil
}

// attached gives the keys of a lease.
func (m *model) attached(id int64) (keys []string) {
	for _, k := range m.live(Everything, m.rev) {
		if m.at(k, m.rev).lease == id {
			keys = append(keys, k)
		}
	}
	return keys
}

// testLog is a log in memory with holes.
type testLog struct {
	entries map[int64]drivers.Entry
	end     drivers.End
}

func newTestLog() *testLog { return &testLog{entries: map[int64]drivers.Entry{}} }

func (l *testLog) append(entries []drivers.Entry) drivers.End {
	for _, e := range entries {
		l.end.Position++
		if e.Position != l.end.Position {
			panic(fmt.Sprintf("entry says position %d at the end %d", e.Position, l.end.Position))
		}
		l.entries[e.Position] = e
	}
	return l.end
}

func (l *testLog) sorted() []drivers.Entry {
	out := make([]drivers.Entry, 0, len(l.entries))
	for _, e := range l.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b drivers.Entry) int { return int(a.Position - b.Position) })
	return out
}

func (l *testLog) values(positions []int64) ([][]byte, error) {
	out := make([][]byte, len(positions))
	for i, p := range positions {
		e, ok := l.entries[p]
		if !ok {
			return nil, fmt.Errorf("position %d: %w", p, drivers.ErrScrubbed)
		}
		out[i] = e.Value
	}
	return out, nil
}

// load builds an index as a server does at its start: without values.
func (l *testLog) load(t *testing.T) *Index {
	t.Helper()
	b := NewIndex().Edit(false)
	for _, e := range l.sorted() {
		e.Value = nil
		if err := b.Load([]drivers.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	b.Settle()
	return b.Index(l.end)
}

// pruneAll takes everything out of the index that its compact revision frees,
// in small chunks, and gives the freed positions in order.
func pruneAll(ix *Index, chunk int) (*Index, []int64) {
	var freed []int64
	for from, more := "", ix.Compact > 0; more; {
		keys, next := ix.Prunable(from, ix.Compact, chunk)
		b := ix.Edit(false)
		freed = append(freed, Positions(b.Prune(keys, ix.Compact))...)
		ix = b.Index(ix.End)
		from, more = next, next != ""
	}
	b := ix.Edit(false)
	freed = append(freed, Positions(b.TakeGarbage())...)
	ix = b.Index(ix.End)
	slices.Sort(freed)
	freed = slices.Compact(freed)
	return ix, slices.DeleteFunc(freed, func(p int64) bool { return p >= ix.End.Position })
}

// dump writes down everything that is in an index but where in the log it stands for garbage.
func dump(ix *Index) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "rev %d compact %d end %d\n", ix.Rev, ix.Compact, ix.End.Position)
	for k, rec := range ix.keys.all(Everything) {
		fmt.Fprintf(&b, "%q %+v", k, rec.Version)
		for p := rec.older; p != nil; p = p.prev {
			fmt.Fprintf(&b, " <- %+v", p.Version)
		}
		b.WriteByte('\n')
	}
	for l := range ix.Leases() {
		fmt.Fprintf(&b, "lease %d ttl %d left %d keys %q\n", l.ID, l.TTL, l.Remaining, slices.Collect(l.Keys()))
	}
	fmt.Fprintf(&b, "alarms %v\n", ix.alarms)
	fmt.Fprintf(&b, "auth rev %d, of the removal at %d\n", ix.AuthRev, ix.authRemoval)
	fmt.Fprintf(&b, "cluster %x\n", ix.Cluster())
	for _, m := range slices.Concat(ix.RemovedMembers(), ix.Members()) {
		fmt.Fprintf(&b, "member at %d, founder %v, removed %v %s\n", m.position, m.founder, m.Removed, prototext.Format(m.Member))
	}
	for name, u := range ix.Users() {
		fmt.Fprintf(&b, "user %q %+v %s\n", name, u.AuthChange, prototext.Format(u.User))
	}
	for name, r := range ix.Roles() {
		fmt.Fprintf(&b, "role %q %+v %s\n", name, r.AuthChange, prototext.Format(r.Role))
	}
	return b.String()
}

var modelKeys = func() []string {
	keys := []string{"\x00", "\x00\x00", "\xff", "\xff\xff", "a", "a\x00", "a\xff", "aa", "b"}
	for i := range 90 {
		keys = append(keys, fmt.Sprintf("/registry/pods/%02d", i))
	}
	return keys
}()

func randomRange(r *rand.Rand) Range {
	k, l := modelKeys[r.IntN(len(modelKeys))], modelKeys[r.IntN(len(modelKeys))]
	switch r.IntN(5) {
	case 0:
		return NewRange([]byte(k), nil)
	case 1:
		return NewRange([]byte(k), []byte{0})
	case 2:
		return Everything
	case 3:
		return NewRange([]byte("/registry/pods/"), []byte("/registry/pods0"))
	}
	return NewRange([]byte(k), []byte(l)) // may be empty or inverted
}

func rangeEnd(r Range) []byte {
	if r.End == "" {
		return []byte{0}
	}
	return []byte(r.End)
}

func randomPut(r *rand.Rand, key string) *pb.PutRequest {
	p := &pb.PutRequest{Key: []byte(key), PrevKv: r.IntN(3) == 0}
	switch r.IntN(8) {
	case 0:
		p.IgnoreValue = true
	case 1:
		p.IgnoreLease, p.Value = true, []byte{byte(r.Uint32())}
	case 2: // an empty value
	default:
		p.Value = fmt.Appendf(nil, "v%d", r.Uint32())
	}
	if !p.IgnoreLease && r.IntN(3) == 0 {
		p.Lease = int64(r.IntN(6)) - 1
	}
	return p
}

func randomRequest(r *rand.Rand, m *model) any {
	key := modelKeys[r.IntN(len(modelKeys))]
	switch r.IntN(24) {
	case 20, 21, 22, 23:
		return randomAuth(r)
	case 0, 1:
		rng := randomRange(r)
		return &pb.DeleteRangeRequest{Key: []byte(rng.Start + "\x00")[:max(len(rng.Start), 1)], RangeEnd: rangeEnd(rng), PrevKv: r.IntN(2) == 0}
	case 2, 3, 4:
		return &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: r.IntN(2) == 0}
	case 5, 6, 7:
		t := &pb.TxnRequest{}
		for _, i := range r.Perm(len(modelKeys))[:r.IntN(5)] {
			if r.IntN(3) == 0 {
				t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
					RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(modelKeys[i])}}})
				continue
			}
			t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: randomPut(r, modelKeys[i])}})
		}
		return t
	case 8:
		if r.IntN(6) == 0 {
			return &pb.CompactionRequest{Revision: m.rev - int64(r.IntN(30)) + 1}
		}
	case 9:
		return &pb.LeaseGrantRequest{ID: int64(r.IntN(6)) - 1 | 1, TTL: 100}
	case 10:
		return &pb.LeaseRevokeRequest{ID: int64(r.IntN(6)) - 1 | 1}
	}
	return randomPut(r, key)
}

// compare checks all that can be asked of the index against the model.
func compare(t *testing.T, r *rand.Rand, ix *Index, m *model, values Values) {
	t.Helper()
	if ix.Rev != m.rev || ix.Compact != m.compact {
		t.Fatalf("revision %d, compact %d; the model has %d, %d", ix.Rev, ix.Compact, m.rev, m.compact)
	}
	compareAuth(t, ix, &m.auth)
	oldest := max(m.compact, 1)
	for rev := oldest; rev <= m.rev; rev++ {
		if rev > oldest+3 && rev < m.rev-3 && r.IntN(4) != 0 {
			continue
		}
		rng := randomRange(r)
		compareRange(t, ix, m, rng, rev, values)
		for _, k := range modelKeys {
			compareKey(t, ix, m, k, rev)
		}
	}
	for _, rev := range []int64{m.rev + 1, m.compact - 1} {
		if rev <= 0 {
			continue
		}
		if _, _, err := ix.Range(&pb.RangeRequest{Key: []byte("a"), Revision: rev}, values); !errors.Is(err, ErrFutureRev) && !errors.Is(err, ErrCompacted) {
			t.Fatalf("range at %d of [%d, %d]: %v", rev, m.compact, m.rev, err)
		}
	}
	n := 0
	for l := range ix.Leases() {
		n++
		if m.leases[l.ID] != l.TTL {
			t.Fatalf("lease %d with TTL %d, the model has %d", l.ID, l.TTL, m.leases[l.ID])
		}
		if got, want := slices.Collect(l.Keys()), m.attached(l.ID); !slices.Equal(got, want) || l.KeyCount() != len(want) {
			t.Fatalf("lease %d has keys %q, the model %q", l.ID, got, want)
		}
	}
	if n != len(m.leases) {
		t.Fatalf("%d leases, the model has %d", n, len(m.leases))
	}
}

func compareRange(t *testing.T, ix *Index, m *model, rng Range, rev int64, values Values) {
	t.Helper()
	want := m.live(rng, rev)
	if got := ix.Count(rng, rev); got != int64(len(want)) {
		t.Fatalf("count of %q at %d: %d, the model has %d", rng, rev, got, len(want))
	}
	req := &pb.RangeRequest{Key: []byte(rng.Start), RangeEnd: rangeEnd(rng), Revision: rev}
	resp, fills, err := ix.Range(req, values)
	if err == nil {
		err = Fetch(fills, values)
	}
	if err != nil {
		t.Fatalf("range %q at %d: %v", rng, rev, err)
	}
	if resp.Count != int64(len(want)) || len(resp.Kvs) != len(want) || resp.More {
		t.Fatalf("range %q at %d: %d of %d keys, more %v, the model has %d", rng, rev, len(resp.Kvs), resp.Count, resp.More, len(want))
	}
	for i, kv := range resp.Kvs {
		v := m.at(want[i], rev)
		if string(kv.Key) != want[i] || kv.ModRevision != v.main || kv.CreateRevision != v.create || kv.Version != v.count ||
			kv.Lease != v.lease || !bytes.Equal(kv.Value, v.value) {
			t.Fatalf("range at %d: %v, the model has %q %+v", rev, kv, want[i], v)
		}
	}
	if len(want) > 1 {
		req.Limit = int64(len(want) / 2)
		resp, _, err := ix.Range(req, values)
		if err != nil || len(resp.Kvs) != len(want)/2 || !resp.More || resp.Count != int64(len(want)) {
			t.Fatalf("range with limit %d at %d: %d keys, more %v, count %d, %v", req.Limit, rev, len(resp.Kvs), resp.More, resp.Count, err)
		}
	}
}

func compareKey(t *testing.T, ix *Index, m *model, key string, rev int64) {
	t.Helper()
	got, want := ix.Get(key, rev), m.at(key, rev)
	if (got == nil) != (want == nil) || got != nil && (got.Main != want.main || got.Sub != want.sub || int(got.Size) != len(want.value)) {
		t.Fatalf("get %q at %d: %+v, the model has %+v", key, rev, got, want)
	}
	prev := ix.PrevVersion(key, rev)
	want = nil
	if rev-1 >= m.compact {
		want = m.at(key, rev-1)
	}
	if (prev == nil) != (want == nil) || prev != nil && prev.Main != want.main {
		t.Fatalf("version of %q before %d: %+v, the model has %+v", key, rev, prev, want)
	}
}

// checkPositions holds Before against where the changes stand in the log.
func checkPositions(t *testing.T, ix *Index, l *testLog) {
	t.Helper()
	for rev := max(ix.Compact, 1); rev <= ix.Rev+1; rev++ {
		before := ix.Before(rev)
		for _, e := range l.sorted() {
			events, err := ix.Events(&e, rev)
			if err != nil {
				t.Fatal(err)
			}
			if len(events) > 0 && e.Position <= before {
				t.Fatalf("Before(%d) is %d, but revision %d is at %d", rev, before, events[0].Main, e.Position)
			}
		}
	}
}

// TestModel runs random batches against the model, with compactions, prunes, crashes in the
// middle of a scrub, and restarts.
func TestModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			m, l := newModel(), newTestLog()
			ix := NewIndex()
			old := map[*Index]string{}
			for step := range 60 {
				ix = modelStep(t, r, m, l, ix)
				compare(t, r, ix, m, l.values)
				if step%20 == 19 {
					compare(t, r, l.load(t), m, l.values)
					checkPositions(t, ix, l)
				}
				if step%12 == 11 {
					ix = crashAndPrune(t, r, m, l, ix)
				}
				if step%5 == 0 {
					old[ix] = dump(ix)
				}
			}
			for ix, was := range old {
				if dump(ix) != was {
					t.Fatal("an index changed after it was handed out")
				}
			}
		})
	}
}

// modelStep evaluates one batch on both sides.
func modelStep(t *testing.T, r *rand.Rand, m *model, l *testLog, ix *Index) *Index {
	t.Helper()
	requests := make([]any, 1+r.IntN(12))
	for i := range requests {
		requests[i] = randomRequest(r, m)
	}
	before := dump(ix)
	b, results := Evaluate(ix, Env{Values: l.values}, requests)
	for i, req := range requests {
		rev := m.rev
		res := results[i]
		if err := m.request(req); !errors.Is(res.Err, err) {
			t.Fatalf("%T %v: %v, the model says %v", req, req, res.Err, err)
		}
		if h, ok := res.Response.(interface{ GetHeader() *pb.ResponseHeader }); ok && res.Err == nil && h.GetHeader().Revision != m.rev {
			t.Fatalf("%T %v: header at %d, the model at %d (before it %d)", req, req, h.GetHeader().Revision, m.rev, rev)
		}
	}
	if dump(ix) != before {
		t.Fatal("evaluating changed the index it began with")
	}
	checkEvents(t, b, ix.Rev, m)
	return b.Index(l.append(b.Entries()))
}

// checkEvents holds a batch's events against the versions the model got.
func checkEvents(t *testing.T, b *Builder, after int64, m *model) {
	t.Helper()
	type change struct {
		key string
		v   modelVersion
	}
	var want []change
	for k, vs := range m.keys {
		for _, v := range vs {
			if v.main > after {
				want = append(want, change{k, v})
			}
		}
	}
	slices.SortFunc(want, func(a, b change) int {
		if a.v.main != b.v.main {
			return int(a.v.main - b.v.main)
		}
		return int(a.v.sub - b.v.sub)
	})
	if len(want) != len(b.Events()) {
		t.Fatalf("%d events, the model has %d changes", len(b.Events()), len(want))
	}
	for i, ev := range b.Events() {
		w := want[i]
		if ev.Key != w.key || ev.Main != w.v.main || ev.Sub != w.v.sub || ev.Count != w.v.count || !bytes.Equal(ev.Value, w.v.value) {
			t.Fatalf("event %+v, the model has %q %+v", ev, w.key, w.v)
		}
		prev := m.at(w.key, w.v.main-1)
		if (ev.Prev.Main == 0) != (prev == nil) || prev != nil && ev.Prev.Main != prev.main {
			t.Fatalf("event %+v replaces %+v, in the model %+v", ev.Version, ev.Prev, prev)
		}
	}
}

// crashAndPrune prunes the index, scrubs the log up to some point, restarts
// there, and finishes. A server that crashed must end with the same log and
// the same index as one that did not.
func crashAndPrune(t *testing.T, r *rand.Rand, m *model, l *testLog, ix *Index) *Index {
	t.Helper()
	pruned, freed := pruneAll(ix, 1+r.IntN(40))
	compare(t, r, pruned, m, l.values)
	crashed := newTestLog()
	crashed.end = l.end
	for p, e := range l.entries {
		crashed.entries[p] = e
	}
	for _, p := range freed[:r.IntN(len(freed)+1)] {
		delete(crashed.entries, p)
	}
	for _, p := range freed {
		delete(l.entries, p)
	}
	compare(t, r, pruned, m, l.values)
	restarted := crashed.load(t)
	compare(t, r, restarted, m, crashed.values)
	restarted, more := pruneAll(restarted, 50)
	for _, p := range more {
		delete(crashed.entries, p)
	}
	compare(t, r, restarted, m, crashed.values)
	compare(t, r, l.load(t), m, l.values)
	for p := range crashed.entries {
		if _, ok := l.entries[p]; !ok {
			t.Errorf("the entry at %d was freed, but is never found again after a crash while scrubbing: %+v", p, crashed.entries[p])
		}
	}
	if got, want := dump(restarted), dump(pruned); got != want {
		t.Fatalf("after a crash and another prune the index is\n%s\nwithout the crash\n%s", got, want)
	}
	checkPositions(t, restarted, crashed)
	return pruned
}
