package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// inTime is the deadline of calls that have to end by themselves. A request of etcd's takes seven seconds at most, and a
// linearizable read up to fourteen: those that come while others are being confirmed wait for them first.
const inTime = 20 * time.Second

// call is one request to one node.
type call struct {
	name string
	node *node
	do   func(ctx context.Context) (proto.Message, error)
	// deadline is the client's, where the call ends by that.
	deadline time.Duration
}

// record makes a call, writes the answer down and gives the response.
func (c *cluster) record(call call) proto.Message {
	c.t.Helper()
	resp, line := c.answer(call)
	c.lines = append(c.lines, line)
	return resp
}

// together makes calls at once and writes their answers down in the order given.
func (c *cluster) together(calls ...call) {
	lines := make([]string, len(calls))
	var g sync.WaitGroup
	for i, call := range calls {
		g.Go(func() { _, lines[i] = c.answer(call) })
	}
	g.Wait()
	c.lines = append(c.lines, lines...)
}

func (c *cluster) answer(call call) (proto.Message, string) {
	if call.deadline == 0 {
		call.deadline = inTime
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), call.deadline)
	defer cancel()
	resp, err := call.do(ctx)
	if err != nil {
		s, by := status.Convert(err), ""
		if ctx.Err() != nil {
			by = ", when the client gave up"
		}
		return nil, fmt.Sprintf("%s: %v %q%s", call.name, s.Code(), s.Message(), by)
	}
	return resp, fmt.Sprintf("%s: OK%s", call.name, fields(call.node, resp))
}

// fields writes down what is the same in every run.
func fields(n *node, resp proto.Message) string {
	var b strings.Builder
	switch r := resp.(type) {
	case *pb.StatusResponse:
		fmt.Fprintf(&b, " learner=%v leader=%v errors=%q", r.IsLearner, r.Leader != 0, r.Errors)
	case *pb.MemberAddResponse:
		m := r.Member
		fmt.Fprintf(&b, " added: id=%v name=%q peer_urls=%d client_urls=%d learner=%v;", m.ID != 0, m.Name, len(m.PeerURLs), len(m.ClientURLs), m.IsLearner)
	}
	if r, ok := resp.(interface{ GetMembers() []*pb.Member }); ok {
		started, learners, sorted := 0, 0, true
		var last uint64
		for _, m := range r.GetMembers() {
			if m.Name != "" && len(m.ClientURLs) > 0 {
				started++
			}
			if m.IsLearner {
				learners++
			}
			sorted, last = sorted && m.ID > last, m.ID
		}
		fmt.Fprintf(&b, " members=%d started=%d learners=%d sorted=%v", len(r.GetMembers()), started, learners, sorted)
	}
	if r, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && r.GetHeader() != nil {
		h := r.GetHeader()
		fmt.Fprintf(&b, " header: cluster=%v own=%v revision=%v term=%v", h.ClusterId != 0, h.MemberId == n.id, h.Revision != 0, h.RaftTerm != 0)
	}
	return b.String()
}

func requireLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// The calls that the script is made of.

func list(name string, n *node, linearizable bool) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
	}}
}

func add(name string, n *node, urls ...string) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
	}}
}

func addLearner(name string, n *node, urls ...string) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true})
	}}
}

func remove(name string, n *node, id uint64) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
	}}
}

func promote(name string, n *node, id uint64) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
	}}
}

func update(name string, n *node, id uint64, urls ...string) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
	}}
}

func move(name string, n *node, id uint64) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: id})
	}}
}

func stat(name string, n *node) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) { return n.Status(ctx, &pb.StatusRequest{}) }}
}

func put(name string, n *node) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	}}
}

func get(name string, n *node, serializable bool) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return n.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: serializable})
	}}
}

func grant(name string, n *node) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		return pb.NewLeaseClient(n.conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
	}}
}

// watch opens a watch and gives what the stream says first, or the error that it ends with.
func watch(name string, n *node) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		s, err := pb.NewWatchClient(n.conn).Watch(ctx)
		if err != nil {
			return nil, err
		}
		create := &pb.WatchCreateRequest{Key: []byte("k")}
		err = s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		if err != nil && !errors.Is(err, io.EOF) { // what was wrong is told by Recv
			return nil, err
		}
		return s.Recv()
	}}
}

func keepAlive(name string, n *node) call {
	return call{name: name, node: n, do: func(ctx context.Context) (proto.Message, error) {
		s, err := pb.NewLeaseClient(n.conn).LeaseKeepAlive(ctx)
		if err != nil {
			return nil, err
		}
		return s.Recv()
	}}
}

// led makes a call one of a client that wants a leader.
func led(c call) call {
	do := c.do
	c.do = func(ctx context.Context) (proto.Message, error) { return do(requireLeader(ctx)) }
	return c
}
