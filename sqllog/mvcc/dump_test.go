package mvcc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

func rowsOf(t *testing.T, judge *Index, entries []drivers.Entry) (rows []string, state *Index, ok bool) {
	t.Helper()
	d := NewDump(judge)
	for i := range entries {
		err := d.Add(&entries[i], func(r *Row) error {
			rows = append(rows, fmt.Sprintf("%x %x", AppendRevision(nil, r.Main, r.Sub, r.Tombstone), r.KeyValue))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	state, ok = d.State()
	return rows, state, ok
}

// TestDump holds the rows of a dump against etcd's rules, with what a compaction frees still there and not, judged by an index of the same
// moment and by a later one.
func TestDump(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			m, l, ix := newModel(), newTestLog(), NewIndex()
			check := func(judge *Index, entries []drivers.Entry) {
				t.Helper()
				got, state, ok := rowsOf(t, judge, entries)
				var want []string
				for _, w := range modelRows(m) {
					name, value := w.encode(t)
					want = append(want, fmt.Sprintf("%x %x", name, value))
				}
				if !ok || !slices.Equal(got, want) || state.Rev != m.rev || state.Compact != m.compact {
					t.Fatalf("at [%d, %d], %v: %d rows, etcd's rules give %d", state.Compact, state.Rev, ok, len(got), len(want))
				}
				sameBesideKeys(t, state, ix)
			}
			for range 20 {
				ix = modelStep(t, r, m, l, ix)
				check(ix, l.sorted())
				// The judge knows of what came later, and has the same compact revision.
				before, later := l.sorted(), ix
				for range 3 {
					b, results := Evaluate(later, Env{Values: l.values}, []any{&pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, &pb.PutRequest{Key: []byte("later")}})
					if results[1].Err != nil {
						t.Fatal(results[1].Err)
					}
					later = b.Index(drivers.End{Position: later.End.Position + int64(len(b.Entries()))})
				}
				check(later, before)
				pruned, freed := pruneAll(ix, 30)
				for _, p := range freed {
					delete(l.entries, p)
				}
				ix = pruned
				check(ix, l.sorted())
				// A compaction of what the entries do not have.
				b, _ := Evaluate(later, Env{Values: l.values}, []any{&pb.CompactionRequest{Revision: later.Rev}})
				if _, state, ok := rowsOf(t, b.Index(later.End), l.sorted()); ok {
					t.Fatalf("a dump of revision %d was judged at %d", state.Rev, later.Rev)
				}
			}
		})
	}
}

// sameBesideKeys compares what a state has beside keys with an index.
func sameBesideKeys(t *testing.T, state, ix *Index) {
	t.Helper()
	show := func(ix *Index) (lines []string) {
		for l := range ix.Leases() {
			lines = append(lines, fmt.Sprint("lease ", l.ID, l.TTL, l.Remaining))
		}
		for _, a := range ix.Alarms() {
			lines = append(lines, fmt.Sprint("alarm ", a.Member, a.Type))
		}
		for _, m := range append(slices.Clone(ix.Members()), ix.RemovedMembers()...) {
			lines = append(lines, fmt.Sprint("member ", m.Removed, m.Member))
		}
		for _, u := range ix.Users() {
			b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(u.User)
			lines = append(lines, fmt.Sprintf("user %x", b))
		}
		for _, r := range ix.Roles() {
			b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r.Role)
			lines = append(lines, fmt.Sprintf("role %x", b))
		}
		return append(lines, fmt.Sprint("auth ", ix.AuthRev))
	}
	if got, want := show(state), show(ix); !slices.Equal(got, want) {
		t.Fatalf("the state has\n%q, the index\n%q", got, want)
	}
}
