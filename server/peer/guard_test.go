package peer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// awaitCall calls until the member answers.
func awaitCall(t *testing.T, c peerpb.PeerClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := c.Renew(ctx, &peerpb.RenewRequest{Lease: 3}, grpc.WaitForReady(true))
	if err != nil || resp.GetTtl() != 30 || resp.GetPosition() != self {
		t.Fatalf("%v, %v", resp, err)
	}
}

func client(t *testing.T, n *Network) peerpb.PeerClient {
	t.Helper()
	conn, err := n.Conn(other)
	if err != nil {
		t.Fatal(err)
	}
	return peerpb.NewPeerClient(conn)
}

func TestCalls(t *testing.T) {
	m := start(t, memberOptions{})
	n, _ := network(t, nil, m.url)
	c := client(t, n)
	awaitCall(t, c)
	if _, err := c.Renew(t.Context(), &peerpb.RenewRequest{}); status.Code(err) != codes.NotFound {
		t.Errorf("Renew: %v", err)
	}
	hashes, err := c.Hashes(t.Context(), &peerpb.HashesRequest{})
	if err != nil || len(hashes.GetHashes()) != 1 || hashes.GetHashes()[0].GetHash() != 1<<63 {
		t.Errorf("Hashes: %v, %v", hashes, err)
	}
	stream, err := c.Copy(t.Context(), &peerpb.CopyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var chunks []*peerpb.CopyChunk
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, chunk)
	}
	if len(chunks) != 3 || chunks[0].GetHeader().GetEndPosition() != 5 || len(chunks[1].GetRows().GetRows()[0].GetValue()) != 8<<20 || chunks[2].GetEnd() == nil {
		t.Errorf("%d chunks", len(chunks))
	}
}

// TestRefused: who is of another cluster, calls another member, or was removed, is told so.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		guard GuardOptions
		want  error
		text  string
	}{
		{GuardOptions{Cluster: 0xc2}, ErrOtherCluster, "request cluster ID mismatch: got c1, want c2"},
		{GuardOptions{Self: 0xbb}, ErrOtherMember, "request member ID mismatch: got b, want bb"},
		{GuardOptions{Removed: func(id uint64) bool { return id == self }}, ErrRemoved, "permanently removed"},
		{GuardOptions{Origin: 0xd2}, ErrOtherOrigin, "request origin mismatch: got 0, want d2"},
		{GuardOptions{Origin: 0xd2, Removed: func(id uint64) bool { return id == self }}, ErrRemoved, "permanently removed"},
	} {
		m := start(t, memberOptions{GuardOptions: c.guard})
		n, r := network(t, nil, m.url)
		for range 2 {
			_, err := client(t, n).Hashes(t.Context(), &peerpb.HashesRequest{}, grpc.WaitForReady(true))
			if !errors.Is(err, c.want) || status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.text) {
				t.Errorf("unary: %v", err)
			}
			stream, err := client(t, n).Copy(t.Context(), &peerpb.CopyRequest{}, grpc.WaitForReady(true))
			if err == nil {
				_, err = stream.Recv()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("stream: %v", err)
			}
		}
		await(t, r.unreachable, "a report")
		if errors.Is(c.want, ErrRemoved) {
			for range 2 { // and again
				if by := await(t, r.removed, "the removal"); by != other {
					t.Errorf("removed by %x", by)
				}
			}
		}
		n.Send([]*raftpb.Message{heartbeat(1)})
		n.Close()
		if !errors.Is(c.want, ErrRemoved) && len(r.removed) > 0 || len(m.got) > 0 {
			t.Errorf("%v: removed %d times, %d messages", c.want, len(r.removed), len(m.got))
		}
	}
}

// TestRemovedLater: a member with an open stream is told when it next sends something.
func TestRemovedLater(t *testing.T) {
	var removed atomic.Bool
	seen := make(chan uint64, 16)
	m := start(t, memberOptions{GuardOptions: GuardOptions{
		Removed: func(uint64) bool { return removed.Load() }, Seen: func(id uint64) { seen <- id },
	}})
	n, r := network(t, nil, m.url)
	reach(t, n, m, 1)
	if id := await(t, seen, "the member to be seen"); id != self {
		t.Errorf("seen %x", id)
	}
	removed.Store(true)
	n.Send([]*raftpb.Message{heartbeat(2)})
	await(t, r.removed, "the removal")
	for len(m.got) > 0 {
		if got := <-m.got; got.GetTerm() == 2 {
			t.Error("delivered after the removal")
		}
	}
}

// TestOrigin: members of one origin talk to each other, and those of another one, or of none, are refused.
func TestOrigin(t *testing.T) {
	m := start(t, memberOptions{GuardOptions: GuardOptions{Origin: 0xd1}})
	for _, origin := range []uint64{0xd1, 0, 0xd2} {
		n := NewNetwork(NetworkOptions{Cluster: testCluster, Self: self, Origin: origin})
		n.SetPeers(map[uint64][]string{other: {m.url}})
		_, err := client(t, n).Hashes(t.Context(), &peerpb.HashesRequest{}, grpc.WaitForReady(true))
		if same := origin == 0xd1; same && err != nil || !same && !errors.Is(err, ErrOtherOrigin) {
			t.Errorf("origin %x: %v", origin, err)
		}
		n.Close()
	}
}

// TestUnbegun: one that says that it has never had an entry is refused where it is known that it had, and is told so; it is let in elsewhere, and when it says so no more.
func TestUnbegun(t *testing.T) {
	var unbegun, begun atomic.Bool
	m := start(t, memberOptions{GuardOptions: GuardOptions{Begun: func(id uint64) bool { return id == self && begun.Load() }}})
	told := make(chan uint64, 1<<16)
	n := NewNetwork(NetworkOptions{Cluster: testCluster, Self: self, Unbegun: unbegun.Load, Begun: func(by uint64) { told <- by }})
	defer n.Close()
	n.SetPeers(map[uint64][]string{other: {m.url}})
	for _, c := range []struct{ unbegun, begun bool }{{false, false}, {false, true}, {true, false}, {true, true}, {false, true}} {
		unbegun.Store(c.unbegun)
		begun.Store(c.begun)
		_, err := client(t, n).Hashes(t.Context(), &peerpb.HashesRequest{}, grpc.WaitForReady(true))
		if refused := c.unbegun && c.begun; refused && !errors.Is(err, ErrBegun) || !refused && err != nil {
			t.Errorf("%+v: %v", c, err)
		} else if refused && await(t, told, "the report") != other {
			t.Error("another one is said to have told it")
		}
	}
}

// bare is a connection that puts no metadata on calls.
func bare(t *testing.T, m *member) *grpc.ClientConn {
	t.Helper()
	addresses, err := parseURLs([]string{m.url})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialOptions{timeout: patience}.dial(addresses)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestMetadata(t *testing.T) {
	m := start(t, memberOptions{})
	conn := bare(t, m)
	if _, err := pb.NewClusterClient(conn).MemberList(t.Context(), &pb.MemberListRequest{}); err != nil {
		t.Errorf("MemberList: %v", err)
	}
	if _, err := pb.NewClusterClient(conn).MemberAdd(t.Context(), &pb.MemberAddRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("MemberAdd: %v", err)
	}
	for _, c := range []struct {
		code codes.Code
		kv   []string
	}{
		{codes.OK, []string{keyCluster, "c1", keyFrom, "a", keyTo, "b"}},
		{codes.OK, []string{keyCluster, "C1", keyFrom, "0a", keyTo, "b"}},
		{codes.FailedPrecondition, nil},
		{codes.OK, []string{keyCluster, "c1", keyFrom, "a", keyTo, "b", keyOrigin, "0"}},
		{codes.FailedPrecondition, []string{keyCluster, "c1", keyFrom, "a", keyTo, "b", keyOrigin, "1"}},
		{codes.InvalidArgument, []string{keyCluster, "c1", keyFrom, "a", keyTo, "b", keyOrigin, "x"}},
		{codes.InvalidArgument, []string{keyCluster, "c1", keyFrom, "a"}},
		{codes.InvalidArgument, []string{keyFrom, "a"}},
		{codes.InvalidArgument, []string{keyCluster, "c1", keyFrom, "a", keyFrom, "c", keyTo, "b"}},
		{codes.InvalidArgument, []string{keyCluster, "", keyFrom, "a", keyTo, "b"}},
		{codes.InvalidArgument, []string{keyCluster, "c1", keyFrom, "-1", keyTo, "b"}},
		{codes.InvalidArgument, []string{keyCluster, "c1", keyFrom, "10000000000000000", keyTo, "b"}},
		{codes.FailedPrecondition, []string{keyCluster, "c1", keyFrom, "0", keyTo, "b"}},
		{codes.FailedPrecondition, []string{keyCluster, "c1", keyFrom, "b", keyTo, "b"}},
		{codes.FailedPrecondition, []string{keyCluster, "c2", keyFrom, "a", keyTo, "b"}},
		{codes.FailedPrecondition, []string{keyCluster, "c1", keyFrom, "a", keyTo, "c"}},
	} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), c.kv...)
		if _, err := peerpb.NewPeerClient(conn).Hashes(ctx, &peerpb.HashesRequest{}); status.Code(err) != c.code {
			t.Errorf("%q: %v, want %v", c.kv, err, c.code)
		}
		stream, err := peerpb.NewPeerClient(conn).Copy(ctx, &peerpb.CopyRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != c.code {
			t.Errorf("%q: %v, want %v", c.kv, err, c.code)
		}
	}
}

// TestForged: what a client has put into the metadata of a request that is forwarded does not count.
func TestForged(t *testing.T) {
	m := start(t, memberOptions{})
	n, _ := network(t, nil, m.url)
	ctx := metadata.AppendToOutgoingContext(t.Context(), keyFrom, "ff", keyCluster, "1", "token", "kept")
	resp, err := client(t, n).Renew(ctx, &peerpb.RenewRequest{Lease: 1}, grpc.WaitForReady(true))
	if err != nil || resp.GetPosition() != self {
		t.Errorf("%v, %v", resp, err)
	}
}

// TestMessages: a stream carries what Raft sends to this member, and nothing else.
func TestMessages(t *testing.T) {
	m := start(t, memberOptions{})
	conn := bare(t, m)
	ctx := caller{cluster: testCluster, from: self, to: other}.attach(t.Context())
	for _, c := range []struct {
		what   string
		change func(*raftpb.Message)
		ok     bool
	}{
		{"good", func(*raftpb.Message) {}, true},
		{"passed on", func(m *raftpb.Message) { m.Type, m.From = raftpb.MsgTransferLeader.Enum(), new(uint64(0xc)) }, true},
		{"of another", func(m *raftpb.Message) { m.From = new(uint64(0xc)) }, false},
		{"to another", func(m *raftpb.Message) { m.To = new(uint64(0xc)) }, false},
		{"empty", func(m *raftpb.Message) { *m = raftpb.Message{} }, false},
		{"local", func(m *raftpb.Message) { m.Type = raftpb.MsgHup.Enum() }, false},
		{"local", func(m *raftpb.Message) { m.Type = raftpb.MsgUnreachable.Enum() }, false},
		{"of an unknown type", func(m *raftpb.Message) { m.Type = raftpb.MessageType(77).Enum() }, false},
	} {
		stream, err := peerpb.NewPeerClient(conn).Messages(ctx)
		if err != nil {
			t.Fatal(err)
		}
		message := heartbeat(1)
		c.change(message)
		if err := stream.Send(&peerpb.Message{Raft: []*raftpb.Message{message}}); err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if c.ok != (err == nil) || !c.ok && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := len(m.got); (got > 0) != c.ok {
			t.Errorf("%s: %d delivered", c.what, got)
		}
		for len(m.got) > 0 {
			<-m.got
		}
	}
}

// TestStop: open streams do not keep a member from stopping.
func TestStop(t *testing.T) {
	m := start(t, memberOptions{endless: true})
	n, _ := network(t, nil, m.url)
	reach(t, n, m, 1)
	stream, err := client(t, n).Copy(t.Context(), &peerpb.CopyRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for err == nil {
			_, err = stream.Recv()
		}
	}()
	m.stop()
}
