package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/peer/peerpb"
)

const (
	testCluster = 0xc1
	self        = 0xa
	other       = 0xb
	patience    = 20 * time.Second // after which a test has failed
)

// service is a member's service that keeps what it is given.
type service struct {
	got chan *raftpb.Message
	// hold, if not nil, is asked for each message, and may wait.
	hold func(m *raftpb.Message)
	// answering, if not nil, is called for each forwarded call, and may wait.
	answering func(*peerpb.Call)
	// endless has a copy not end.
	endless bool
	// located is where members say that they are.
	located chan place
}

type place struct {
	from     uint64
	urls     string
	position int64
}

func (s *service) Located(ctx context.Context, urls []string, position int64) {
	s.located <- place{From(ctx), strings.Join(urls, " "), position}
}

func (s *service) Deliver(ctx context.Context, m *raftpb.Message) error {
	if s.hold != nil {
		s.hold(m)
	}
	select {
	case s.got <- m:
	case <-ctx.Done():
	}
	return nil
}

func (s *service) Copy(ctx context.Context, send func(*peerpb.CopyChunk) error) error {
	if s.endless {
		for ctx.Err() == nil {
			if err := send(&peerpb.CopyChunk{Chunk: &peerpb.CopyChunk_Rows{Rows: &peerpb.CopyRows{}}}); err != nil {
				return err
			}
		}
		return ctx.Err()
	}
	for _, chunk := range []*peerpb.CopyChunk{
		{Chunk: &peerpb.CopyChunk_Header{Header: &peerpb.CopyHeader{EndPosition: 5, Rows: 1}}},
		{Chunk: &peerpb.CopyChunk_Rows{Rows: &peerpb.CopyRows{Rows: []*peerpb.Row{{Position: 1, Value: make([]byte, 8<<20)}}}}},
		{Chunk: &peerpb.CopyChunk_End{End: &peerpb.CopyEnd{}}},
	} {
		if err := send(chunk); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) Renew(ctx context.Context, lease int64) (ttl, position int64, err error) {
	if lease == 0 {
		return 0, 0, status.Error(codes.NotFound, "no lease")
	}
	return 10 * lease, int64(From(ctx)), nil
}

func (s *service) Answer(_ context.Context, c *peerpb.Call) (*peerpb.Answer, error) {
	if s.answering != nil {
		s.answering(c)
	}
	return &peerpb.Answer{Response: append([]byte(c.GetMethod()+":"), c.GetRequest()...)}, nil
}

func (s *service) Publish(context.Context, string, []string) error { return nil }

func (s *service) Hashes(context.Context, []int64) ([]*peerpb.PositionHash, error) {
	return []*peerpb.PositionHash{{Position: 7, Hash: 1 << 63}}, nil
}

// cluster is etcd's service of a member.
type cluster struct{ pb.UnimplementedClusterServer }

func (cluster) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	return &pb.MemberListResponse{Header: &pb.ResponseHeader{ClusterId: testCluster}, Members: []*pb.Member{{ID: other, Name: "b"}}}, nil
}

// member is another member, on a real socket.
type member struct {
	*service
	url  string
	stop func()
}

type memberOptions struct {
	GuardOptions
	url  string // to listen on; a port of the system's choice on 127.0.0.1 if empty
	tls  *listen.TLS
	hold func(*raftpb.Message)
	// answering is called for each forwarded call.
	answering func(*peerpb.Call)
	// endless has a copy not end.
	endless bool
	// busy has no message be taken in.
	busy bool
}

func (o *memberOptions) setDefaults() {
	if o.url == "" {
		o.url = "http://127.0.0.1:0"
	}
	if o.Cluster == 0 {
		o.Cluster = testCluster
	}
	if o.Self == 0 {
		o.Self = other
	}
}

func start(t testing.TB, o memberOptions) *member {
	t.Helper()
	o.setDefaults()
	u, err := url.Parse(o.url)
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := listen.Open([]url.URL{*u}, listen.Options{TLS: o.tls})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{service: &service{got: make(chan *raftpb.Message, 1<<16), hold: o.hold, answering: o.answering, endless: o.endless, located: make(chan place, 64)}, url: o.url}
	if u.Scheme == "http" || u.Scheme == "https" {
		m.url = fmt.Sprintf("%s://%s", u.Scheme, listeners[0].Addr())
	}
	guard := NewGuard(o.GuardOptions)
	g := grpc.NewServer(append(ServerOptions(), grpc.Creds(Credentials(listen.Credentials())),
		grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))...)
	stopping := make(chan struct{})
	var svc Service = m.service
	if o.busy {
		svc = busy{m.service}
	}
	Register(g, svc, stopping)
	pb.RegisterClusterServer(g, cluster{})
	s := listen.NewServer(listen.ServerOptions{Listeners: listeners, GRPC: g, Name: "peer"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	m.stop = sync.OnceFunc(func() {
		close(stopping)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(m.stop)
	return m
}

// told is what a Network has reported.
type told struct {
	unreachable, snapshots chan uint64
	removed                chan uint64
}

// network is this member's Network, with the reports that it makes.
func network(t testing.TB, config func() *tls.Config, urls ...string) (*Network, *told) {
	t.Helper()
	r := &told{unreachable: make(chan uint64, 1<<16), snapshots: make(chan uint64, 1<<16), removed: make(chan uint64, 1<<16)}
	n := NewNetwork(NetworkOptions{
		Cluster: testCluster, Self: self, TLS: config,
		Unreachable:  func(id uint64) { r.unreachable <- id },
		SnapshotLost: func(id uint64) { r.snapshots <- id },
		Removed:      func(by uint64) { r.removed <- by },
	})
	t.Cleanup(n.Close)
	if len(urls) > 0 {
		n.SetPeers(map[uint64][]string{other: urls})
	}
	return n, r
}

// await gets from a channel, or fails the test.
func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func heartbeat(term uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(self)), To: new(uint64(other)), Term: &term}
}

func appendOf(index uint64, bytes int) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(self)), To: new(uint64(other)), Index: &index}
	if bytes > 0 {
		m.Entries = []*raftpb.Entry{{Index: &index, Data: make([]byte, bytes)}}
	}
	return m
}

// reach sends heartbeats of a term until one arrives.
func reach(t testing.TB, n *Network, m *member, term uint64) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		n.Send([]*raftpb.Message{heartbeat(term)})
		select {
		case got := <-m.got:
			if got.GetTerm() == term {
				return
			}
		case <-tick.C:
		case <-deadline:
			t.Fatal("the member cannot be reached")
		}
	}
}

// silent is an address where connections are taken and nothing is ever read or said.
func silent(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "http://" + l.Addr().String()
}
