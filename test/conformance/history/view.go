package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// askEvery is the time between a watcher's progress requests.
const askEvery = 20 * time.Millisecond

// seen is one response of a watch. Without events it tells progress.
type seen struct {
	rev    int64
	events []*mvccpb.Event
}

// View is a range of keys as one watcher saw it, over all its streams.
type View struct {
	Name          string
	Key, RangeEnd []byte
	// From is the first revision that it asked for.
	From int64
	// PrevKV asks for previous values.
	PrevKV bool

	mu        sync.Mutex
	responses []seen
	reached   int64 // all events up to it were seen
	changed   chan struct{}
}

// NewView is a view of nothing yet, from the first revision on.
func NewView(name string, key, end []byte) *View { return NewViewFrom(name, key, end, 1) }

// NewViewFrom is a view of nothing yet, from a revision on.
func NewViewFrom(name string, key, end []byte, from int64) *View {
	return &View{Name: name, Key: key, RangeEnd: end, From: from, PrevKV: true, reached: from - 1, changed: make(chan struct{})}
}

// Events are all events, in the order in which they came.
func (v *View) Events() []*mvccpb.Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*mvccpb.Event
	for _, r := range v.responses {
		all = append(all, r.events...)
	}
	return all
}

// ErrCancelled means that the server ended a watch.
var ErrCancelled = errors.New("history: a watcher was cancelled")

// Watch goes on from what was seen until the stream breaks, and returns why it did.
func (v *View) Watch(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	create := &pb.WatchCreateRequest{Key: v.Key, RangeEnd: v.RangeEnd, StartRevision: v.Reached() + 1, PrevKv: v.PrevKV}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return err
	}
	asked := make(chan struct{})
	go func() { defer close(asked); askForProgress(ctx, stream) }()
	defer func() { cancel(); <-asked }()
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if r.Canceled {
			return fmt.Errorf("%w: %s at %d: %s (compact revision %d)", ErrCancelled, v.Name, create.StartRevision, r.CancelReason, r.CompactRevision)
		}
		if !r.Created {
			v.take(r)
		}
	}
}

func askForProgress(ctx context.Context, stream pb.Watch_WatchClient) {
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		select {
		case <-ask.C:
		case <-ctx.Done():
			return
		}
		request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		if stream.Send(request) != nil {
			return // Recv says why
		}
	}
}

func (v *View) take(r *pb.WatchResponse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.responses = append(v.responses, seen{r.Header.Revision, r.Events})
	upTo := r.Header.Revision
	if n := len(r.Events); n > 0 {
		upTo = r.Events[n-1].Kv.ModRevision
	}
	v.reached = upTo
	close(v.changed)
	v.changed = make(chan struct{})
}

// Reached is the revision up to which everything was seen.
func (v *View) Reached() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.reached
}

// ErrBehind means that a watcher was not told of a revision in time.
var ErrBehind = errors.New("history: a watcher is behind")

// Await waits until everything up to a revision was seen.
func (v *View) Await(ctx context.Context, rev int64) error {
	for {
		v.mu.Lock()
		reached, changed := v.reached, v.changed
		v.mu.Unlock()
		if reached >= rev {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s is at %d, not at %d", ErrBehind, v.Name, reached, rev)
		}
	}
}

// view checks what one watcher saw.
func (c *checker) view(v *View) {
	var want []*mvccpb.Event // all that it has to see
	for rev := max(v.From, 2); rev <= c.model.Last(); rev++ {
		for _, e := range c.model.events[rev] {
			if contains(v.Key, v.RangeEnd, e.Kv.Key) {
				want = append(want, e)
			}
		}
	}
	upTo := int64(0)
	for _, r := range v.responses {
		if len(r.events) > 0 && r.events[0].Kv.ModRevision <= upTo {
			c.fail("watcher %s: revision %d was told of, and then comes %v", v.Name, upTo, r.events[0])
		}
		for _, e := range r.events {
			if len(want) == 0 || !SameEvents([]*mvccpb.Event{e}, want[:1]) {
				c.fail("watcher %s: %v, due is %v", v.Name, e, first(want))
				return
			}
			c.previous(v, e)
			upTo, want = e.Kv.ModRevision, want[1:]
		}
		if r.rev < upTo {
			c.fail("watcher %s: the header's revision %d is below the events' %d", v.Name, r.rev, upTo)
		}
		if len(r.events) == 0 {
			upTo = r.rev
		}
		if len(want) > 0 && want[0].Kv.ModRevision <= upTo {
			c.fail("watcher %s: progress at %d, or a part of that revision, and still due is %v", v.Name, upTo, want[0])
			return
		}
	}
	if len(want) > 0 {
		c.fail("watcher %s: never saw %v and what follows", v.Name, want[0])
	}
}

// previous checks an event's previous value.
func (c *checker) previous(v *View, e *mvccpb.Event) {
	if !v.PrevKV {
		return
	}
	if before := c.model.states[e.Kv.ModRevision-1][string(e.Kv.Key)]; !proto.Equal(e.PrevKv, before) {
		c.fail("watcher %s: %v, the value before was %v", v.Name, e, before)
	}
}

func first(events []*mvccpb.Event) string {
	if len(events) == 0 {
		return "nothing"
	}
	return events[0].String()
}
