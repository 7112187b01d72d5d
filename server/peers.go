package server

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server/etcdv3"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/server/peer/peerpb"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// bindPeers opens the sockets of the peer URLs, once.
func (n *Node) bindPeers() error {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listeners != nil {
		return nil
	}
	s := n.opts.SocketOptions
	var err error
	c.listeners, err = listen.Open(n.opts.ListenPeerURLs, listen.Options{TLS: c.serverTLS, ReusePort: s.ReusePort, ReuseAddress: s.ReuseAddress})
	return err
}

// serve serves the peer URLs of a member of a cluster, from when it is one until ctx ends. What a new cluster that is forced has before it has removed the others would be no
// answer to them.
func (c *cluster) serve(ctx context.Context, api etcdv3.Options) error {
	select {
	case <-c.grown:
	case <-ctx.Done():
		return nil
	}
	if c.awaitForgotten(ctx); ctx.Err() != nil {
		return nil
	}
	id, _ := c.log.Clustered()
	guard := peer.NewGuard(peer.GuardOptions{
		Cluster: id.Cluster, Self: id.Member, Origin: id.Origin,
		Removed: c.removed, Begun: c.hasBegun,
		Count: c.counter,
		Seen:  c.connections().Retry,
	})
	api.Lead, api.Learner, api.ForMembers, api.Stopping = nil, nil, true, ctx.Done()
	api.Observe = c.node.counted.Forwarded() // clients are counted by who they have asked
	options := append(peer.ServerOptions(), grpc.Creds(peer.Credentials(listen.Credentials())),
		grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))
	server := etcdv3.New(api)
	g := server.Register(options...)
	peer.Register(g, service{c, server}, ctx.Done())
	return listen.NewServer(listen.ServerOptions{Listeners: c.listeners, Name: "peer", Log: c.logger, GRPC: g}).Run(ctx)
}

// service is what this member does for the others.
type service struct {
	*cluster
	api *etcdv3.Server
}

var (
	_ peer.Service = service{}
	_ peer.Locator = service{}
)

// Deliver implements peer.Service.
func (s service) Deliver(_ context.Context, m *raftpb.Message) error {
	err := s.log.Deliver(m)
	if errors.Is(err, raft.ErrBusy) {
		// The end of the stream is what the sender's Raft hears of.
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return err
}

// Located implements peer.Locator.
func (s service) Located(ctx context.Context, urls []string, position int64) {
	s.located(peer.From(ctx), whereabouts{urls, position})
}

// Answer implements peer.Service.
func (s service) Answer(ctx context.Context, c *peerpb.Call) (*peerpb.Answer, error) {
	a := s.api.Answer(ctx, c.GetMethod(), c.GetRequest())
	st := status.Convert(a.Err)
	return &peerpb.Answer{
		Response: a.Response, Code: uint32(st.Code()), Text: st.Message(), NotLeader: a.NotLeader, Position: a.Position,
	}, nil
}

// Renew implements peer.Service.
func (s service) Renew(ctx context.Context, lease int64) (ttl, position int64, err error) {
	ttl, err = s.node.lessor.Renew(ctx, lease)
	switch {
	case errors.Is(err, mvcc.ErrLeaseNotFound):
		ttl = 0
	case errors.Is(err, drivers.ErrNotLeader), errors.Is(err, drivers.ErrNoLeader), errors.Is(err, drivers.ErrNoQuorum), errors.Is(err, sqllog.ErrHalted):
		return 0, 0, errNotLeading // a renewal may be done twice
	case err != nil:
		return 0, 0, status.FromContextError(err).Err()
	}
	return ttl, s.node.store.Index().End.Position, nil
}

// Publish implements peer.Service.
func (s service) Publish(ctx context.Context, name string, clientURLs []string) error {
	_, err := s.node.store.Do(ctx, &mvcc.PublishMember{ID: peer.From(ctx), Name: name, ClientURLs: clientURLs}, 0)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

// Hashes implements peer.Service.
func (s service) Hashes(_ context.Context, positions []int64) ([]*peerpb.PositionHash, error) {
	hashes := s.log.HashesAt(positions)
	out := make([]*peerpb.PositionHash, len(hashes))
	for i, h := range hashes {
		out[i] = &peerpb.PositionHash{Position: h.Position, Hash: h.Sum}
	}
	return out, nil
}

// Copy implements peer.Service. A send that the member does not take ends when this returns, with the stream.
func (s service) Copy(ctx context.Context, send func(*peerpb.CopyChunk) error) (err error) {
	ended := s.node.counted.Peer(peer.From(ctx)).Sending()
	defer func() { ended(err) }()
	s.logger.Info("a member fetches a copy of the database", "member", fmt.Sprintf("%x", peer.From(ctx)))
	err = s.log.ServeCopy(ctx, peer.From(ctx), func(p raft.Part) error {
		switch {
		case p.Stand != nil:
			return send(&peerpb.CopyChunk{Chunk: &peerpb.CopyChunk_Header{Header: &peerpb.CopyHeader{
				EndPosition: p.Stand.End.Position, EndBatch: p.Stand.End.Batch[:], Scrubbed: p.Stand.Scrubbed, Mark: p.Stand.Mark[:],
			}}})
		case p.Last:
			return send(&peerpb.CopyChunk{Chunk: &peerpb.CopyChunk_End{End: &peerpb.CopyEnd{}}})
		}
		rows := make([]*peerpb.Row, len(p.Rows))
		for i, r := range p.Rows {
			rows[i] = &peerpb.Row{Position: r.Position, Kind: uint32(r.Kind), Closes: r.Closing != nil, Closing: r.Closing, Meta: r.Meta, Value: r.Value}
		}
		return send(&peerpb.CopyChunk{Chunk: &peerpb.CopyChunk_Rows{Rows: &peerpb.CopyRows{Rows: rows}}})
	})
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("the copy of the database was broken off", "member", fmt.Sprintf("%x", peer.From(ctx)), "error", err)
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

// receiveCopy is the other end of Copy.
func receiveCopy(ctx context.Context, net *peer.Network, from uint64, receive func(raft.Part) error) error {
	conn, err := net.Conn(from)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := peerpb.NewPeerClient(conn).Copy(ctx, &peerpb.CopyRequest{})
	if err != nil {
		return err
	}
	for {
		chunk, err := stream.Recv()
		if err != nil {
			return err
		}
		part, err := partOf(chunk)
		if err != nil {
			return err
		}
		if err := receive(part); err != nil || part.Last {
			return err
		}
	}
}

var errCopy = errors.New("a copy of the database comes in a form that is not known")

func partOf(chunk *peerpb.CopyChunk) (raft.Part, error) {
	switch c := chunk.GetChunk().(type) {
	case *peerpb.CopyChunk_Header:
		s := &raft.Stand{End: drivers.End{Position: c.Header.GetEndPosition()}, Scrubbed: c.Header.GetScrubbed()}
		if copy(s.End.Batch[:], c.Header.GetEndBatch()) < len(s.End.Batch) || copy(s.Mark[:], c.Header.GetMark()) < len(s.Mark) {
			return raft.Part{}, errCopy
		}
		return raft.Part{Stand: s}, nil
	case *peerpb.CopyChunk_Rows:
		rows := make([]sqlite.Row, len(c.Rows.GetRows()))
		for i, r := range c.Rows.GetRows() {
			rows[i] = sqlite.Row{Position: r.GetPosition(), Kind: uint8(r.GetKind()), Meta: r.GetMeta(), Value: r.GetValue()}
			if r.GetCloses() {
				rows[i].Closing = r.GetClosing()
			}
		}
		return raft.Part{Rows: rows}, nil
	case *peerpb.CopyChunk_End:
		return raft.Part{Last: true}, nil
	}
	return raft.Part{}, errCopy
}
