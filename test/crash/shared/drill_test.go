package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/keelson-io/keelson/drivers/postgres"
	"github.com/keelson-io/keelson/sqllog/verify"
	"github.com/keelson-io/keelson/test/conformance/history"
	"github.com/keelson-io/keelson/test/crash/linear"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	clients = 8
	// roaming is how many clients change servers with every request.
	roaming = 3
	keys    = 6
	// pause bounds the time between two requests of a client, so that a history stays one that can be judged.
	pause = 10 * time.Millisecond
	// lulls is how often in each round only one client asks.
	lulls = 3
	// patience bounds the wait for the end of a request, whatever the fault.
	patience = 20 * time.Second
	// recovery bounds the time after a fault until each server serves.
	recovery = 20 * time.Second
	// catchingUp bounds the time until watchers have seen everything.
	catchingUp = 30 * time.Second
	// compactBehind is how far behind all watchers revisions are compacted.
	compactBehind = 20
)

// drill is one history: rounds of load and faults on a deployment.
type drill struct {
	*deployment
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	recorder *history.Recorder
	conns    []*grpc.ClientConn // several for each server, in turns
	views    []*history.View
	asked    int
	slowest  time.Duration // to serve again
	pause    time.Duration // of each client between two requests, at most
	// through is what clients have in place of a connection.
	through  func(grpc.ClientConnInterface) grpc.ClientConnInterface
	verdict  *linear.Verdict
	watching sync.WaitGroup
	ctx      context.Context // of the watchers
	stop     context.CancelFunc

	mu        sync.Mutex
	cancelled []error // watchers that a server ended
}

func asItIs(c grpc.ClientConnInterface) grpc.ClientConnInterface { return c }

// newDrill begins to watch.
func newDrill(t *testing.T, d *deployment, seed uint64) *drill {
	t.Helper()
	r := &drill{deployment: d, t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), recorder: history.NewRecorder(), pause: pause, through: asItIs}
	for i := range 2 * len(d.servers) {
		r.conns = append(r.conns, dial(t, d.servers[i%len(d.servers)]))
	}
	r.ctx, r.stop = context.WithCancel(t.Context())
	var all []int
	for i := range d.servers {
		all = append(all, i)
		r.follow(everything(fmt.Sprintf("of server %d", i), 1), 0, i)
		r.follow(everything(fmt.Sprintf("of server %d, that begins anew at random", i), 1), time.Second, i)
		r.follow(history.NewView(fmt.Sprintf("of some keys of server %d", i), []byte("k1"), []byte("k3")), time.Second, i)
	}
	r.follow(everything("that changes servers", 1), time.Second, all...)
	return r
}

func everything(name string, from int64) *history.View {
	return history.NewViewFrom(name, []byte("k"), []byte("l"), from)
}

// follow lets a watcher see what there is, by one of the servers at a time. It begins anew when its stream
// breaks, and with some time given, at random within it.
func (d *drill) follow(v *history.View, restless time.Duration, servers ...int) {
	d.views = append(d.views, v)
	rng := rand.New(rand.NewPCG(d.seed, uint64(len(d.views))))
	d.watching.Go(func() {
		for d.ctx.Err() == nil {
			ctx, cancel := context.WithCancel(d.ctx)
			if restless > 0 {
				ctx, cancel = context.WithTimeout(d.ctx, time.Duration(rng.Int64N(int64(restless))))
			}
			err := v.Watch(ctx, d.conns[servers[rng.IntN(len(servers))]])
			cancel()
			if errors.Is(err, history.ErrCancelled) {
				d.mu.Lock()
				d.cancelled = append(d.cancelled, err)
				d.mu.Unlock()
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// compactTo is what everybody has seen for a while.
func (d *drill) compactTo() int64 {
	rev := d.views[0].Reached()
	for _, v := range d.views {
		rev = min(rev, v.Reached())
	}
	return rev - compactBehind
}

// round loads the servers, strikes, and sees that everything goes on.
func (d *drill) round(n int, f fault) error {
	var conns []grpc.ClientConnInterface
	for _, c := range d.conns {
		conns = append(conns, d.through(c))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	load := &history.Load{
		Seed: d.seed, Round: n, Clients: clients, Roaming: roaming, Keys: keys, Pause: d.pause, Patience: patience,
		Stop: stop, Persistent: true, CompactTo: d.compactTo, Recorder: d.recorder,
	}
	go func() {
		defer close(stopped)
		load.Run(d.t.Context(), conns, -1, nil)
	}()
	time.Sleep(d.moment(200, 1500))
	began := time.Now()
	err := f.strike(d.t.Context(), d)
	struck := time.Since(began)
	if err == nil {
		err = d.goesOn()
	}
	goingOn := time.Since(began) - struck
	time.Sleep(d.moment(200, 1500))
	close(stop)
	<-stopped
	d.t.Logf("round %d: %s, for %v; everybody served %v later", n, f.name, struck.Round(time.Millisecond), goingOn.Round(time.Millisecond))
	if err != nil {
		return err
	}
	for range lulls {
		d.lull()
	}
	return d.settle()
}

// goesOn waits until each server has done a write, and sees that none has ended by itself.
func (d *drill) goesOn() error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(d.t.Context(), recovery)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, len(d.servers))
	for i, p := range d.servers {
		d.asked++
		value := fmt.Appendf(nil, "goes on %d", d.asked)
		all.Go(func() {
			_, errs[i] = d.ask(ctx, i, func(try int) proto.Message {
				return &pb.PutRequest{Key: []byte("k0"), Value: fmt.Appendf(value, ".%d", try)}
			})
			select {
			case <-p.Exited():
				errs[i] = errors.Join(errs[i], fmt.Errorf("server %d has ended by itself", i))
			default:
			}
		})
	}
	all.Wait()
	d.slowest = max(d.slowest, time.Since(began))
	return errors.Join(errs...)
}

// ask asks a server until it answers. Each try is recorded.
func (d *drill) ask(ctx context.Context, server int, request func(try int) proto.Message) (*history.Op, error) {
	for try := 0; ; try++ {
		op := &history.Op{Client: clients + server, Server: server, Request: request(try)}
		if d.recorder.Do(ctx, d.conns[server], op, patience) && op.Err == nil {
			return op, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("server %d does not serve: %v", server, op.Err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// settle reads everything by each server, and waits until the watchers have seen what was read.
func (d *drill) settle() error {
	ctx, cancel := context.WithTimeout(d.t.Context(), catchingUp)
	defer cancel()
	var rev int64
	for i := range d.servers {
		op, err := d.ask(ctx, i, func(int) proto.Message { return &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")} })
		if err != nil {
			return err
		}
		rev = max(rev, op.Revision())
	}
	var errs []error
	for _, v := range d.views {
		errs = append(errs, v.Await(ctx, rev))
	}
	return errors.Join(errs...)
}

// finish has watchers that begin late see the same, compares the servers' hashes, and ends the history.
func (d *drill) finish() error {
	for i := range d.servers {
		d.follow(everything(fmt.Sprintf("of server %d, late", i), d.compacted()+1), 0, i)
	}
	err := errors.Join(d.settle(), d.hashes())
	d.stop()
	d.watching.Wait()
	d.recorder.Served()
	return errors.Join(append(d.cancelled, err, d.check())...)
}

// check stops the servers and walks the log on Postgres for its invariants, as keelson check does.
func (d *drill) check() error {
	if d.database == nil {
		return nil
	}
	var errs []error
	for i, p := range d.servers {
		if err := p.Stop(); err != nil {
			errs = append(errs, fmt.Errorf("server %d: %w", i, err))
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.t.Context()), patience)
	defer cancel()
	log, err := postgres.Open(ctx, postgres.Options{URL: d.database.URL(database), ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer log.Close()
	sum, err := verify.Walk(ctx, log, verify.Options{Report: func(f verify.Finding) { errs = append(errs, errors.New(f.String())) }})
	d.t.Logf("the log, at the end: %+v", sum)
	return errors.Join(append(errs, err)...)
}

// compacted is the highest revision that may have been compacted.
func (d *drill) compacted() int64 {
	var rev int64
	for _, op := range d.recorder.Ops() {
		if r, ok := op.Request.(*pb.CompactionRequest); ok && (op.Err == nil || op.Unknown) {
			rev = max(rev, r.Revision)
		}
	}
	return rev
}

// hashes compares what the servers hold.
func (d *drill) hashes() error {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	var first *pb.HashKVResponse
	for i := range d.servers {
		h, err := pb.NewMaintenanceClient(d.conns[i]).HashKV(ctx, &pb.HashKVRequest{Revision: d.views[0].Reached()})
		if err != nil {
			return fmt.Errorf("the hash of server %d: %w", i, err)
		}
		if first == nil {
			first = h
		}
		if h.Hash != first.Hash || h.CompactRevision != first.CompactRevision || h.HashRevision != first.HashRevision {
			return fmt.Errorf("server %d has the hash %v, server 0 %v", i, h, first)
		}
	}
	return nil
}
