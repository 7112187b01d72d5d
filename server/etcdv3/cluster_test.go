package etcdv3

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// fakeMembers is a cluster of which only the log is real. This server is member 1, which leads unless another does.
type fakeMembers struct {
	ix       *mvcc.Index
	active   map[uint64]time.Duration // for how long
	progress map[uint64]Progress
	leader   uint64
	move     func(ctx context.Context) error
	changes  int
}

func (f *fakeMembers) Members() []*pb.Member { return mvcc.Messages(f.ix.Members()) }

func (f *fakeMembers) ActiveSince(id uint64) time.Time {
	if d, ok := f.active[id]; ok {
		return time.Now().Add(-d)
	}
	return time.Time{}
}

func (f *fakeMembers) Progress(id uint64) (Progress, error) {
	if f.leader != 1 {
		return Progress{}, drivers.ErrNotLeader
	}
	if p, ok := f.progress[id]; ok {
		return p, nil
	}
	if f.ix.MemberByID(id) == nil {
		return Progress{}, mvcc.ErrMemberNotFound
	}
	return Progress{100, 100}, nil
}

func (f *fakeMembers) Change(_ context.Context, request any) ([]*pb.Member, error) {
	f.changes++
	b, results := mvcc.Evaluate(f.ix, mvcc.Env{}, []any{request})
	if results[0].Err != nil {
		return nil, results[0].Err
	}
	f.ix = b.Index(drivers.End{Position: f.ix.End.Position + int64(len(b.Entries()))})
	return mvcc.Messages(results[0].Response.([]*mvcc.Member)), nil
}

func (f *fakeMembers) MoveLeader(ctx context.Context, _ uint64) error { return f.move(ctx) }

// newFake is a cluster of members 1 to n that vote, have started and are connected, and of the learner 9.
func newFake(t *testing.T, n uint64) *fakeMembers {
	f := &fakeMembers{ix: mvcc.NewIndex(), active: map[uint64]time.Duration{}, progress: map[uint64]Progress{}, leader: 1}
	var founders []*pb.Member
	for id := range n {
		founders = append(founders, &pb.Member{ID: id + 1, Name: "m", PeerURLs: []string{string(rune('a' + id))}})
		f.active[id+1] = time.Hour
	}
	for _, r := range []any{
		&mvcc.Bootstrap{ClusterID: 5, Members: founders},
		&mvcc.AddMember{Member: &pb.Member{ID: 9, PeerURLs: []string{"http://l:1"}, IsLearner: true}, MaxLearners: 1},
	} {
		if _, err := f.Change(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	f.changes = 0
	return f
}

func (f *fakeMembers) server(strict bool) *clusterServer {
	return &clusterServer{Server: &Server{opts: Options{
		Members: f, StrictReconfigCheck: strict, MaxLearners: 1, MaxRequestBytes: 1 << 20,
		Cluster: Cluster{ID: 5, Member: 1, Term: func() uint64 { return 3 }, Leader: func() uint64 { return f.leader }},
	}}}
}

func (f *fakeMembers) set(t *testing.T, r any) {
	if _, err := f.Change(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

const (
	notStartedText = "etcdserver: re-configuration failed due to not enough started members"
	unhealthyText  = "etcdserver: unhealthy cluster"
	notFoundText   = "etcdserver: member not found"
)

// TestMembersOrder: each line of the table of checks, and of two that would refuse the one that comes first.
func TestMembersOrder(t *testing.T) {
	add := func(urls ...string) func(*clusterServer) error {
		return func(s *clusterServer) error {
			_, err := s.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: urls})
			return err
		}
	}
	learner := func(url string) func(*clusterServer) error {
		return func(s *clusterServer) error {
			_, err := s.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{url}, IsLearner: true})
			return err
		}
	}
	remove := func(id uint64) func(*clusterServer) error {
		return func(s *clusterServer) error {
			_, err := s.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id})
			return err
		}
	}
	promote := func(id uint64) func(*clusterServer) error {
		return func(s *clusterServer) error {
			_, err := s.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: id})
			return err
		}
	}
	update := func(id uint64, urls ...string) func(*clusterServer) error {
		return func(s *clusterServer) error {
			_, err := s.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
			return err
		}
	}
	unstarted := func(ids ...uint64) func(*fakeMembers) {
		return func(f *fakeMembers) {
			for _, id := range ids {
				f.set(t, &mvcc.PublishMember{ID: id})
			}
		}
	}
	down := func(ids ...uint64) func(*fakeMembers) {
		return func(f *fakeMembers) {
			for _, id := range ids {
				delete(f.active, id)
			}
		}
	}
	fresh := func(ids ...uint64) func(*fakeMembers) {
		return func(f *fakeMembers) {
			for _, id := range ids {
				f.active[id] = 4 * time.Second
			}
		}
	}
	lags := func(f *fakeMembers) { f.progress[9] = Progress{89, 100} }
	caughtUp := func(f *fakeMembers) { f.progress[9] = Progress{90, 100} }
	removed := func(f *fakeMembers) { f.set(t, &mvcc.RemoveMember{ID: 9}) }
	both := func(a, b func(*fakeMembers)) func(*fakeMembers) { return func(f *fakeMembers) { a(f); b(f) } }
	nothing := func(*fakeMembers) {}

	for _, c := range []struct {
		name   string
		voters uint64
		before func(*fakeMembers)
		call   func(*clusterServer) error
		strict bool
		code   codes.Code
		text   string
	}{
		{"add", 3, nothing, add("http://d:1"), true, codes.OK, ""},
		{"add no URL", 3, unstarted(1, 2), add(), true, codes.InvalidArgument, "etcdserver: given member URLs are invalid"},
		{"add no URLs", 3, unstarted(1, 2), add("http://d:1", "http://d"), true, codes.InvalidArgument, "etcdserver: given member URLs are invalid"},
		{"add, too few started, disconnected", 3, both(unstarted(2), down(2, 3)), add("http://d:1"), true, codes.Unknown, notStartedText},
		{"add, too few started, not strict", 3, both(unstarted(2), down(2, 3)), add("http://d:1"), false, codes.OK, ""},
		{"add a learner, too few started", 3, both(removed, unstarted(2)), learner("http://d:1"), true, codes.OK, ""},
		{"add, one of three down", 3, down(3), add("http://d:1"), true, codes.Unavailable, unhealthyText},
		{"add a learner, one of three down", 3, both(removed, down(3)), learner("http://d:1"), true, codes.Unavailable, unhealthyText},
		{"add, one of three fresh", 3, fresh(3), add("http://d:1"), true, codes.Unavailable, unhealthyText},
		{"add, one of four down", 4, down(4), add("http://d:1"), true, codes.OK, ""},
		{"add to one alone", 1, nothing, add("http://d:1"), true, codes.OK, ""},
		{"add to two, one down", 2, down(2), add("http://d:1"), true, codes.Unavailable, unhealthyText},
		{"add a URL twice, one of three down", 3, down(3), add("http://l:1"), true, codes.Unavailable, unhealthyText},
		{"add a URL twice", 3, nothing, add("http://d:1", " http://l:1"), true, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},
		{"add a second learner", 3, nothing, learner("http://d:1"), true, codes.FailedPrecondition, "etcdserver: too many learner members in cluster"},
		{"add a second learner of the first's URL", 3, nothing, learner("http://l:1"), true, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},

		{"remove", 3, nothing, remove(3), true, codes.OK, ""},
		{"remove this one", 3, nothing, remove(1), true, codes.OK, ""},
		{"remove the last", 1, nothing, remove(1), true, codes.Unknown, notStartedText},
		{"remove the last, not strict", 1, nothing, remove(1), false, codes.Unknown, notStartedText},
		{"remove a learner, everybody down", 3, both(unstarted(1, 2), down(2, 3)), remove(9), true, codes.OK, ""},
		{"remove, too few started, disconnected", 3, both(unstarted(2), down(2, 3)), remove(3), true, codes.Unknown, notStartedText},
		{"remove nobody, too few started", 3, unstarted(2, 3), remove(8), true, codes.Unknown, notStartedText},
		{"remove one that is down", 3, down(3), remove(3), true, codes.OK, ""},
		{"remove another than is down", 3, down(3), remove(2), true, codes.Unavailable, unhealthyText},
		{"remove this one, another is down", 3, down(3), remove(1), true, codes.Unavailable, unhealthyText},
		{"remove another than is down, not strict", 3, down(3), remove(2), false, codes.OK, ""},
		{"remove one of five, another is down", 5, down(3), remove(2), true, codes.OK, ""},
		{"remove one of two", 2, nothing, remove(2), true, codes.OK, ""},
		{"remove this one, the only other is down", 2, down(2), remove(1), true, codes.Unavailable, unhealthyText},
		{"remove nobody", 3, nothing, remove(8), true, codes.NotFound, notFoundText},
		{"remove twice", 3, removed, remove(9), true, codes.NotFound, notFoundText},

		{"promote", 3, caughtUp, promote(9), true, codes.OK, ""},
		{"promote nobody, too few started", 3, unstarted(1, 2, 3), promote(8), true, codes.NotFound, notFoundText},
		{"promote one removed", 3, removed, promote(9), true, codes.NotFound, notFoundText},
		{"promote one that lags, too few started", 3, both(lags, unstarted(1, 2, 3)), promote(9), true, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader"},
		{"promote one that lags, not strict", 3, lags, promote(9), false, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader"},
		{"promote, too few started", 3, unstarted(2, 3), promote(9), true, codes.Unknown, notStartedText},
		{"promote, too few started, not strict", 3, unstarted(2, 3), promote(9), false, codes.OK, ""},
		{"promote one that votes", 3, nothing, promote(2), true, codes.FailedPrecondition, "etcdserver: can only promote a learner member"},
		{"promote, everybody down", 3, down(2, 3), promote(9), true, codes.OK, ""},

		{"update", 3, both(unstarted(1, 2, 3), down(2, 3)), update(2, "http://z:1"), true, codes.OK, ""},
		{"update to its own", 3, nothing, update(9, "http://l:1"), true, codes.OK, ""},
		{"update to another's", 3, nothing, update(2, "http://l:1"), true, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},
		{"update nobody", 3, nothing, update(8, "http://l:1"), true, codes.NotFound, notFoundText},
		{"update nobody to none", 3, nothing, update(8), true, codes.NotFound, notFoundText},
		{"update one removed", 3, removed, update(9, "http://l:1"), true, codes.NotFound, notFoundText},
		{"update to none", 3, nothing, update(2), true, codes.InvalidArgument, "etcdserver: given member URLs are invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, c.voters)
			c.before(f)
			before := f.ix
			got := status.Convert(c.call(f.server(c.strict)))
			if got.Code() != c.code || got.Message() != c.text {
				t.Errorf("%v %q, want %v %q", got.Code(), got.Message(), c.code, c.text)
			}
			if (f.ix == before) != (c.code != codes.OK) {
				t.Error("what was refused was done, or what was done was not")
			}
		})
	}
}

// TestMemberAddAnswer: who was added, in the list and beside it, with an id by etcd's formula.
func TestMemberAddAnswer(t *testing.T) {
	f := newFake(t, 3)
	before := time.Now()
	resp, err := f.server(true).MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://z:1", " http://b:1 "}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"http://b:1", "http://z:1"}
	id := resp.Member.ID
	if id != uint64(membership.AddedMemberID(want, before)) && id != uint64(membership.AddedMemberID(want, time.Now())) {
		t.Errorf("id %x", id)
	}
	listed := slices.ContainsFunc(resp.Members, func(m *pb.Member) bool { return m.ID == id })
	if !slices.Equal(resp.Member.PeerURLs, want) || len(resp.Members) != 5 || !listed {
		t.Errorf("%v", resp)
	}
	if h := resp.Header; h.ClusterId != 5 || h.MemberId != 1 || h.RaftTerm != 3 || h.Revision != 0 {
		t.Errorf("header %v", h)
	}
}

func TestMoveLeader(t *testing.T) {
	f := newFake(t, 3)
	s := &maintenanceServer{Server: f.server(true).Server}
	moved := func(ctx context.Context, id uint64) error {
		_, err := s.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: id})
		return err
	}
	f.move = func(context.Context) error { return errors.New("moved") }
	for id, want := range map[uint64]error{1: nil, 8: rpctypes.ErrGRPCBadLeaderTransferee, 9: rpctypes.ErrGRPCBadLeaderTransferee} {
		if err := moved(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("to %d: %v, want %v", id, err, want)
		}
	}
	if err := moved(t.Context(), 2); status.Convert(err).Message() != "moved" {
		t.Errorf("to a member that votes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.move = func(ctx context.Context) error { cancel(); return ctx.Err() }
	if err := moved(ctx, 2); status.Code(err) != codes.Unknown || status.Convert(err).Message() != "etcdserver: request timed out, leader transfer took too long" {
		t.Errorf("too slow: %v", err)
	}
	f.leader = 2
	if err := moved(t.Context(), 2); !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
		t.Errorf("by another: %v", err)
	}
}

func TestPeerURLs(t *testing.T) {
	for _, c := range []struct {
		url string
		ok  bool
	}{
		{"http://a:1", true}, {"https://[::1]:1", true}, {"http://:1", true}, {"http://a:", true}, {"  http://a:1\n", true}, {"unix://a", true}, {"unixs:///a/b", true},
		{"", false}, {"http://a", false}, {"http://a:1/", false}, {"http://a:1/p", false}, {"a:1", false}, {"ftp://a:1", false}, {"http://a:b", false}, {"://", false},
	} {
		if _, ok := peerURLs([]string{c.url}); ok != c.ok {
			t.Errorf("%q: %v", c.url, ok)
		}
	}
}

// stream is a stream with a context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// TestLearnerAnswersLittle: serializable reads, its status, and snapshots.
func TestLearnerAnswersLittle(t *testing.T) {
	learner := true
	s := newFake(t, 3).server(true).Server
	s.opts.Observe, s.opts.Learner, s.opts.SlowRequest, s.opts.Logger = nobody{}, func() bool { return learner }, time.Hour, slog.New(slog.DiscardHandler)
	done := errors.New("done")
	for range 2 {
		for _, c := range []struct {
			req any
			ok  bool
		}{
			{&pb.RangeRequest{Serializable: true}, true}, {&pb.StatusRequest{}, true}, {&pb.RangeRequest{}, false}, {&pb.PutRequest{}, false}, {&pb.TxnRequest{}, false},
			{&pb.MemberListRequest{}, false}, {&pb.AlarmRequest{}, false}, {&pb.HashKVRequest{}, false}, {&pb.MoveLeaderRequest{}, false},
		} {
			want := rpctypes.ErrGRPCNotSupportedForLearner
			if c.ok || !learner {
				want = done
			}
			_, err := s.unary(t.Context(), c.req, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { return nil, done })
			if !errors.Is(err, want) {
				t.Errorf("%T: %v", c.req, err)
			}
		}
		for method, ok := range map[string]bool{pb.Maintenance_Snapshot_FullMethodName: true, pb.Watch_Watch_FullMethodName: false, pb.Lease_LeaseKeepAlive_FullMethodName: false} {
			want := rpctypes.ErrGRPCNotSupportedForLearner
			if ok || !learner {
				want = done
			}
			err := s.stream(nil, stream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method}, func(any, grpc.ServerStream) error { return done })
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", method, err)
			}
		}
		learner = false
	}
}

// TestRequireLeader: a client that wants a leader is refused without one, and its streams end when there has been none for long.
func TestRequireLeader(t *testing.T) {
	f := newFake(t, 3)
	s := f.server(true).Server
	lost := make(chan struct{})
	s.opts.Observe, s.opts.LeaderLost, s.opts.SlowRequest, s.opts.Logger = nobody{}, func() <-chan struct{} { return lost }, time.Hour, slog.New(slog.DiscardHandler)
	wants := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
	call := func(ctx context.Context) error {
		_, err := s.unary(ctx, &pb.PutRequest{}, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { return nil, nil })
		return err
	}
	open := func(ctx context.Context, serve func(context.Context) error) error {
		return s.stream(nil, stream{ctx: ctx}, &grpc.StreamServerInfo{}, func(_ any, ss grpc.ServerStream) error { return serve(ss.Context()) })
	}
	ended := func(context.Context) error { return nil }
	if err := errors.Join(call(wants), open(wants, ended)); err != nil {
		t.Error(err)
	}
	err := open(wants, func(ctx context.Context) error {
		close(lost)
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("a stream that was open: %v", err)
	}
	f.leader = 0
	if err := errors.Join(call(t.Context()), open(t.Context(), ended)); err != nil {
		t.Errorf("who does not mind: %v", err)
	}
	for _, err := range []error{call(wants), open(wants, ended)} {
		if !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
			t.Errorf("who does: %v", err)
		}
	}
}
