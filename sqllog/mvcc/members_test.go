package mvcc

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
)

func TestMemberRoundTrip(t *testing.T) {
	for _, m := range []*Member{
		{ClusterID: math.MaxUint64, Member: &pb.Member{ID: math.MaxUint64, Name: "n", ClientURLs: []string{"http://a"}}, founder: true},
		{ClusterID: math.MaxUint64, Member: &pb.Member{ID: 1, PeerURLs: []string{"http://a", "http://b"}, IsLearner: true}},
		{ClusterID: 0, Member: &pb.Member{ID: 7}, Removed: true},
		{ClusterID: 5, Member: &pb.Member{ID: 8, PeerURLs: []string{"http://a"}}, Removed: true},
	} {
		kind, meta, err := encodeMember(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeMember(&drivers.Entry{Position: 3, Kind: kind, Meta: meta})
		if err != nil || got.ClusterID != m.ClusterID || !proto.Equal(got.Member, m.Member) || got.Removed != m.Removed || got.founder != m.founder || got.position != 3 {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

// TestOldMember: the entry that a server writes of itself, in the bytes that it has always had.
func TestOldMember(t *testing.T) {
	old := []byte{0xad, 0x02, 0x08, 0x07, 0x12, 0x01, 'n', 0x1a, 0x01, 'p', 0x22, 0x01, 'c'}
	m := &Member{ClusterID: 301, Member: &pb.Member{ID: 7, Name: "n", PeerURLs: []string{"p"}, ClientURLs: []string{"c"}}}
	b, results := Evaluate(NewIndex(), Env{}, []any{m, m})
	for i, e := range b.Entries() {
		if results[i].Err != nil || e.Kind != 8 || string(e.Meta) != string(old) {
			t.Errorf("%v, kind %d, %x", results[i].Err, e.Kind, e.Meta)
		}
	}
	loaded := NewIndex().Edit(false)
	for pos := range int64(2) {
		if err := loaded.Load([]drivers.Entry{{Position: pos + 1, Kind: 8, Meta: old}}); err != nil {
			t.Fatal(err)
		}
	}
	ix := loaded.Index(drivers.End{Position: 2})
	if got := ix.Member(); len(ix.Members()) != 1 || got != ix.MemberByID(7) || !got.Founder() || !proto.Equal(got.Member, m.Member) || ix.Cluster() != 301 {
		t.Errorf("%v of %d members, cluster %d", got, len(ix.Members()), ix.Cluster())
	}
	if g := Positions(loaded.TakeGarbage()); !slices.Equal(g, []int64{1}) {
		t.Errorf("free: %v", g)
	}
}

// three is a cluster of three members that vote, of which the first has not started.
func three(t *testing.T) *Index {
	ix, results := sequence(t, NewIndex(), &Bootstrap{ClusterID: 9, Members: []*pb.Member{
		{ID: 20, PeerURLs: []string{"http://b"}},
		{ID: 10, PeerURLs: []string{"http://a"}, Name: "a"},
		{ID: 30, PeerURLs: []string{"http://c", "http://cc"}, Name: "c"},
	}})
	if results[0].Err != nil {
		t.Fatal(results[0].Err)
	}
	return ix
}

func ids(members []*Member) (ids []uint64) {
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	return ids
}

func TestBootstrap(t *testing.T) {
	ix := three(t)
	again, results := sequence(t, ix, &Bootstrap{ClusterID: 1, Members: []*pb.Member{{ID: 1}}}, &Founding{&Member{ClusterID: 1, Member: &pb.Member{ID: 1}}})
	if dump(again) != dump(ix) || !slices.Equal(ids(results[0].Response.([]*Member)), []uint64{10, 20, 30}) || results[1].Response.(*Member).ID != 20 {
		t.Errorf("of a cluster that is there already: %v", results)
	}
	if ix.Cluster() != 9 || ix.Member().ID != 20 || len(ix.RemovedMembers()) != 0 {
		t.Error(dump(ix))
	}
	for _, twins := range [][]*pb.Member{{{ID: 1}, {ID: 1}}, {{ID: 1, PeerURLs: []string{"u"}}, {ID: 2, PeerURLs: []string{"u"}}}} {
		b, results := Evaluate(NewIndex(), Env{}, []any{&Bootstrap{ClusterID: 1, Members: twins}})
		if results[0].Err == nil || len(b.Entries()) != 0 {
			t.Errorf("twins: %v, %d entries", results[0].Err, len(b.Entries()))
		}
	}
}

// TestMembersRefused: each check, and of two that would refuse the one that etcd makes first.
func TestMembersRefused(t *testing.T) {
	member := func(id uint64, urls ...string) *pb.Member { return &pb.Member{ID: id, PeerURLs: urls} }
	learner := func(id uint64, urls ...string) *pb.Member {
		return &pb.Member{ID: id, PeerURLs: urls, IsLearner: true}
	}
	publish := func(id uint64) any { return &PublishMember{ID: id, Name: fmt.Sprint(id)} }
	gone := []any{&AddMember{Member: member(40, "http://d")}, &RemoveMember{ID: 40}}
	withLearner := &AddMember{Member: learner(50, "http://l"), MaxLearners: 1, Strict: true}
	for _, c := range []struct {
		name    string
		before  []any
		request any
		want    error
	}{
		{"add", nil, &AddMember{Member: member(40, "http://d")}, nil},
		{"add strictly, two of three started", nil, &AddMember{Member: member(40, "http://d"), Strict: true}, ErrNotEnoughStarted},
		{"add strictly, three of three started", []any{publish(20)}, &AddMember{Member: member(40, "http://d"), Strict: true}, nil},
		{"add strictly, what is there", nil, &AddMember{Member: member(10, "http://a"), Strict: true}, ErrNotEnoughStarted},
		{"add the id of one removed", gone, &AddMember{Member: member(40, "http://a")}, ErrMemberRemoved},
		{"add an id twice", nil, &AddMember{Member: member(10, "http://a")}, ErrMemberExists},
		{"add a URL twice", nil, &AddMember{Member: member(40, "http://x", "http://cc")}, ErrPeerURLExists},
		{"add the URL of one removed", gone, &AddMember{Member: member(41, "http://d")}, nil},
		{"add a learner", nil, withLearner, nil},
		{"add a second learner", []any{withLearner}, &AddMember{Member: learner(51, "http://m"), MaxLearners: 1}, ErrTooManyLearners},
		{"add one of two learners", []any{withLearner}, &AddMember{Member: learner(51, "http://m"), MaxLearners: 2}, nil},
		{"add a voter beside the learner", []any{withLearner}, &AddMember{Member: member(51, "http://m"), MaxLearners: 1}, nil},
		{"add a learner's URL as a learner", []any{withLearner}, &AddMember{Member: learner(51, "http://l"), MaxLearners: 1}, ErrPeerURLExists},
		{"add no learner", nil, &AddMember{Member: learner(50, "http://l")}, ErrTooManyLearners},

		{"remove", nil, &RemoveMember{ID: 20, Strict: true}, nil},
		{"remove strictly, one of two left started", nil, &RemoveMember{ID: 10, Strict: true}, ErrNotEnoughStarted},
		{"remove, one of two left started", nil, &RemoveMember{ID: 10}, nil},
		{"remove nobody", nil, &RemoveMember{ID: 1, Strict: true}, ErrMemberNotFound},
		{"remove twice", gone, &RemoveMember{ID: 40, Strict: true}, ErrMemberRemoved},
		{"remove a learner", []any{withLearner}, &RemoveMember{ID: 50, Strict: true}, nil},
		{"remove the last that votes", []any{withLearner, &RemoveMember{ID: 10}, &RemoveMember{ID: 20}}, &RemoveMember{ID: 30}, ErrNotEnoughStarted},

		{"promote", []any{withLearner}, &PromoteMember{ID: 50, Strict: true}, nil},
		{"promote strictly, one of three started", []any{withLearner, &PublishMember{ID: 10}}, &PromoteMember{ID: 50, Strict: true}, ErrNotEnoughStarted},
		{"promote, one of three started", []any{withLearner, &PublishMember{ID: 10}}, &PromoteMember{ID: 50}, nil},
		{"promote nobody", nil, &PromoteMember{ID: 1, Strict: true}, ErrMemberNotFound},
		{"promote one removed", gone, &PromoteMember{ID: 40}, ErrMemberRemoved},
		{"promote one that votes", nil, &PromoteMember{ID: 10, Strict: true}, ErrMemberNotLearner},

		{"update", nil, &UpdateMember{ID: 10, PeerURLs: []string{"http://z"}}, nil},
		{"update to the same", nil, &UpdateMember{ID: 30, PeerURLs: []string{"http://cc"}}, nil},
		{"update to another's", nil, &UpdateMember{ID: 10, PeerURLs: []string{"http://cc"}}, ErrPeerURLExists},
		{"update nobody", nil, &UpdateMember{ID: 1, PeerURLs: []string{"http://cc"}}, ErrMemberNotFound},
		{"update one removed", gone, &UpdateMember{ID: 40, PeerURLs: []string{"http://cc"}}, ErrMemberRemoved},

		{"publish", nil, publish(20), nil},
		{"publish nobody", nil, publish(1), ErrMemberNotFound},
		{"publish one removed", gone, publish(40), ErrMemberRemoved},

		{"record one", nil, &Member{ClusterID: 9, Member: member(30)}, nil},
		{"record nobody", nil, &Member{ClusterID: 9, Member: member(1)}, ErrMemberNotFound},
		{"record one removed", gone, &Member{ClusterID: 9, Member: member(40)}, ErrMemberRemoved},
	} {
		t.Run(c.name, func(t *testing.T) {
			ix, results := sequence(t, three(t), c.before...)
			for _, r := range results {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			before := dump(ix)
			b, results := Evaluate(ix, Env{}, []any{c.request})
			if !errors.Is(results[0].Err, c.want) || (c.want == nil) != (len(b.Entries()) == 1) {
				t.Errorf("%v, %d entries; want %v", results[0].Err, len(b.Entries()), c.want)
			}
			if dump(ix) != before {
				t.Error("the index that it was decided on has changed")
			}
		})
	}
}

// TestMembersChange: what each request makes of a member, and that nothing is written for nothing.
func TestMembersChange(t *testing.T) {
	ix, results := sequence(t, three(t),
		&AddMember{Member: &pb.Member{ID: 25, PeerURLs: []string{"http://d"}, IsLearner: true}, MaxLearners: 1},
		&PublishMember{ID: 25, Name: "d", ClientURLs: []string{"http://dc"}},
		&UpdateMember{ID: 25, PeerURLs: []string{"http://dd"}},
		&PromoteMember{ID: 25, Strict: true},
	)
	want := &pb.Member{ID: 25, Name: "d", PeerURLs: []string{"http://dd"}, ClientURLs: []string{"http://dc"}}
	if got := ix.MemberByID(25); got.ClusterID != 9 || got.Founder() || !proto.Equal(got.Member, want) {
		t.Errorf("%v", got)
	}
	if got := results[1].Response.([]*Member)[2]; !got.IsLearner || got.Name != "d" || got.PeerURLs[0] != "http://d" {
		t.Errorf("an earlier answer is now %v", got)
	}
	b, results := Evaluate(ix, Env{}, []any{&PublishMember{ID: 25, Name: "d", ClientURLs: []string{"http://dc"}}})
	if results[0].Err != nil || len(b.Entries()) != 0 || len(results[0].Response.([]*Member)) != 4 {
		t.Errorf("published again: %v, %d entries", results[0], len(b.Entries()))
	}
	// The founder may go; then the log speaks of the others.
	ix, _ = sequence(t, ix, &RemoveMember{ID: 20, Strict: true})
	if !slices.Equal(ids(ix.Members()), []uint64{10, 25, 30}) || !ix.Removed(20) || ix.MemberByID(20) != nil || ix.Member().ID != 10 || ix.Cluster() != 9 {
		t.Error(dump(ix))
	}
}

// membersModel keeps what there is to know of members in maps.
type membersModel struct {
	members map[uint64]*pb.Member
	removed map[uint64]*pb.Member // id and peer URLs
}

func (m membersModel) request(request any) {
	change := func(id uint64, change func(*pb.Member)) {
		next := proto.CloneOf(m.members[id])
		change(next)
		m.members[id] = next
	}
	switch r := request.(type) {
	case *Bootstrap:
		for _, member := range r.Members {
			if len(m.members) < len(r.Members) {
				m.members[member.ID] = member
			}
		}
	case *AddMember:
		m.members[r.ID] = r.Member
	case *RemoveMember:
		m.removed[r.ID] = &pb.Member{ID: r.ID, PeerURLs: m.members[r.ID].PeerURLs}
		delete(m.members, r.ID)
	case *PromoteMember:
		change(r.ID, func(m *pb.Member) { m.IsLearner = false })
	case *UpdateMember:
		change(r.ID, func(m *pb.Member) { m.PeerURLs = r.PeerURLs })
	case *PublishMember:
		change(r.ID, func(m *pb.Member) { m.Name, m.ClientURLs = r.Name, r.ClientURLs })
	}
}

func randomMember(r *rand.Rand) any {
	id, urls, strict := 1+r.Uint64N(30), []string{fmt.Sprint("http://", r.IntN(30))}, r.IntN(2) == 0
	switch r.IntN(7) {
	case 0:
		return &Bootstrap{ClusterID: 9, Members: []*pb.Member{{ID: id, PeerURLs: urls}, {ID: id + 1, PeerURLs: []string{"http://other"}, Name: "started"}}}
	case 1, 2:
		return &AddMember{Member: &pb.Member{ID: id, PeerURLs: urls, IsLearner: r.IntN(2) == 0}, MaxLearners: r.IntN(4), Strict: strict}
	case 3:
		return &RemoveMember{ID: id, Strict: strict}
	case 4:
		return &PromoteMember{ID: id, Strict: strict}
	case 5:
		return &UpdateMember{ID: id, PeerURLs: urls}
	}
	return &PublishMember{ID: id, Name: fmt.Sprint("m", id), ClientURLs: urls}
}

// TestMembersModel: after whatever requests the members are those of the model, some vote, and a log that is loaded says the same, scrubbed or not.
func TestMembersModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 12))
		m, log, ix := membersModel{map[uint64]*pb.Member{}, map[uint64]*pb.Member{}}, newTestLog(), NewIndex()
		for range 150 {
			request := randomMember(r)
			b, results := Evaluate(ix, Env{}, []any{request})
			if len(m.members) == 0 && results[0].Err == nil {
				if _, ok := request.(*Bootstrap); !ok {
					t.Fatalf("%T made a cluster", request)
				}
			}
			if results[0].Err == nil {
				m.request(request)
			}
			ix = b.Index(log.append(b.Entries()))
			m.compare(t, ix)
			if r.IntN(8) == 0 {
				ix = scrubSome(t, r, log, ix)
				m.compare(t, ix)
			}
		}
		if len(m.members) == 0 || len(m.removed) == 0 {
			t.Errorf("seed %d: nothing happened", seed)
		}
	}
}

// scrubSome frees some of what is free and holds what is loaded against the index. Loaded, it has the rest to free again.
func scrubSome(t *testing.T, r *rand.Rand, log *testLog, ix *Index) *Index {
	t.Helper()
	b := ix.Edit(false)
	free := Positions(b.TakeGarbage())
	ix = b.Index(ix.End)
	for _, pos := range free {
		if pos != ix.End.Position && r.IntN(2) == 0 {
			delete(log.entries, pos)
		}
	}
	loaded := log.load(t)
	if dump(loaded) != dump(ix) {
		t.Fatalf("loaded\n%s\ninstead of\n%s", dump(loaded), dump(ix))
	}
	return loaded
}

func (m membersModel) compare(t *testing.T, ix *Index) {
	t.Helper()
	if want := slices.Sorted(maps.Keys(m.members)); !slices.Equal(ids(ix.Members()), want) {
		t.Fatalf("members %d, want %d", ids(ix.Members()), want)
	}
	if want := slices.Sorted(maps.Keys(m.removed)); !slices.Equal(ids(ix.RemovedMembers()), want) {
		t.Fatalf("removed %d, want %d", ids(ix.RemovedMembers()), want)
	}
	for _, got := range ix.RemovedMembers() {
		if !got.Removed || !proto.Equal(got.Member, m.removed[got.ID]) {
			t.Fatalf("removed %v, want %v", got, m.removed[got.ID])
		}
	}
	founders := 0
	for id, member := range m.members {
		got := ix.MemberByID(id)
		if !proto.Equal(got.Member, member) || ix.Removed(id) || got.ClusterID != ix.Cluster() {
			t.Fatalf("member %v, want %v", got, member)
		}
		if got.Founder() {
			founders++
		}
	}
	if all, _ := voters(Messages(ix.Members())); all == 0 && len(m.members) > 0 || founders > 1 || (ix.Member() == nil) != (len(m.members) == 0) {
		t.Fatalf("%d vote, %d founders, %v", all, founders, ix.Member())
	}
}
