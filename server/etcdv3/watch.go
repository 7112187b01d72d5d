package etcdv3

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/watch"
)

type watchServer struct {
	*Server
	pb.UnsafeWatchServer
}

// Watch serves one stream: this goroutine sends, another one receives.
func (s *watchServer) Watch(stream pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	ws := watchStream{Server: s.Server, grpc: stream, watches: s.opts.Hub.NewStream()}
	defer ws.watches.Close()
	go func() {
		select {
		case <-s.opts.Stopping:
			cancel(rpctypes.ErrGRPCStopped)
		case <-ctx.Done():
		}
	}()
	go func() {
		// A client that has nothing more to ask may still listen.
		if err := ws.receive(ctx); !errors.Is(err, io.EOF) {
			cancel(err)
		}
	}()
	ticker := time.NewTicker(s.progressInterval())
	defer ticker.Stop()
	go func() {
		for {
			select {
			case <-ticker.C:
				ws.watches.Notify()
			case <-ctx.Done():
				return
			}
		}
	}()
	err := ws.send(ctx)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return grpcError(err)
}

// progressInterval adds up to a tenth, so that clients that came together are not notified together.
func (s *Server) progressInterval() time.Duration {
	d := s.opts.ProgressInterval
	return d + rand.N(d/10+1)
}

// watchStream is one client's stream.
type watchStream struct {
	*Server
	grpc    pb.Watch_WatchServer
	watches *watch.Stream
}

// receive takes the client's requests until it has no more.
func (ws *watchStream) receive(ctx context.Context) error {
	for {
		if err := ws.watches.Admit(ctx); err != nil {
			return err
		}
		r, err := ws.grpc.Recv()
		if err != nil {
			return err
		}
		switch u := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if u.CreateRequest != nil {
				ws.create(u.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if u.CancelRequest != nil {
				// etcd does not answer the cancellation of a watch that is not there.
				_ = ws.watches.Cancel(u.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			ws.watches.RequestProgress()
		}
	}
}

func (ws *watchStream) create(r *pb.WatchCreateRequest) {
	if len(r.Key) == 0 {
		r.Key = []byte{0} // the smallest key
	}
	if r.StartRevision < 0 {
		ws.watches.Refuse(rpctypes.ErrCompacted.Error())
		return
	}
	req := watch.Request{
		ID: r.WatchId, Range: mvcc.NewRange(r.Key, r.RangeEnd), Start: r.StartRevision,
		PrevKV: r.PrevKv, Fragment: r.Fragment, Progress: r.ProgressNotify,
	}
	for _, f := range r.Filters {
		req.NoPut = req.NoPut || f == pb.WatchCreateRequest_NOPUT
		req.NoDelete = req.NoDelete || f == pb.WatchCreateRequest_NODELETE
	}
	ws.watches.Watch(req)
}

// send tells the client what there is to tell, until the stream ends.
func (ws *watchStream) send(ctx context.Context) error {
	for {
		responses, err := ws.watches.Next(ctx)
		if err != nil {
			return err
		}
		for len(responses) > 0 {
			r := &responses[0]
			responses = responses[1:]
			err := ws.tell(ctx, r)
			switch {
			case watch.IsScrubbed(err):
				responses = ws.watches.Compacted(r, responses)
			case err != nil:
				return err
			}
		}
	}
}

// tell sends a response. drivers.ErrScrubbed if a value for it is gone; then nothing has been sent.
func (ws *watchStream) tell(ctx context.Context, r *watch.Response) error {
	events, err := ws.watches.Encode(ctx, r)
	if err != nil {
		return err
	}
	if r.Fragment {
		return ws.fragments(r, events)
	}
	return ws.message(r, events, false)
}

// fragments sends the events in messages below the largest that a client is taken to
// accept, all but the last marked as fragments.
func (ws *watchStream) fragments(r *watch.Response, events [][]byte) error {
	limit := ws.opts.MaxRequestBytes + grpcOverhead
	for {
		size, n := len(ws.head(r, true)), 0
		for n < len(events) && (n == 0 || size+len(events[n]) < limit) {
			size += len(events[n])
			n++
		}
		if n == len(events) {
			return ws.message(r, events, false)
		}
		if err := ws.message(r, events[:n], true); err != nil {
			return err
		}
		events = events[n:]
	}
}

func (ws *watchStream) message(r *watch.Response, events [][]byte, fragment bool) error {
	var m encoded
	m.add(ws.head(r, fragment))
	for _, e := range events {
		m.add(e)
	}
	return ws.grpc.SendMsg(&m)
}

// Fields of etcdserverpb.WatchResponse, wire types included.
const (
	tagWatchID  = 2<<3 | 0
	tagCreated  = 3<<3 | 0
	tagCanceled = 4<<3 | 0
	tagCompact  = 5<<3 | 0
	tagReason   = 6<<3 | 2
	tagFragment = 7<<3 | 0
)

// head encodes a WatchResponse but for its events.
func (ws *watchStream) head(r *watch.Response, fragment bool) []byte {
	b := ws.appendHeader(make([]byte, 0, 96), r.Revision)
	b = appendUint(b, tagWatchID, uint64(r.ID))
	b = appendBool(b, tagCreated, r.Created)
	b = appendBool(b, tagCanceled, r.Canceled)
	b = appendUint(b, tagCompact, uint64(r.Compact))
	if r.Reason != "" {
		b = append(b, tagReason)
		b = binary.AppendUvarint(b, uint64(len(r.Reason)))
		b = append(b, r.Reason...)
	}
	return appendBool(b, tagFragment, fragment)
}
