package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func leased(key string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte("leased"), Lease: lease}
}

func del(from, to string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(from), RangeEnd: []byte(to)}
}

func compaction(rev int64) *pb.CompactionRequest { return &pb.CompactionRequest{Revision: rev} }

// entries gives what requests, each a batch of its own, leave in a log.
func entries(t *testing.T, requests ...any) []drivers.Entry {
	ix := mvcc.NewIndex()
	var all []drivers.Entry
	for i, r := range requests {
		b, results := mvcc.Evaluate(ix, mvcc.Env{MinLeaseTTL: 1}, []any{r})
		if results[0].Err != nil {
			t.Fatalf("request %d: %v", i, results[0].Err)
		}
		all = append(all, b.Entries()...)
		ix = b.Index(drivers.End{Position: int64(len(all))})
	}
	return all
}

// story is a log with something of everything: positions 1 to 18, revisions 2 to 9, auth revisions 2 to 4.
func story(t *testing.T) []drivers.Entry {
	return entries(t,
		&pb.LeaseGrantRequest{ID: 7, TTL: 60}, // position 1
		put("a", "1"),                         // 2: revision 2
		put("a", "22"),                        // 3: revision 3
		leased("b", 7),                        // 4: revision 4
		&pb.TxnRequest{Success: []*pb.RequestOp{ // 5, 6: revision 5
			{Request: &pb.RequestOp_RequestPut{RequestPut: put("c", "1")}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: put("d", "1")}},
		}},
		del("c", "e"), // 7: revision 6
		put("c", ""),  // 8: revision 7
		&mvcc.Checkpoint{Leases: []mvcc.Remaining{{ID: 7, Remaining: 30}}}, // 9
		put("c", "4"),                                      // 10: revision 8
		put("a", "333"),                                    // 11: revision 9
		&pb.AuthRoleAddRequest{Name: "r"},                  // 12: auth revision 2
		&pb.AuthUserAddRequest{Name: "u"},                  // 13: auth revision 3
		&pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}, // 14: auth revision 4
		&mvcc.Founding{Member: &mvcc.Member{ClusterID: 5, Member: &pb.Member{ID: 1, PeerURLs: []string{"p"}}}}, // 15
		&mvcc.AddMember{Member: &pb.Member{ID: 2, PeerURLs: []string{"q"}, IsLearner: true}, MaxLearners: 1},   // 16
		&mvcc.AddMember{Member: &pb.Member{ID: 3}},                                                             // 17
		&mvcc.RemoveMember{ID: 3}, // 18
	)
}

// altered is a log that gives other entries and bounds than it has.
type altered struct {
	*memory.Log
	edit   func([]drivers.Entry) []drivers.Entry
	bounds *drivers.Bounds
}

func (l altered) Scan(ctx context.Context, opts drivers.ScanOptions, fn func([]drivers.Entry) error) error {
	return l.Log.Scan(ctx, opts, func(entries []drivers.Entry) error { return fn(l.edit(entries)) })
}

func (l altered) ReadIndex(ctx context.Context) (drivers.Bounds, error) {
	if l.bounds != nil {
		return *l.bounds, nil
	}
	return l.Log.ReadIndex(ctx)
}

// logOf makes a log of entries. Its positions are the places in the slice.
func logOf(t *testing.T, entries []drivers.Entry) *memory.Log {
	s := memory.NewStore()
	if len(entries) > 0 {
		if _, err := s.AppendForeign(&drivers.Batch{ID: drivers.BatchID{1}, Entries: entries}); err != nil {
			t.Fatal(err)
		}
	}
	return s.Open()
}

// found walks a log and gives its findings and the summary.
func found(t *testing.T, log drivers.Log) ([]Finding, Summary) {
	t.Helper()
	var all []Finding
	last := int64(-1)
	s, err := Walk(t.Context(), log, Options{
		Report: func(f Finding) { all = append(all, f) },
		Progress: func(done, total int64) {
			if done < last || done > total {
				t.Errorf("progress went from %d to %d of %d", last, done, total)
			}
			last = done
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Findings != int64(len(all)) {
		t.Errorf("%d findings were reported, and the summary says %d", len(all), s.Findings)
	}
	// It makes no difference what is taken out of the index on the way.
	var again []Finding
	s2, err := Walk(t.Context(), log, Options{Report: func(f Finding) { again = append(again, f) }, loadAtOnce: 1})
	if err != nil || s2 != s || !slices.Equal(all, again) {
		t.Errorf("findings %q, %+v; without what is superseded %q, %+v: %v", all, s, again, s2, err)
	}
	return all, s
}

// TestMuchSuperseded: a log may have much more that is superseded than fits into memory.
func TestMuchSuperseded(t *testing.T) {
	var requests []any
	for i := range 1000 {
		if requests = append(requests, put(fmt.Sprint("k", i%7), "x")); i%50 == 49 {
			requests = append(requests, compaction(int64(i+2)))
		}
	}
	log := logOf(t, entries(t, requests...))
	bounds, err := log.ReadIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{log: log, bounds: bounds, opts: Options{Progress: func(int64, int64) {}, loadAtOnce: 20}}
	if err := w.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, _ := w.index.Versions(); n < 7 || n > 7+50+20 {
		t.Errorf("the index has %d versions of 7 keys", n)
	}
	found(t, log)
}

func TestSound(t *testing.T) {
	all, s := found(t, logOf(t, story(t)))
	if len(all) > 0 {
		t.Errorf("found %v", all)
	}
	want := Summary{Entries: 18, Position: 18, Revision: 9, Compact: -1, Revisions: 8, Keys: 3, Leases: 1, Users: 1, Roles: 1, AuthRevision: 4, Members: 2, Removed: 1}
	if s != want {
		t.Errorf("summary %+v, want %+v", s, want)
	}
	if all, s := found(t, logOf(t, nil)); len(all) > 0 || s != (Summary{Revision: 1, Compact: -1, AuthRevision: 1}) {
		t.Errorf("an empty log: %v, %+v", all, s)
	}
}

// meta encodes a put as it stands in a log.
func meta(key string, main, sub, create, count, lease, size int64) []byte {
	var b []byte
	for _, n := range []int64{main, sub, main - create, count, lease, size} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return append(b, key...)
}

func ints(ns ...int64) (b []byte) {
	for _, n := range ns {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

// user encodes a user "u" as it stands in a log.
func user(authRev int64, roles ...string) []byte {
	b := append(ints(authRev, 0), 10, 1, 'u')
	for _, r := range roles {
		b = append(append(b, 26, byte(len(r))), r...)
	}
	return b
}

// TestBroken breaks a sound log in one way at a time.
func TestBroken(t *testing.T) {
	type log = []drivers.Entry
	for _, c := range []struct {
		name string
		edit func(log) log
		want []string // the rules found, in order
		text string   // part of the first finding
	}{
		{"a value too short", func(l log) log { l[2].Value = l[2].Value[:1]; return l }, []string{"I7"}, `position 3: the value of key "a" has 1 bytes, and 2 are recorded`},
		{"a revision skipped", func(l log) log { l[10].Meta = meta("a", 10, 0, 2, 3, 0, 3); return l }, []string{"I2"}, "position 11: revision 10 follows revision 8"},
		{"a revision reused", func(l log) log { l[10].Meta = meta("a", 8, 0, 2, 3, 0, 3); return l }, []string{"I3"}, "revision 8: sub 0 follows sub 0"},
		{"a revision gone back", func(l log) log { l[10].Meta = meta("a", 7, 0, 2, 3, 0, 3); return l }, []string{"I2"}, "revision 7 follows revision 8"},
		{"the first revision", func(l log) log { l[1].Meta = meta("a", 1, 0, 1, 1, 0, 1); return l }, []string{"I2", "I4", "I2", "I4"}, "the revision of a change is 1"},
		{"a sub skipped", func(l log) log { l[5].Meta = meta("d", 5, 2, 5, 1, 0, 1); return l }, []string{"I3"}, "revision 5: sub 2 follows sub 0"},
		{"a sub that is not the first", func(l log) log { l[3].Meta = meta("b", 4, 1, 4, 1, 7, 6); return l }, []string{"I3"}, "revision 4 begins with sub 1"},
		{"half a transaction", func(l log) log { return slices.Delete(l, 4, 5) }, []string{"I3", "I4"}, "revision 5 begins with sub 1"},
		{"a version skipped", func(l log) log { l[2].Meta = meta("a", 3, 0, 2, 3, 0, 2); return l }, []string{"I4", "I4"}, "create_revision 2 and version 3, after create_revision 2 and version 1"},
		{"another generation", func(l log) log { l[2].Meta = meta("a", 3, 0, 3, 1, 0, 2); return l }, []string{"I4", "I4"}, "create_revision 3 and version 1, after"},
		{"a generation from nowhere", func(l log) log { l[7].Meta = meta("c", 7, 0, 5, 2, 0, 0); return l }, []string{"I4", "I4"}, "and did not live before"},
		{"created later than changed", func(l log) log { l[7].Meta = meta("c", 7, 0, 7, 2, 0, 0); return l }, []string{"I4", "I4"}, "create_revision 7 and version 2"},
		{"a tombstone of nothing", func(l log) log {
			return slices.Insert(l, 11, drivers.Entry{Kind: mvcc.KindDelete, Meta: append(ints(10, 0, 1, 0, 1), 'x')})
		}, []string{"I4"}, `key "x" is deleted at revision 10`},
		{"a lease that was never granted", func(l log) log { l[3].Meta = meta("b", 4, 0, 4, 1, 99, 6); return l }, []string{"I8"}, `key "b" is attached to lease 63`},
		{"a lease that is gone", func(l log) log { return append(l, drivers.Entry{Kind: mvcc.KindLeaseRevoked, Meta: ints(7)}) }, []string{"I8"}, "attached to lease 7, which does not exist"},
		{"a lease without a TTL", func(l log) log { l[0].Meta = ints(7, 0, 0); return l }, []string{"I8"}, "position 1: lease 7 has a TTL of 0 s"},
		{"a lease with more left than its TTL", func(l log) log { l[8].Meta = ints(7, 60, 61); return l }, []string{"I8"}, "61 s are left"},
		{"an entry of no kind", func(l log) log { return append(l, drivers.Entry{Kind: 200, Meta: []byte{1}}) }, []string{"I1"}, "unknown kind 200"},
		{"an entry cut off", func(l log) log { l[10].Meta = l[10].Meta[:3]; return l }, []string{"I1"}, "malformed log entry"},
		{"a compaction gone back", func(l log) log {
			return append(l, drivers.Entry{Kind: mvcc.KindCompaction, Meta: ints(5)}, drivers.Entry{Kind: mvcc.KindCompaction, Meta: ints(4)})
		}, []string{"I7", "I6"}, "a compaction at revision 4 follows one at 5"},
		{"a compaction of what comes later", func(l log) log {
			return slices.Insert(l, 10, drivers.Entry{Kind: mvcc.KindCompaction, Meta: ints(9)})
		}, []string{"I2"}, "revision 9 follows a compaction at revision 9"},
		{"an auth revision gone back", func(l log) log { l[13].Meta = user(2, "r"); return l }, []string{"I11"}, "position 14: auth revision 2 follows auth revision 3"},
		{"a role of nobody's", func(l log) log { return slices.Delete(l, 11, 12) }, []string{"I11"}, `user "u" has role "r", which does not exist`},
		{"roles in no order", func(l log) log { l[13].Meta = user(4, "root", "r"); return l }, []string{"I11"}, `user "u" has role "r" after role "root"`},
		{"a role twice", func(l log) log { l[13].Meta = user(4, "r", "r"); return l }, []string{"I11"}, `user "u" has role "r" after role "r"`},
		{"a user without a name", func(l log) log { l[12].Meta = ints(3, 0); return l }, []string{"I1"}, "position 13: the entry cannot be read"},
		{"a member that comes back", func(l log) log { return append(l, drivers.Entry{Kind: mvcc.KindJoined, Meta: ints(5, 0, 8, 3)}) }, []string{"I12"}, "position 19: member 3 was removed before"},
		{"a member that goes twice", func(l log) log { return append(l, l[17]) }, []string{"I12"}, "member 3 was removed before"},
		{"a member of another cluster", func(l log) log { l[15].Meta = ints(6, 0, 8, 2); return l }, []string{"I12"}, "position 16: member 2 is of cluster 6, and others are of cluster 5"},
		{"a second founder", func(l log) log { return append(l, drivers.Entry{Kind: mvcc.KindMember, Meta: ints(5, 8, 4)}) }, []string{"I12"}, "position 19: the log was founded for member 1, and for member 4"},
		{"nobody votes", func(l log) log { return append(l, drivers.Entry{Kind: mvcc.KindJoined, Meta: ints(5, 1, 8, 1)}) }, []string{"I12"}, "none of the 1 members votes"},
		{"a peer URL twice", func(l log) log { l[15].Meta = append(ints(5, 0, 8, 2), 26, 1, 'p'); return l }, []string{"I12"}, `members 1 and 2 have the peer URL "p" in common`},
		{"a removal of nobody", func(l log) log { l[17].Meta = ints(5, 1); return l }, []string{"I12"}, "position 18: a member has no id"},
		{"the root of all roles", func(l log) log { l[13].Meta = user(4, "r", "root"); return l }, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, _ := found(t, logOf(t, c.edit(story(t))))
			expectRules(t, all, c.want, c.text)
		})
	}
}

func expectRules(t *testing.T, all []Finding, want []string, text string) {
	t.Helper()
	var got []string
	for _, f := range all {
		got = append(got, f.Rule)
	}
	if !slices.Equal(got, want) || len(all) > 0 && !strings.Contains(all[0].String(), text) {
		t.Errorf("found %q, want %v with %q", all, want, text)
	}
}

// TestPositions breaks what a driver promises of positions.
func TestPositions(t *testing.T) {
	keep := func(l []drivers.Entry) []drivers.Entry { return l }
	for _, c := range []struct {
		name   string
		edit   func([]drivers.Entry) []drivers.Entry
		bounds *drivers.Bounds
		want   []string
		text   string
	}{
		{"a hole", func(l []drivers.Entry) []drivers.Entry { return slices.Delete(slices.Clone(l), 8, 9) }, nil, []string{"I1"}, "positions 9 to 9 are missing, and the log is scrubbed up to 0 only"},
		{"twice", func(l []drivers.Entry) []drivers.Entry { return slices.Insert(slices.Clone(l), 9, l[8]) }, nil, []string{"I1"}, "position 9: it comes after position 9"},
		{"an end too early", func(l []drivers.Entry) []drivers.Entry { return l[:9] }, nil, []string{"I1"}, "position 9: the log's last entry is here, and its end is said to be at 18"},
		{"a scrubbed end", keep, &drivers.Bounds{End: drivers.End{Position: 11}, Scrubbed: 11}, []string{"I1"}, "scrubbed up to 11"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, _ := found(t, altered{Log: logOf(t, story(t)), edit: c.edit, bounds: c.bounds})
			expectRules(t, all, c.want, c.text)
		})
	}
}

// TestScrubbedTooMuch: what a compaction keeps must be there.
func TestScrubbedTooMuch(t *testing.T) {
	s := memory.NewStore()
	if _, err := s.AppendForeign(&drivers.Batch{ID: drivers.BatchID{1}, Entries: append(story(t), drivers.Entry{Kind: mvcc.KindCompaction, Meta: ints(5)})}); err != nil {
		t.Fatal(err)
	}
	log := s.Open()
	if err := log.Scrub(t.Context(), []int64{2}); err != nil { // a superseded version: rightly
		t.Fatal(err)
	}
	all, _ := found(t, log)
	expectRules(t, all, nil, "")
	if err := log.Scrub(t.Context(), []int64{3}); err != nil { // the version at the compact revision
		t.Fatal(err)
	}
	all, _ = found(t, log)
	expectRules(t, all, []string{"I4"}, `key "a" at revision 9 has create_revision 2 and version 3, and did not live before`)
	if err := log.Scrub(t.Context(), []int64{8}); err != nil { // a revision above it
		t.Fatal(err)
	}
	all, _ = found(t, log)
	expectRules(t, all, []string{"I2", "I4", "I4"}, "revision 8 follows revision 6")
}

// checked is a log whose driver finds something.
type checked struct {
	*memory.Log
	err error
}

func (c checked) Check(_ context.Context, report func(string)) error {
	report("a page is torn")
	return c.err
}

func TestDriversCheck(t *testing.T) {
	all, _ := found(t, checked{Log: logOf(t, story(t))})
	expectRules(t, all, []string{"storage"}, "storage: a page is torn")
	broken := errors.New("no such disk")
	if _, err := Walk(t.Context(), checked{logOf(t, nil), broken}, Options{Report: func(Finding) {}}); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

// TestErrors: what cannot be read is an error, and no finding.
func TestErrors(t *testing.T) {
	broken := errors.New("no such disk")
	for _, op := range []memory.Op{memory.OpReadIndex, memory.OpScan} {
		log := logOf(t, story(t))
		log.Inject(op, memory.Fault{Err: broken})
		s, err := Walk(t.Context(), log, Options{Report: func(f Finding) { t.Errorf("found %v", f) }})
		if !errors.Is(err, broken) || s.Findings != 0 {
			t.Errorf("error %v, want %v", err, broken)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Walk(ctx, logOf(t, story(t)), Options{Report: func(Finding) {}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v after the context ended", err)
	}
}

// TestStore: whatever a store does, its log is sound, in the middle of scrubbing too.
func TestStore(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testStore(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func testStore(t *testing.T, r *rand.Rand) {
	db := memory.NewStore()
	store, err := sqllog.Open(t.Context(), sqllog.Options{Log: db.Open(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for range 300 {
		// Refused requests (no such lease, compacted already) are part of it.
		store.Do(ctx, request(r, store.Index()), 0)
		if r.IntN(40) > 0 {
			continue
		}
		left := r.IntN(4)
		store.Prune(ctx, func(context.Context) error {
			if left--; left < 0 {
				return context.Canceled
			}
			return nil
		})
	}
	all, s := found(t, db.Open())
	if len(all) > 0 {
		t.Errorf("found %q", all)
	}
	ix := store.Index()
	if s.Revision != ix.Rev || s.Keys != ix.Keys() || s.Compact != ix.Compact || s.Position != ix.End.Position || s.AuthRevision != ix.AuthRev || s.Members != int64(len(ix.Members())) {
		t.Errorf("summary %+v, and the store is at revision %d with %d keys, compacted at %d", s, ix.Rev, ix.Keys(), ix.Compact)
	}
}

func request(r *rand.Rand, ix *mvcc.Index) any {
	key := func() string { return string(rune('a' + r.IntN(8))) }
	lease := 1 + r.Int64N(4)
	user, role := []string{"u", "v", "root"}[r.IntN(3)], []string{"r", "s", "root"}[r.IntN(3)]
	id := 1 + r.Uint64N(6)
	switch r.IntN(24) {
	case 18:
		return &mvcc.Bootstrap{ClusterID: 5, Members: []*pb.Member{{ID: id, PeerURLs: []string{"p"}}, {ID: id + 1}}}
	case 19:
		return &mvcc.AddMember{Member: &pb.Member{ID: id, PeerURLs: []string{key()}, IsLearner: r.IntN(2) == 0}, MaxLearners: 2}
	case 20:
		return &mvcc.RemoveMember{ID: id}
	case 21:
		return &mvcc.PromoteMember{ID: id}
	case 22:
		return &mvcc.UpdateMember{ID: id, PeerURLs: []string{key()}}
	case 23:
		return &mvcc.PublishMember{ID: id, Name: key()}
	case 12:
		return &pb.AuthUserAddRequest{Name: user}
	case 13:
		return &pb.AuthUserDeleteRequest{Name: user}
	case 14:
		return &pb.AuthRoleAddRequest{Name: role}
	case 15:
		return &pb.AuthRoleDeleteRequest{Role: role}
	case 16:
		return &pb.AuthUserGrantRoleRequest{User: user, Role: role}
	case 17:
		return &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: &authpb.Permission{Key: []byte(key())}}
	case 0:
		return &pb.LeaseGrantRequest{ID: lease, TTL: 60}
	case 1:
		return &pb.LeaseRevokeRequest{ID: lease}
	case 2:
		return &mvcc.Checkpoint{Leases: []mvcc.Remaining{{ID: lease, Remaining: r.Int64N(60)}}}
	case 3:
		return del(key(), key())
	case 4:
		return del(key(), "")
	case 5:
		return compaction(ix.Rev - r.Int64N(10))
	case 6:
		return leased(key(), lease)
	case 7:
		a, b := r.IntN(4), 4+r.IntN(4)
		return &pb.TxnRequest{Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: put(string(rune('a'+a)), "t")}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: put(string(rune('a'+b)), "t")}},
		}}
	}
	return put(key(), strings.Repeat("v", r.IntN(20)))
}
