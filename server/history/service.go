package history

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/history/historypb"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// Store is what has the past.
type Store interface {
	Extent(ctx context.Context) (sqllog.Extent, error)
	RevisionAt(ctx context.Context, e sqllog.Extent, unixMs int64) (rev, written int64, err error)
	Changes(ctx context.Context, e sqllog.Extent, w sqllog.Wanted, fn func([]sqllog.Change) error) error
	Rewound(ctx context.Context, e sqllog.Extent, rev int64, w sqllog.Wanted, fn func([]sqllog.Rewound) error) error
}

// Options configures a Service.
type Options struct {
	Store Store
	// Cluster and Member are the ids that answers carry.
	Cluster, Member uint64
	// AtOnce is for how many calls the log is read at once, and how many calls of Rewound there are at once, since each keeps much in mind. Default: 2.
	AtOnce int
	// Streams is how many calls of Changes there are at once. Default: 16.
	Streams int
}

// Service implements keelson.v1.History.
type Service struct {
	historypb.UnimplementedHistoryServer
	o                Options
	turns            *semaphore.Weighted // of reading the log
	changing, rewind *seats
}

// New makes a Service.
func New(o Options) *Service {
	if o.AtOnce == 0 {
		o.AtOnce = 2
	}
	if o.Streams == 0 {
		o.Streams = 16
	}
	return &Service{o: o, turns: semaphore.NewWeighted(int64(o.AtOnce)), changing: newSeats(o.Streams), rewind: newSeats(o.AtOnce)}
}

var errKeys = status.Error(codes.InvalidArgument, "keelson: no keys are asked for")

// turn runs fn when it is its turn to read the log. What fn sends by way of send is sent out of turn: so nobody waits for a client that does not read.
func (s *Service) turn(ctx context.Context, c *call, fn func(send sender) error) error {
	first, cancel := context.WithTimeout(ctx, waitMost)
	defer cancel()
	if err := s.turns.Acquire(first, 1); err != nil {
		if ctx.Err() == nil {
			return errBusy
		}
		return err
	}
	held := true
	defer func() {
		if held {
			s.turns.Release(1)
		}
	}()
	return fn(func(message func() error) error {
		s.turns.Release(1)
		held = false
		err := c.send(message)
		if err == nil {
			err = s.turns.Acquire(ctx, 1)
			held = err == nil
		}
		return err
	})
}

type sender func(message func() error) error

// told is an extent as answers have it.
func (s *Service) told(e sqllog.Extent) *historypb.Extent {
	return &historypb.Extent{ClusterId: s.o.Cluster, MemberId: s.o.Member, Revision: e.Rev, CompactRevision: e.Compact, CompleteRevision: e.Complete}
}

// moment gives the revision of a moment, 0 if there is none, and when that was written, if a time was asked for. ErrNotKept if all that there is came later.
func (s *Service) moment(ctx context.Context, e sqllog.Extent, m *historypb.Moment) (rev, written int64, err error) {
	switch at := m.GetAt().(type) {
	case *historypb.Moment_Revision:
		switch {
		case at.Revision < 1:
			return 0, 0, status.Error(codes.InvalidArgument, "keelson: there is no such revision")
		case at.Revision > e.Rev:
			return 0, 0, rpctypes.ErrGRPCFutureRev
		}
		return at.Revision, 0, nil
	case *historypb.Moment_UnixMs:
		if rev, written, err = s.o.Store.RevisionAt(ctx, e, at.UnixMs); err == nil && rev == 0 {
			// All came later. That there was nothing does not follow: a store may have been restored, with the time of that, and clocks are set. Who means it says revision 1.
			err = fmt.Errorf("that time: %w: it is whole from revision %d on, which was written later", sqllog.ErrNotKept, e.Complete)
		}
		return rev, written, err
	}
	return 0, 0, nil
}

func wanted(keys *historypb.Range, except []*historypb.Range) sqllog.Wanted {
	w := sqllog.Wanted{Keys: mvcc.NewRange(keys.GetKey(), keys.GetRangeEnd())}
	for _, r := range except {
		w.Except = append(w.Except, mvcc.NewRange(r.GetKey(), r.GetRangeEnd()))
	}
	return w
}

// Changes implements historypb.HistoryServer.
func (s *Service) Changes(r *historypb.ChangesRequest, stream historypb.History_ChangesServer) error {
	if len(r.GetKeys().GetKey()) == 0 {
		return errKeys
	}
	ctx := stream.Context()
	return grpcError(s.changing.attend(ctx, func(c *call) error {
		return s.turn(ctx, c, func(send sender) error { return s.changes(r, stream, send) })
	}))
}

func (s *Service) changes(r *historypb.ChangesRequest, stream historypb.History_ChangesServer, send sender) error {
	ctx := stream.Context()
	e, err := s.o.Store.Extent(ctx)
	if err != nil {
		return err
	}
	w := wanted(r.GetKeys(), r.GetExcept())
	w.Newest, w.Limit, w.KeysOnly = r.GetNewestFirst(), max(r.GetLimit(), 0), r.GetKeysOnly()
	since, _, err := s.moment(ctx, e, r.GetSince())
	if err != nil && !errors.Is(err, sqllog.ErrNotKept) { // then everything that there is was later
		return err
	}
	w.From = since + 1
	if w.To, _, err = s.moment(ctx, e, r.GetUntil()); errors.Is(err, sqllog.ErrNotKept) {
		w.To = 1
	} else if err != nil {
		return err
	}
	if err := send(func() error { return stream.Send(&historypb.ChangesResponse{Extent: s.told(e)}) }); err != nil {
		return err
	}
	err = s.o.Store.Changes(ctx, e, w, func(changes []sqllog.Change) error {
		resp := &historypb.ChangesResponse{Changes: make([]*historypb.Change, len(changes))}
		for i := range changes {
			resp.Changes[i] = message(&changes[i])
		}
		return send(func() error { return stream.Send(resp) })
	})
	if err != nil {
		return err
	}
	// Something may have been scrubbed before it was read.
	now, err := s.o.Store.Extent(ctx)
	if err != nil {
		return err
	}
	now.Rev = e.Rev // what came later was not told
	now.Complete = min(now.Complete, now.Rev+1)
	return send(func() error { return stream.Send(&historypb.ChangesResponse{Extent: s.told(now)}) })
}

func message(c *sqllog.Change) *historypb.Change {
	return &historypb.Change{
		Key: []byte(c.Key), Value: c.Value, ModRevision: c.Main, Sub: c.Sub, CreateRevision: c.Create, Version: c.Count, Lease: c.Lease,
		UnixMs: c.Written, ValueGone: c.Gone,
	}
}

// Rewound implements historypb.HistoryServer.
func (s *Service) Rewound(r *historypb.RewoundRequest, stream historypb.History_RewoundServer) error {
	if len(r.GetKeys().GetKey()) == 0 {
		return errKeys
	}
	ctx := stream.Context()
	return grpcError(s.rewind.attend(ctx, func(c *call) error {
		return s.turn(ctx, c, func(send sender) error { return s.rewound(r, stream, send) })
	}))
}

func (s *Service) rewound(r *historypb.RewoundRequest, stream historypb.History_RewoundServer, send sender) error {
	ctx := stream.Context()
	e, err := s.o.Store.Extent(ctx)
	if err != nil {
		return err
	}
	first := &historypb.RewoundResponse{Extent: s.told(e)}
	if first.Revision, first.UnixMs, err = s.moment(ctx, e, r.GetTo()); err != nil {
		return err
	}
	if first.Revision == 0 {
		return status.Error(codes.InvalidArgument, "keelson: no moment is asked for")
	}
	if err := e.Has(first.Revision); err != nil {
		return err
	}
	if err := send(func() error { return stream.Send(first) }); err != nil {
		return err
	}
	w := wanted(r.GetKeys(), r.GetExcept())
	for _, part := range r.GetContaining() {
		w.Containing = append(w.Containing, string(part))
	}
	return s.o.Store.Rewound(ctx, e, first.Revision, w, func(keys []sqllog.Rewound) error {
		resp := &historypb.RewoundResponse{Keys: make([]*historypb.Rewound, len(keys))}
		for i := range keys {
			k := &keys[i]
			resp.Keys[i] = &historypb.Rewound{
				Key: []byte(k.Key), Same: k.Same, LeaseEnded: k.LeaseEnded,
				Then: version(k.Then, k.Value, k.Written), Now: version(k.Now, nil, 0),
			}
		}
		return send(func() error { return stream.Send(resp) })
	})
}

// version gives a version of a key, nil if there was nothing.
func version(v mvcc.Version, value []byte, written int64) *historypb.Change {
	if v.Tombstone() {
		return nil
	}
	return message(&sqllog.Change{Version: v, Value: value, Written: written})
}

// grpcError makes a gRPC status of an error.
func grpcError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sqllog.ErrNotKept):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, sqllog.ErrTooMany):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, sqllog.ErrStopped):
		return rpctypes.ErrGRPCStopped
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, sqllog.ErrStorage):
		return status.Error(codes.Unavailable, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}
