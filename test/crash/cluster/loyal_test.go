package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	"github.com/keelson-io/keelson/test/crash/linear"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// impatient is how long a loyal client waits for a read: the more it asks, the more it gets to know.
const impatient = 300 * time.Millisecond

// loyal has clients that ask one member again and again. The function that it returns ends them, and complains if
// the member did not answer serializable reads all the time.
func (d *drill) loyal(n int) (over func() error) {
	ctx, cancel := context.WithCancel(d.t.Context())
	var all sync.WaitGroup
	var asked, answered atomic.Int64
	repeat := func(limit time.Duration, request func() proto.Message) {
		all.Go(func() {
			for ctx.Err() == nil {
				op := &history.Op{Client: clients + n, Server: n, Request: request()}
				done := d.recorder.Do(d.t.Context(), d.through(d.conn(n)), op, limit)
				if op.Serializable() {
					asked.Add(1)
					if done && op.Err == nil {
						answered.Add(1)
					}
				} else {
					op.Late = false // it is the client that does not wait
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for range 3 {
		repeat(impatient, func() proto.Message { return everything() })
	}
	repeat(patience, func() proto.Message {
		r := everything()
		r.Serializable = true
		return r
	})
	repeat(5*impatient, func() proto.Message { return d.value("k1") })
	return func() error {
		cancel()
		_ = d.net.heal() // what is under way shall end
		all.Wait()
		if asked.Load() == 0 || answered.Load() != asked.Load() {
			return fmt.Errorf("member %d answered %d of %d serializable reads", n, answered.Load(), asked.Load())
		}
		return nil
	}
}

// TestStaleReads proves that the judge finds something: reads of a leader that was cut off, had it answered
// without asking the others.
func TestStaleReads(t *testing.T) {
	d := newDrill(t, 3)
	d.form(3)
	d.stale = true
	if err := d.during(func() error { return d.apart(d.anyLeader, true, true) }); err != nil {
		t.Fatalf("-seed=%d: %v", d.seed, err)
	}
	if err := d.judged(); !errors.Is(err, linear.ErrIllegal) {
		t.Errorf("-seed=%d: stale reads are not found: %v", d.seed, err)
	} else if text := err.Error(); !strings.Contains(text, "was known") {
		t.Errorf("-seed=%d: stale reads are found in any order, and not in that of the revisions: %.1000s", d.seed, text)
	}
}

// stale makes all reads serializable.
type stale struct{ grpc.ClientConnInterface }

func (c stale) Invoke(ctx context.Context, method string, request, response any, opts ...grpc.CallOption) error {
	if r, ok := request.(*pb.RangeRequest); ok {
		r = proto.CloneOf(r)
		r.Serializable = true
		request = r
	}
	return c.ClientConnInterface.Invoke(ctx, method, request, response, opts...)
}

// through is what loyal clients have in place of a connection.
func (d *drill) through(c grpc.ClientConnInterface) grpc.ClientConnInterface {
	if d.stale {
		return stale{c}
	}
	return c
}
