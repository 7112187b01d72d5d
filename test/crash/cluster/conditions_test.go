package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

const (
	pollInterval = 50 * time.Millisecond
	// try bounds one try of what is tried again.
	try = 10 * time.Second
)

// until waits for a condition, and shows the ends of all logs if it does not come about.
func (d *drill) until(what string, holds func(ctx context.Context) error) error {
	all, cancel := context.WithTimeout(d.t.Context(), bound)
	defer cancel()
	for {
		ctx, cancel := context.WithTimeout(all, try)
		err := holds(ctx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-all.Done():
			return fmt.Errorf("waiting in vain for %s: %w\n%s", what, err, d.tails())
		case <-time.After(pollInterval):
		}
	}
}

func (d *drill) tails() string {
	var text string
	for _, m := range d.members {
		text += fmt.Sprintf("--- %s (to run: %v), the end of its log:\n%s\n", m.name, m.up, m.tail())
	}
	return text
}

// serve waits until each of some members has done a write.
func (d *drill) serve(members ...int) error {
	return d.each(members, func(n int) error {
		return d.until(fmt.Sprintf("a write by member %d", n), func(ctx context.Context) error {
			return d.asks(ctx, n, d.value("k0"))
		})
	})
}

// settle reads everything by each member, and waits until all watchers on those that run have seen what was read.
func (d *drill) settle() error {
	var mu sync.Mutex
	var rev int64
	err := d.each(d.up(), func(n int) error {
		return d.until(fmt.Sprintf("a read by member %d", n), func(ctx context.Context) error {
			op := d.once(ctx, n, everything())
			if op == nil || op.Err != nil {
				return fmt.Errorf("no answer: %v", op)
			}
			mu.Lock()
			defer mu.Unlock()
			rev = max(rev, op.Revision())
			return nil
		})
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), bound)
	defer cancel()
	var errs []error
	for i, v := range d.views {
		if n := i / 2; n >= len(d.members) || d.members[n].up { // two of each, and one of all
			errs = append(errs, v.Await(ctx, rev))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\n%s", err, d.tails())
	}
	return nil
}

func everything() *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
}

// asks asks a member once, and records it.
func (d *drill) asks(ctx context.Context, n int, request proto.Message) error {
	op := d.once(ctx, n, request)
	if op == nil {
		return errors.New("no connection")
	}
	return op.Err
}

// each does the same for several members at once.
func (d *drill) each(members []int, f func(n int) error) error {
	var all sync.WaitGroup
	errs := make([]error, len(members))
	for i, n := range members {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// more waits until watchers on some members have seen that the load goes on.
func (d *drill) more(members ...int) error {
	return d.each(members, func(n int) error {
		ctx, cancel := context.WithTimeout(d.t.Context(), bound)
		defer cancel()
		v := d.views[2*n]
		if err := v.Await(ctx, v.Reached()+some); err != nil {
			return fmt.Errorf("the load does not go on: %w\n%s", err, d.tails())
		}
		return nil
	})
}

// status asks a member for what it takes for the state of the cluster.
func (d *drill) status(ctx context.Context, n int) (*pb.StatusResponse, error) {
	s, err := pb.NewMaintenanceClient(d.conn(n)).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("status of member %d: %w", n, err)
	}
	return s, nil
}

// leader waits until some members agree on one of them as their leader.
func (d *drill) leader(among ...int) (int, error) {
	leader := -1
	err := d.until(fmt.Sprintf("a leader of %v", among), func(ctx context.Context) error {
		var ids, leaders []uint64
		for _, n := range among {
			s, err := d.status(ctx, n)
			if err != nil {
				return err
			}
			ids, leaders = append(ids, s.Header.MemberId), append(leaders, s.Leader)
		}
		leader = -1
		for i, id := range ids {
			if leaders[i] != leaders[0] {
				return fmt.Errorf("members %v have leaders %x", among, leaders)
			}
			if id == leaders[0] {
				leader = among[i]
			}
		}
		if leader < 0 {
			return fmt.Errorf("members %v (%x) have the leader %x", among, ids, leaders[0])
		}
		return nil
	})
	return leader, err
}

// withoutMe waits until members other than some have a leader of their own, serve, and have done more of the load.
func (d *drill) withoutMe(me ...int) error {
	rest := d.others(me...)
	if _, err := d.leader(rest...); err != nil {
		return err
	}
	if err := d.serve(rest...); err != nil {
		return err
	}
	return d.more(rest...)
}
