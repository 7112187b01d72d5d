package shared

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	"github.com/keelson-io/keelson/test/crash/linear"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

var (
	rounds    = flag.Int("rounds", 9, "rounds of a history of two servers, each with a fault; three servers, and etcd, get half of it")
	histories = flag.Int("histories", 1, "histories of each deployment, each on an empty database")
	seed      = flag.Uint64("seed", 0, "seed of everything random; 0 takes the time")
)

// enough is how many requests of each round must have been answered.
const enough = 100

// judging bounds the search for an order.
const judging = time.Minute

// TestShared breaks Keelsons on one Postgres database, and the database.
func TestShared(t *testing.T) {
	faults := append(serverFaults(), databaseFaults()...)
	s := theSeed()
	rand.New(rand.NewPCG(s, 1)).Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for i := range *histories {
		s := s + uint64(i)
		t.Run(fmt.Sprintf("two/%d", i), func(t *testing.T) { run(t, onPostgres(t, 2), s, next(&faults, *rounds)) })
		t.Run(fmt.Sprintf("three/%d", i), func(t *testing.T) { run(t, onPostgres(t, 3), s, next(&faults, (*rounds+1)/2)) })
	}
}

// TestEtcdCluster proves that the checks hold for etcd. It is not among what make test-shared runs: etcd has been seen to tell a watcher that came from another
// server of progress before it sent it an event that was due.
func TestEtcdCluster(t *testing.T) {
	faults := serverFaults()
	run(t, cluster(t, 3), theSeed(), next(&faults, (*rounds+1)/2))
}

// next takes so many faults from the front, and puts them at the end.
func next(faults *[]fault, n int) []fault {
	var taken []fault
	for range n {
		f := (*faults)[0]
		taken, *faults = append(taken, f), append((*faults)[1:], f)
	}
	return taken
}

// TestStaleReads proves that the checks find something: an etcd that reads from the past, since all reads are serializable.
func TestStaleReads(t *testing.T) {
	d := newDrill(t, cluster(t, 3), theSeed())
	d.pause = time.Millisecond
	d.through = func(c grpc.ClientConnInterface) grpc.ClientConnInterface { return stale{c} }
	d.record([]fault{{"nothing", func(context.Context, *drill) error { time.Sleep(3 * time.Second); return nil }}})
	inOrder, inAny := d.judge()
	if inOrder == nil || !errors.Is(inAny, linear.ErrIllegal) || d.verdict.Page == nil {
		t.Errorf("in the order of the revisions: %v; in any order: %v", inOrder, inAny)
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

// TestAlone proves that they hold for one server.
func TestAlone(t *testing.T) {
	for _, name := range []string{"etcd", "keelson"} {
		t.Run(name, func(t *testing.T) { run(t, alone(t, name), theSeed(), serverFaults()) })
	}
}

// run records a history, with a round for each fault, and judges it.
func run(t *testing.T, deployed *deployment, seed uint64, faults []fault) {
	d := newDrill(t, deployed, seed)
	d.record(faults)
	inOrder, inAny := d.judge()
	if inOrder != nil || inAny != nil {
		t.Errorf("-seed=%d: in the order of the revisions: %v\nin any order: %v", d.seed, inOrder, inAny)
	}
	if t.Failed() {
		d.keep()
	}
}

func theSeed() uint64 { return cmp.Or(*seed, uint64(time.Now().UnixNano())) }

// record records a history.
func (d *drill) record(faults []fault) {
	d.t.Helper()
	defer d.stop()
	d.t.Logf("-seed=%d", d.seed)
	for n, f := range faults {
		if err := d.round(n, f); err != nil {
			d.t.Errorf("-seed=%d, round %d, %s: %v", d.seed, n, f.name, err)
			break
		}
	}
	if err := errors.Join(d.finish(), d.counts(len(faults))); err != nil {
		d.t.Errorf("-seed=%d: %v", d.seed, err)
	}
}

// counts shows how much was answered, and complains of too little and of requests without an end.
func (d *drill) counts(rounds int) error {
	var ok, unknown, refused int
	var late []error
	for _, op := range d.recorder.Ops() {
		switch {
		case op.Unknown:
			unknown++
		case op.Err != nil:
			refused++
		default:
			ok++
		}
		if op.Late {
			late = append(late, fmt.Errorf("no end: %v", op))
		}
	}
	d.t.Logf("%d requests answered, %d without an answer, %d refused; %d events; everything went on after %v at most",
		ok, unknown, refused, len(d.views[0].Events()), d.slowest.Round(time.Millisecond))
	if ok < rounds*enough {
		late = append(late, fmt.Errorf("%d answers in %d rounds say little", ok, rounds))
	}
	return errors.Join(late...)
}

// judge checks the history, in the order that the revisions claim, and in any.
func (d *drill) judge() (inOrder, inAny error) {
	began := time.Now()
	// The one that has seen most of all who began at the beginning goes first: it tells what there was to see.
	views := slices.Clone(d.views)
	slices.SortStableFunc(views, func(a, b *history.View) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.Reached(), a.Reached()))
	})
	inOrder = history.Check(d.recorder.Ops(), views)
	took := time.Since(began)
	d.verdict, inAny = linear.Check(d.recorder.Ops(), views[0].Events(), judging)
	if v := d.verdict; v != nil {
		d.t.Logf("judged in %v, and by porcupine, with %d of %d requests perhaps done, in %v", took.Round(time.Millisecond), v.Open, v.Calls, v.Took.Round(time.Millisecond))
	}
	return inOrder, inAny
}

// keep writes a history where it stays after the test.
func (d *drill) keep() {
	dir, err := os.MkdirTemp("", "keelson-shared-")
	if err != nil {
		d.t.Error(err)
		return
	}
	var text []byte
	for _, op := range d.recorder.Ops() {
		text = fmt.Appendln(text, op)
	}
	for rev, e := range d.views[0].Events() {
		text = fmt.Appendln(text, rev, e)
	}
	errs := []error{os.WriteFile(filepath.Join(dir, "history.txt"), text, 0o600)}
	if v := d.verdict; v != nil && v.Page != nil {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "porcupine.html"), v.Page, 0o600))
	}
	for i, p := range d.servers {
		b, err := os.ReadFile(p.LogPath())
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, fmt.Sprintf("server%d.log", i)), b, 0o600))
	}
	d.t.Errorf("the history and the servers' logs are in %s (%v)", dir, errors.Join(errs...))
}
