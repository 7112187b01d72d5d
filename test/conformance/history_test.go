package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	"github.com/keelson-io/keelson/test/conformance/launch"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var (
	clients   = flag.Int("clients", 10, "clients at once, of the history tests")
	requests  = flag.Int("requests", 250, "requests of each client in a round")
	histories = flag.Int("histories", 1, "histories to check, each with a seed of its own")
	kills     = flag.Int("kills", 3, "how often the server is killed in a history of TestHistoryKilled")
)

// TestHistory checks what concurrent clients of the server under test saw.
func TestHistory(t *testing.T) { checkHistories(t, *server, 0) }

// TestHistoryOfEtcd proves that the checks hold for etcd.
func TestHistoryOfEtcd(t *testing.T) { checkHistories(t, "etcd", 0) }

// TestHistoryKilled kills the server under load and starts it again.
func TestHistoryKilled(t *testing.T) { checkHistories(t, *server, *kills) }

// TestHistoryOfEtcdKilled proves that these checks hold for etcd too.
func TestHistoryOfEtcdKilled(t *testing.T) { checkHistories(t, "etcd", *kills) }

func checkHistories(t *testing.T, name string, kills int) {
	for i := range *histories {
		n := *seed + uint64(i)
		if *seed == 0 {
			n = uint64(time.Now().UnixNano())
		}
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) {
			h := recordHistory(t, name, n, kills)
			if err := history.Check(h.recorder.Ops(), h.views); err != nil {
				t.Errorf("-seed=%d: %v", n, err)
			}
			t.Logf("%d requests, %d events", len(h.recorder.Ops()), len(h.views[0].Events()))
		})
	}
}

// recording is a server, those who load it, and those who watch.
type recording struct {
	process  *launch.Process
	recorder *history.Recorder
	views    []*history.View
}

// recordHistory loads a server in rounds, each but the last ended by a kill.
func recordHistory(t *testing.T, name string, seed uint64, kills int) *recording {
	t.Helper()
	p := start(t, binary(t, name), nil)
	h := &recording{process: p.Process, recorder: history.NewRecorder(), views: []*history.View{
		history.NewView("all", []byte("k"), []byte("l")), history.NewView("all too", []byte("k"), []byte("l")),
		history.NewView("k0", []byte("k0"), nil), history.NewView("k1 to k3", []byte("k1"), []byte("k3")),
	}}
	for round := range kills + 1 {
		load := &history.Load{Seed: seed, Round: round, Clients: *clients, Requests: *requests, Keys: 5, Recorder: h.recorder}
		if err := h.round(t.Context(), load, round < kills); err != nil {
			t.Fatalf("-seed=%d, round %d: %v", seed, round, err)
		}
	}
	// A watcher that comes last sees the same.
	late := history.NewView("late", []byte("k"), []byte("l"))
	h.views = append(h.views, late)
	if err := h.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// round lets the clients ask and the views watch. With kill the server is killed and started again in the middle.
func (h *recording) round(ctx context.Context, load *history.Load, kill bool) error {
	var conns []grpc.ClientConnInterface
	for range 4 {
		conn, err := dialHistory(h.process)
		if err != nil {
			return err
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watchers errgroup.Group
	for i, v := range h.views {
		watchers.Go(func() error { return v.Watch(watching, conns[i%len(conns)]) })
	}
	var killed error
	end := func() {}
	if kill {
		end = func() { killed = h.process.Kill() }
	}
	load.Run(ctx, conns, int64(load.Clients*load.Requests/2), end)
	if !kill {
		stop()
		if err := watchers.Wait(); watching.Err() == nil {
			return err
		}
		for _, op := range h.recorder.Ops() {
			if op.Unknown && op.End == 0 {
				return fmt.Errorf("no answer, and nobody killed the server: %v", op)
			}
		}
		return nil
	}
	_ = watchers.Wait() // their streams broke
	if err := errors.Join(killed, h.process.Restart(ctx)); err != nil {
		return err
	}
	h.recorder.Served()
	return nil
}

// dialHistory connects so that a request fails when the server goes, instead of waiting for another one.
func dialHistory(p *launch.Process) (*grpc.ClientConn, error) {
	return grpc.NewClient(p.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// settle waits until every view has seen everything.
func (h *recording) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := dialHistory(h.process)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	var watchers errgroup.Group
	for _, v := range h.views {
		watchers.Go(func() error { return v.Watch(watching, conn) })
	}
	for _, v := range h.views {
		err = errors.Join(err, v.Await(ctx, resp.Header.Revision))
	}
	stop()
	_ = watchers.Wait() // they were told to stop
	return err
}
