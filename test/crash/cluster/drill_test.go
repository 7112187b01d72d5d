package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// perMember is how many clients keep to each member, whatever happens to it.
	perMember = 2
	// roaming is how many clients change members with every request.
	roaming = 2
	// clients is above the numbers of all of them.
	clients = 100
	keys    = 6
	// pause bounds the time between two requests of a client, so that a history stays one that can be judged.
	pause = 20 * time.Millisecond
	// patience bounds the wait for the end of a request, whatever the fault.
	patience = 40 * time.Second
	// bound bounds every wait for a condition.
	bound = time.Minute
	// some is how many revisions show that a load goes on.
	some = 25
	// compactBehind is how far behind all watchers revisions are compacted.
	compactBehind = 50
)

// drill is one history of one cluster. Members are numbered; a number keeps its address, whoever is there.
type drill struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand // of the goroutine of the test
	net      *network
	members  []*member
	recorder *history.Recorder
	links    []*link // several for each member, in turns
	asked    atomic.Int64
	began    [][]time.Duration // when each member's processes were started
	rounds   int
	stale    bool // loyal clients get answers from the past
	full     bool // a disk is full, and requests are refused for that
	views    []*history.View
	watching sync.WaitGroup
	ctx      context.Context // of watchers and keepers
	stop     context.CancelFunc

	mu        sync.Mutex
	broken    []int // how many streams of watches broke, by member
	breaks    []error
	cancelled []error
	keepers   []*keeper
}

// link is a connection that can be closed to the load. A request that finds it closed was never sent.
type link struct {
	*grpc.ClientConn
	closed atomic.Bool
}

func (l *link) Invoke(ctx context.Context, method string, request, response any, opts ...grpc.CallOption) error {
	if l.closed.Load() {
		return status.Error(codes.Unavailable, "the member takes no part")
	}
	return l.ClientConn.Invoke(ctx, method, request, response, opts...)
}

// newDrill prepares so many members, and starts none.
func newDrill(t *testing.T, members int) *drill {
	t.Helper()
	s := theSeed()
	t.Logf("-seed=%d", s)
	d := &drill{t: t, seed: s, rng: rand.New(rand.NewPCG(s, 0)), recorder: history.NewRecorder(), broken: make([]int, members), began: make([][]time.Duration, members)}
	dirs := make([]string, members) // made first, to be removed last
	for i := range dirs {
		dirs[i] = t.TempDir()
	}
	d.net = newNetwork(t)
	d.ctx, d.stop = context.WithCancel(t.Context())
	t.Cleanup(d.close)
	for i, dir := range dirs {
		h, err := d.net.add()
		if err != nil {
			t.Fatal(err)
		}
		d.members = append(d.members, &member{name: fmt.Sprintf("m%d", i), host: h, binary: binary(t, *serverName), dir: dir})
	}
	for i := range 2 * members {
		d.links = append(d.links, d.dial(i%members))
		d.links[i].closed.Store(true)
	}
	return d
}

// close ends everything, and keeps what there is to look at after a failure.
func (d *drill) close() {
	d.stop()
	d.watching.Wait()
	for _, m := range d.members {
		if err := errors.Join(m.kill(), m.release()); err != nil {
			d.t.Error(err)
		}
	}
	for _, l := range d.links {
		_ = l.Close()
	}
	if d.t.Failed() {
		d.keep()
	}
}

// dial connects to a member, again and again when it is gone. A request fails at once while there is no connection.
func (d *drill) dial(n int) *link {
	connect := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}
	conn, err := grpc.NewClient("passthrough:"+d.members[n].host.address()+":2379", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(connect))
	if err != nil {
		d.t.Fatal(err)
	}
	return &link{ClientConn: conn}
}

// conn is the connection that is open whether or not a member takes part in the load.
func (d *drill) conn(n int) *grpc.ClientConn { return d.links[n].ClientConn }

// admit opens or closes members to the load.
func (d *drill) admit(open bool, members ...int) {
	for _, n := range members {
		for i := n; i < len(d.links); i += len(d.members) {
			d.links[i].closed.Store(!open)
		}
	}
}

// begin starts a member's process.
func (d *drill) begin(n int, flags ...string) error {
	d.began[n] = append(d.began[n], d.recorder.Now())
	return d.members[n].start(flags...)
}

// form starts the first so many members as a new cluster, opens them to the load, and begins to watch on all numbers.
func (d *drill) form(n int) {
	d.t.Helper()
	for _, m := range d.members[:n] {
		m.configure("new", d.members[:n])
	}
	d.formed(n)
}

// formed does so with members that are configured.
func (d *drill) formed(n int) {
	d.t.Helper()
	var all []int
	for i := range n {
		if err := d.begin(i); err != nil {
			d.t.Fatal(err)
		}
		all = append(all, i)
	}
	if err := d.serve(all...); err != nil {
		d.t.Fatal(err)
	}
	d.admit(true, all...)
	for i := range d.members {
		d.follow(fmt.Sprintf("of %d", i), 0, i)
		d.follow(fmt.Sprintf("of %d, that begins anew at random", i), time.Second, i)
	}
	d.follow("that changes members", time.Second, all...)
	for _, n := range all {
		d.keepLease(n, all)
	}
}

// follow lets a watcher see everything, by one of the members at a time. It begins anew when its stream
// breaks, and with some time given, at random within it.
func (d *drill) follow(name string, restless time.Duration, members ...int) {
	v := history.NewViewFrom(name, []byte("k"), []byte("l"), 1)
	d.views = append(d.views, v)
	rng := rand.New(rand.NewPCG(d.seed, uint64(len(d.views))))
	d.watching.Go(func() {
		for d.ctx.Err() == nil {
			ctx, cancel := context.WithCancel(d.ctx)
			if restless > 0 { // not by a deadline, which the server would get to know
				time.AfterFunc(time.Duration(rng.Int64N(int64(restless))), cancel)
			}
			n := members[rng.IntN(len(members))]
			err := v.Watch(ctx, d.conn(n))
			own := ctx.Err() != nil
			cancel()
			d.mu.Lock()
			if !own {
				d.broken[n]++
				d.breaks = append(d.breaks, fmt.Errorf("a watch %s: %w", name, err))
			}
			if errors.Is(err, history.ErrCancelled) {
				d.cancelled = append(d.cancelled, err)
			}
			d.mu.Unlock()
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// reached is what everybody has seen.
func (d *drill) reached() int64 {
	rev := d.views[0].Reached()
	for _, v := range d.views {
		rev = min(rev, v.Reached())
	}
	return rev
}

// load makes clients ask until the function that it returns is called, which waits for what is under way.
func (d *drill) load() (stop func()) {
	var conns []grpc.ClientConnInterface
	for _, l := range d.links {
		conns = append(conns, l)
	}
	stopping, stopped := make(chan struct{}), make(chan struct{})
	l := &history.Load{
		Seed: d.seed, Round: d.rounds, Clients: roaming + perMember*len(d.members), Roaming: roaming, Pinned: true,
		Keys: keys, Pause: pause, Patience: patience, Stop: stopping, Persistent: true, CompactTo: func() int64 { return d.reached() - compactBehind }, Recorder: d.recorder,
	}
	d.rounds++
	go func() {
		defer close(stopped)
		l.Run(d.ctx, conns, -1, nil)
	}()
	return sync.OnceFunc(func() {
		close(stopping)
		<-stopped
	})
}

// during loads the cluster, lets something happen meanwhile, and sees that everything goes on.
func (d *drill) during(happens func() error) error {
	stop := d.load()
	defer stop()
	var took []string
	began := time.Now()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"load", func() error { return d.more(d.up()...) }},
		{"fault", happens},
		{"heal", d.net.heal},
		{"serve", func() error { return errors.Join(d.serve(d.up()...), d.alive()) }},
		{"load", func() error { return d.more(d.up()...) }},
		{"end of requests", func() error { stop(); return nil }},
		{"settle", d.settle},
	} {
		from := time.Now()
		if err := step.do(); err != nil {
			return err
		}
		took = append(took, fmt.Sprintf("%s %.1f s", step.name, time.Since(from).Seconds()))
	}
	d.t.Logf("round %d, %.1f s: %s", d.rounds, time.Since(began).Seconds(), strings.Join(took, ", "))
	return nil
}

// up are the members whose processes have to run.
func (d *drill) up() []int {
	var up []int
	for i, m := range d.members {
		if m.up {
			up = append(up, i)
		}
	}
	return up
}

// others are the members that have to run, without some.
func (d *drill) others(but ...int) []int { return without(d.up(), but...) }

func without(members []int, but ...int) []int {
	return slices.DeleteFunc(slices.Clone(members), func(n int) bool { return slices.Contains(but, n) })
}

// alive complains of members that have ended by themselves.
func (d *drill) alive() error {
	var errs []error
	for _, m := range d.members {
		errs = append(errs, m.lives())
	}
	return errors.Join(errs...)
}

// pick chooses one of some members.
func (d *drill) pick(members []int) int { return members[d.rng.IntN(len(members))] }

// value is a put of a value that nobody else puts.
func (d *drill) value(key string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: fmt.Appendf(nil, "asked %d", d.asked.Add(1))}
}

// once asks a member, and records what came of it. It returns nil if the request was never sent.
func (d *drill) once(ctx context.Context, n int, request proto.Message) *history.Op {
	op := &history.Op{Client: clients + n, Server: n, Request: request}
	if !d.recorder.Do(ctx, d.conn(n), op, patience) {
		return nil
	}
	return op
}
