package peer

import (
	"context"
	"errors"

	"google.golang.org/grpc"
)

// unary puts the metadata on a call, and gives its error a meaning.
func (n *Network) unary(who caller) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return n.noted(who.to, next(n.says(who).attach(ctx), method, req, reply, conn, opts...))
	}
}

func (n *Network) stream(who caller) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := next(n.says(who).attach(ctx), desc, conn, method, opts...)
		if err != nil {
			return nil, n.noted(who.to, err)
		}
		return &notedStream{ClientStream: s, network: n, to: who.to}, nil
	}
}

// says adds to who calls what is so now.
func (n *Network) says(who caller) caller {
	who.unbegun = n.o.Unbegun()
	return who
}

// noted gives an error its meaning, and reports that this member was removed, or has lost its data.
func (n *Network) noted(to uint64, err error) error {
	if err == nil {
		return nil
	}
	err = judged(err)
	switch {
	case errors.Is(err, ErrRemoved):
		n.reports.removedFrom(to)
	case errors.Is(err, ErrBegun):
		n.reports.begunFor(to)
	}
	return err
}

// notedStream is a stream whose end is noted.
type notedStream struct {
	grpc.ClientStream
	network *Network
	to      uint64
}

func (s *notedStream) RecvMsg(m any) error {
	return s.network.noted(s.to, s.ClientStream.RecvMsg(m))
}
