package mvcc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
)

// leaseState is what the model knows of a lease.
type leaseState struct {
	ttl, remaining, entry, renewal int64
	keys                           map[string]bool
}

// leaseModel is the naive store of leases: the position of each change is that of the log's last entry after it.
type leaseModel map[int64]*leaseState

// request does what a request does, if it is not refused. position gives where the next entry of a lease would stand.
func (m leaseModel) request(request any, position int64) error {
	switch r := request.(type) {
	case *pb.LeaseGrantRequest:
		if m[r.ID] != nil {
			return ErrLeaseExists
		}
		m[r.ID] = &leaseState{ttl: r.TTL, entry: position, renewal: position, keys: map[string]bool{}}
	case *pb.LeaseRevokeRequest:
		if m[r.ID] == nil {
			return ErrLeaseNotFound
		}
		delete(m, r.ID)
	case *Expire:
		if l := m[r.ID]; l == nil || l.entry != r.Entry {
			return ErrLeaseNotFound
		}
		delete(m, r.ID)
	case *Renew:
		l := m[r.ID]
		if l == nil {
			return ErrLeaseNotFound
		}
		l.remaining, l.entry, l.renewal = 0, position, position
	case *Checkpoint:
		c := r.Leases[0]
		if l := m[c.ID]; l != nil && l.remaining != c.Remaining && (c.Entry == 0 || c.Entry == l.entry) {
			l.remaining, l.entry = c.Remaining, position
			if c.Remaining == 0 {
				l.renewal = position
			}
		}
	case *pb.PutRequest:
		if r.Lease != 0 && m[r.Lease] == nil {
			return ErrLeaseNotFound
		}
		for _, l := range m {
			delete(l.keys, string(r.Key))
		}
		if r.Lease != 0 {
			m[r.Lease].keys[string(r.Key)] = true
		}
	}
	return nil
}

// compareLeases holds the leases of an index to the model. scrubbed says that older entries may be gone.
func compareLeases(t *testing.T, what string, ix *Index, m leaseModel, scrubbed bool) {
	t.Helper()
	n := 0
	for l := range ix.Leases() {
		n++
		want := m[l.ID]
		if want == nil {
			t.Fatalf("%s: lease %d is there", what, l.ID)
		}
		keys := slices.Collect(l.Keys())
		for _, k := range keys {
			if !want.keys[k] {
				t.Fatalf("%s: lease %d has key %q", what, l.ID, k)
			}
		}
		renewal := l.Renewal() == want.renewal || scrubbed && l.Renewal() == 0 && l.Remaining > 0
		if l.TTL != want.ttl || l.Remaining != want.remaining || l.Entry() != want.entry || !renewal || len(keys) != len(want.keys) {
			t.Fatalf("%s: lease %d: TTL %d, %d left, entry %d, renewal %d, keys %q; the model has %+v", what, l.ID, l.TTL, l.Remaining, l.Entry(), l.Renewal(), keys, want)
		}
	}
	if n != len(m) {
		t.Fatalf("%s: %d leases, the model has %d", what, n, len(m))
	}
}

// TestLeasesOnSeveralServers: who writes, who follows in steps of any size, and who loads what scrubbing has left see the same
// leases, and the same entries of them.
func TestLeasesOnSeveralServers(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			m, log := leaseModel{}, newTestLog()
			writer, follower := NewIndex(), NewIndex()
			granted := map[int64]int64{}
			var freed []int64 // to be scrubbed, in ascending order
			for range 300 {
				request := randomLease(r, m, writer)
				b, results := Evaluate(writer, Env{}, []any{request})
				end := log.append(b.Entries())
				writer = b.Index(end)
				if err := m.request(request, end.Position); !errors.Is(results[0].Err, err) {
					t.Fatalf("%T %v: %v, the model says %v", request, request, results[0].Err, err)
				}
				if renew, ok := request.(*Renew); ok && results[0].Err == nil && results[0].Response != m[renew.ID].ttl {
					t.Fatalf("a renewal is answered %v", results[0].Response)
				}
				compareLeases(t, "the writer", writer, m, false)
				for l := range writer.Leases() {
					if g, known := granted[l.ID]; known && g != l.Grant {
						t.Fatalf("lease %d is another one", l.ID)
					}
					granted[l.ID] = l.Grant
				}
				for id := range granted {
					if m[id] == nil {
						delete(granted, id)
					}
				}
				if r.IntN(4) == 0 {
					follower = followLeases(t, log, follower)
					compareLeases(t, "the follower", follower, m, false)
				}
				if r.IntN(20) == 0 {
					follower = followLeases(t, log, follower)
					var more []int64
					writer, more = pruneAll(writer, 10)
					freed = append(freed, more...)
					slices.Sort(freed)
					n := r.IntN(len(freed) + 1)
					for _, p := range freed[:n] {
						delete(log.entries, p)
					}
					freed = freed[n:]
					compareLeases(t, "who loads", log.load(t), m, true)
				}
			}
		})
	}
}

// followLeases takes in what is new in the log, and checks that the leases told are those that changed.
func followLeases(t *testing.T, log *testLog, ix *Index) *Index {
	t.Helper()
	b := ix.Edit(true)
	for _, e := range log.sorted() {
		if e.Position > ix.End.Position {
			if err := b.Load([]drivers.Entry{e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := b.Index(log.end)
	for id := range int64(6) {
		old, l := ix.Lease(id), now.Lease(id)
		if changed := (old == nil) != (l == nil) || l != nil && old.Entry() != l.Entry(); changed && !slices.Contains(b.Leases(), id) {
			t.Fatalf("lease %d changed and is not told", id)
		}
	}
	return now
}

func randomLease(r *rand.Rand, m leaseModel, ix *Index) any {
	id := int64(1 + r.IntN(4))
	entry := int64(0)
	if l := m[id]; l != nil && r.IntN(3) > 0 {
		entry = l.entry
	} else if ix.End.Position > 0 && r.IntN(2) == 0 {
		entry = 1 + r.Int64N(ix.End.Position)
	}
	switch r.IntN(12) {
	case 0, 1, 2:
		return &pb.LeaseGrantRequest{ID: id, TTL: int64(10 + r.IntN(3))}
	case 3:
		return &pb.LeaseRevokeRequest{ID: id}
	case 4:
		return &Expire{ID: id, Entry: entry}
	case 5, 6:
		return &Renew{ID: id}
	case 7, 8:
		return &Checkpoint{Leases: []Remaining{{ID: id, Remaining: int64(r.IntN(4)), Entry: entry}}}
	}
	return &pb.PutRequest{Key: []byte{byte('a' + r.IntN(8))}, Lease: id * int64(r.IntN(2))}
}

// sequence evaluates requests one after the other and gives the index after all of them.
func sequence(t *testing.T, ix *Index, requests ...any) (*Index, []Result) {
	t.Helper()
	var all []Result
	for _, r := range requests {
		b, results := Evaluate(ix, Env{MinLeaseTTL: 1}, []any{r})
		end := ix.End
		end.Position += int64(len(b.Entries()))
		ix = b.Index(end)
		all = append(all, results...)
	}
	return ix, all
}

// TestExpireNamesTheEntry: in one batch too, an expiry is of the lease as it was seen.
func TestExpireNamesTheEntry(t *testing.T) {
	ix, _ := sequence(t, NewIndex(), &pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.PutRequest{Key: []byte("k"), Lease: 7})
	seen := ix.Lease(7).Entry()
	expire := &Expire{ID: 7, Entry: seen}
	for name, before := range map[string][]any{
		"renewed":            {&Renew{ID: 7}},
		"recorded":           {&Checkpoint{Leases: []Remaining{{ID: 7, Remaining: 30}}}},
		"revoked":            {&pb.LeaseRevokeRequest{ID: 7}},
		"another one by now": {&pb.LeaseRevokeRequest{ID: 7}, &pb.LeaseGrantRequest{ID: 7, TTL: 60}},
		"expired":            {expire},
	} {
		b, results := Evaluate(ix, Env{MinLeaseTTL: 1}, append(slices.Clone(before), expire))
		if err := results[len(before)].Err; !errors.Is(err, ErrLeaseNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if after := b.Index(drivers.End{}); name != "revoked" && name != "expired" && after.Lease(7) == nil {
			t.Errorf("%s: the lease is gone", name)
		}
	}
	// What is done to its keys is nothing that renews it.
	ix, _ = sequence(t, ix, &pb.PutRequest{Key: []byte("j"), Lease: 7}, &pb.DeleteRangeRequest{Key: []byte("k")})
	after, results := sequence(t, ix, expire)
	if results[0].Err != nil || after.Lease(7) != nil || after.Keys() != 0 || after.Rev != ix.Rev+1 {
		t.Errorf("%v, revision %d after %d, %d keys", results[0].Err, after.Rev, ix.Rev, after.Keys())
	}
	if _, results := sequence(t, ix, &Expire{ID: 7}); results[0].Err == nil {
		t.Error("an expiry that names no entry was done")
	}
}

// TestRenewBesideAlarms: a full disk and a broken store do not let leases end that are kept alive; a broken one expires none.
func TestRenewBesideAlarms(t *testing.T) {
	for _, alarm := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
		ix, results := sequence(t, NewIndex(), &pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: alarm},
			&Renew{ID: 7}, &Expire{ID: 7, Entry: 3}, &Renew{ID: 7})
		if results[2].Err != nil || results[2].Response != int64(60) {
			t.Errorf("%v: a renewal: %v", alarm, results[2])
		}
		if corrupt := alarm == pb.AlarmType_CORRUPT; (ix.Lease(7) != nil) != corrupt || corrupt != errors.Is(results[3].Err, ErrCorrupt) {
			t.Errorf("%v: an expiry: %v", alarm, results[3].Err)
		}
	}
}

// TestCorruptMember: an alarm for one member keeps that one from changing the data, and one for member 0 keeps all; alarms are what a member
// that must change nothing goes on with.
func TestCorruptMember(t *testing.T) {
	alarm := func(action pb.AlarmRequest_AlarmAction, member uint64) *pb.AlarmRequest {
		return &pb.AlarmRequest{Action: action, MemberID: member, Alarm: pb.AlarmType_CORRUPT}
	}
	put := &pb.PutRequest{Key: []byte("k")}
	ix := NewIndex()
	for _, step := range []struct {
		request *pb.AlarmRequest
		refuse  []uint64
	}{
		{alarm(pb.AlarmRequest_ACTIVATE, 2), []uint64{2}},
		{alarm(pb.AlarmRequest_ACTIVATE, 0), []uint64{1, 2}},
		{alarm(pb.AlarmRequest_DEACTIVATE, 2), []uint64{1, 2}},
		{alarm(pb.AlarmRequest_DEACTIVATE, 0), nil},
		{&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}, nil},
	} {
		before := ix
		ix, _ = sequence(t, ix, step.request)
		if ix.SameAlarms(before) {
			t.Errorf("%v: the alarms are the same", step.request)
		}
		for _, member := range []uint64{1, 2} {
			env := Env{Corrupt: func(ix *Index) bool { return ix.Corrupt(member) }}
			_, results := Evaluate(ix, env, []any{put, &pb.AlarmRequest{}})
			if want := slices.Contains(step.refuse, member); errors.Is(results[0].Err, ErrCorrupt) != want || results[1].Err != nil {
				t.Errorf("%v, member %d: a put: %v, alarms: %v", step.request, member, results[0].Err, results[1].Err)
			}
		}
	}
}

// TestRenewFreesTheOldEntry: however often leases are renewed, one entry of each stays.
func TestRenewFreesTheOldEntry(t *testing.T) {
	ix, _ := sequence(t, NewIndex(), &pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.LeaseGrantRequest{ID: 8, TTL: 60})
	for range 100 {
		ix, _ = sequence(t, ix, &Renew{ID: 7}, &Renew{ID: 8})
	}
	garbage := Positions(ix.Edit(false).TakeGarbage())
	if len(garbage) != 200 || slices.Contains(garbage, ix.Lease(7).Entry()) || slices.Contains(garbage, ix.Lease(8).Entry()) {
		t.Errorf("%d entries are free", len(garbage))
	}
	if ix.Rev != 1 {
		t.Errorf("revision %d", ix.Rev)
	}
}

// TestFounding: the first of all servers founds the cluster, the others join it, in one batch and in later ones, and after loading.
func TestFounding(t *testing.T) {
	founder := func(n uint64) *Founding {
		return &Founding{&Member{ClusterID: n, Member: &pb.Member{ID: n, Name: fmt.Sprint("server ", n), PeerURLs: []string{"http://a"}}}}
	}
	log := newTestLog()
	b, results := Evaluate(NewIndex(), Env{}, []any{founder(1), founder(2)})
	ix := b.Index(log.append(b.Entries()))
	for range 3 {
		for i, r := range results {
			if m := r.Response.(*Member); r.Err != nil || m.ClusterID != 1 || m.ID != 1 || m.Name != "server 1" {
				t.Errorf("%d: %v, %v", i, m, r.Err)
			}
		}
		if len(log.entries) != 1 || ix.Member().ClusterID != 1 {
			t.Errorf("%d entries, cluster %d", len(log.entries), ix.Member().ClusterID)
		}
		ix = log.load(t)
		b, results = Evaluate(ix, Env{}, []any{founder(3)})
		log.append(b.Entries())
	}
	// Who is a member by other means is no founder.
	ix, _ = sequence(t, NewIndex(), founder(1).Member)
	if _, results := sequence(t, ix, founder(2)); results[0].Response.(*Member).ClusterID != 1 {
		t.Errorf("%v", results[0])
	}
}
