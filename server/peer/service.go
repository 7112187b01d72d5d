package peer

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/peer/peerpb"
)

// Service is what a member does for the others. Its methods are called concurrently; From tells for whom. Their errors
// go to the caller, so they should be ones of package status.
type Service interface {
	// Deliver takes in one Raft message, and owns it. The messages of one connection come one after the
	// other; a member has two connections. What waits here makes everything behind it wait, heartbeats too. An
	// error ends the stream: a message that Raft ignores is none.
	Deliver(ctx context.Context, m *raftpb.Message) error
	// Copy sends a copy of the rows, as of a moment after the call came. send waits for the receiver.
	Copy(ctx context.Context, send func(*peerpb.CopyChunk) error) error
	// Renew renews a lease, as the leader, and says where the renewal stands.
	Renew(ctx context.Context, lease int64) (ttl, position int64, err error)
	// Answer answers a call of a client of the caller's, all but its id. Its error ends the stream.
	Answer(ctx context.Context, c *peerpb.Call) (*peerpb.Answer, error)
	// Publish records, as the leader, what the caller is called and where clients reach it.
	Publish(ctx context.Context, name string, clientURLs []string) error
	// Hashes gives the hashes of the log up to those of some positions that it has in memory.
	Hashes(ctx context.Context, positions []int64) ([]*peerpb.PositionHash, error)
}

// Locator is a Service that wants to know where members say that they are reached.
type Locator interface {
	// Located hears it of the caller: its peer URLs, as the log says at a position. They can be connected to, and whether there is anybody is not known. It must not wait.
	Located(ctx context.Context, urls []string, position int64)
}

// Register puts the service on a gRPC server that has a Guard's interceptors. Once stopping is closed the streams
// of Raft messages end, which otherwise end with their connections only. It may be nil.
func Register(g *grpc.Server, svc Service, stopping <-chan struct{}) {
	peerpb.RegisterPeerServer(g, &server{svc: svc, stopping: stopping})
}

const (
	// streamWindow and connWindow are how much may be on its way before it is taken in.
	streamWindow = 8 << 20
	connWindow   = 16 << 20
	// bufferSize is how much one system call reads or writes at most.
	bufferSize = 32 << 10
	// A connection on which nothing came for maxSilence is dead. Somebody pulses on each.
	pulseTime  = time.Second
	maxSilence = 5 * time.Second
	// pingTime and pingTimeout are for the side that does not expect pulses. gRPC pings no oftener.
	pingTime    = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// ServerOptions are what a gRPC server on a peer port needs for what a Network sends: no limits on sizes and streams, windows that
// fill a fast network, and patience with pings.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.NumStreamWorkers(0), // streams are few here, and last
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(bufferSize),
		grpc.WriteBufferSize(bufferSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingTime / 4, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingTime, Timeout: pingTimeout}),
	}
}

type server struct {
	peerpb.UnimplementedPeerServer
	svc      Service
	stopping <-chan struct{}
}

var errStopping = status.Error(codes.Unavailable, "the member is stopping")

// Messages delivers in the handler's goroutine, which gRPC waits for when it stops, while the next message is
// read and decoded in another.
func (s *server) Messages(stream messages) error {
	c, ok := stream.Context().Value(callerKey{}).(caller)
	if !ok || c.from == 0 {
		return status.Error(codes.FailedPrecondition, "messages from nobody")
	}
	// The header tells the caller that it was let in.
	if err := stream.SendHeader(metadata.Pairs(keyFrom, hex(c.to))); err != nil {
		return err
	}
	var beating sync.WaitGroup
	defer beating.Wait()
	done := make(chan struct{})
	defer close(done)
	beating.Go(func() { pulse(stream, done) })
	received := make(chan *peerpb.Message)
	failed := make(chan error, 1)
	go receive(stream, received, failed)
	for {
		select {
		case m := <-received:
			s.locate(stream.Context(), m.GetAt())
			if err := s.deliver(stream.Context(), c, m.GetRaft()); err != nil {
				receiveFailed(stream.Context())
				return err
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-s.stopping:
			return errStopping
		}
	}
}

type messages = grpc.BidiStreamingServer[peerpb.Message, peerpb.Pulse]

// pulse shows the caller that the connection lives, whatever becomes of its messages here. It ends soon after done:
// so little is sent that sending does not wait.
func pulse(stream messages, done <-chan struct{}) {
	ticker := time.NewTicker(pulseTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if stream.Send(&peerpb.Pulse{}) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// receive ends with the stream, which the end of its handler ends.
func receive(stream messages, received chan<- *peerpb.Message, failed chan<- error) {
	for {
		m, err := stream.Recv()
		if err != nil {
			failed <- err
			return
		}
		select {
		case received <- m:
		case <-stream.Context().Done():
			return
		}
	}
}

// locate passes on where the caller says that it is reached.
func (s *server) locate(ctx context.Context, at *peerpb.Whereabouts) {
	l, ok := s.svc.(Locator)
	if at == nil || !ok {
		return
	}
	if _, err := parseURLs(at.GetPeerUrls()); err == nil {
		l.Located(ctx, at.GetPeerUrls(), at.GetPosition())
	}
}

func (s *server) deliver(ctx context.Context, c caller, messages []*raftpb.Message) error {
	for _, m := range messages {
		if err := checkMessage(c, m); err != nil {
			return err
		}
		if err := s.svc.Deliver(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// checkMessage refuses what Raft never sends to another member, and what is another member's.
func checkMessage(c caller, m *raftpb.Message) error {
	// A transfer of leadership that is passed on to the leader names the next leader as its sender.
	foreign := m.GetFrom() != c.from && m.GetType() != raftpb.MsgTransferLeader
	_, known := raftpb.MessageType_name[int32(m.GetType())]
	switch {
	case !known || raft.IsLocalMsg(m.GetType()):
		return status.Errorf(codes.InvalidArgument, "%v is no message between members", m.GetType())
	case m.GetTo() != c.to || foreign:
		return status.Errorf(codes.InvalidArgument, "%v from %x to %x, sent by %x to %x", m.GetType(), m.GetFrom(), m.GetTo(), c.from, c.to)
	}
	return nil
}

func (s *server) Copy(_ *peerpb.CopyRequest, stream grpc.ServerStreamingServer[peerpb.CopyChunk]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-s.stopping:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	err := s.svc.Copy(ctx, stream.Send)
	if err != nil && errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

func (s *server) Renew(ctx context.Context, r *peerpb.RenewRequest) (*peerpb.RenewResponse, error) {
	ttl, position, err := s.svc.Renew(ctx, r.GetLease())
	if err != nil {
		return nil, err
	}
	return &peerpb.RenewResponse{Ttl: ttl, Position: position}, nil
}

func (s *server) Publish(ctx context.Context, r *peerpb.PublishRequest) (*peerpb.PublishResponse, error) {
	if err := s.svc.Publish(ctx, r.GetName(), r.GetClientUrls()); err != nil {
		return nil, err
	}
	return &peerpb.PublishResponse{}, nil
}

func (s *server) Hashes(ctx context.Context, r *peerpb.HashesRequest) (*peerpb.HashesResponse, error) {
	hashes, err := s.svc.Hashes(ctx, r.GetPositions())
	if err != nil {
		return nil, err
	}
	return &peerpb.HashesResponse{Hashes: hashes}, nil
}
