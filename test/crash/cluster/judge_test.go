package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	"github.com/keelson-io/keelson/test/crash/linear"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// judging bounds the search for an order.
const judging = 2 * time.Minute

// finish fails the test if the history is not right.
func (d *drill) finish() {
	d.t.Helper()
	if err := d.judged(); err != nil {
		d.t.Errorf("-seed=%d: %v", d.seed, err)
	}
}

// judged compares the members, ends the history, and judges it.
func (d *drill) judged() error {
	d.t.Helper()
	began := time.Now()
	errs := []error{d.settle(), d.same(), d.listed(), d.alive(), d.until("the leases", func(ctx context.Context) error { return d.kept(ctx, d.up()[0]) })}
	d.stop()
	d.watching.Wait()
	d.recorder.Served()
	for _, err := range d.cancelled {
		d.t.Log("a watch that began anew:", err)
	}
	ops := d.recorder.Ops()
	if d.full {
		// As if they had never been sent: a change that one of them made all the same is then nobody's.
		ops = answeredElse(ops, rpctypes.ErrGRPCNoSpace)
	}
	errs = append(errs, d.counts(), goesBack(ops, len(d.members), d.began))
	settled := time.Since(began)
	// The one that has seen most goes first: it tells what there was to see.
	views := slices.Clone(d.views)
	slices.SortStableFunc(views, func(a, b *history.View) int { return cmp.Compare(b.Reached(), a.Reached()) })
	// Those on numbers of which nobody is left end before all was to be seen: theirs is a beginning.
	errs = append(errs, history.Check(ops, slices.DeleteFunc(views, func(v *history.View) bool { return v.Reached() < views[0].Reached() && d.left(v) })))
	// The same goes for who found no leader, but that a lease was not granted for that is a reason for other refusals.
	v, err := linear.Check(answeredElse(ops, rpctypes.ErrGRPCNoLeader), views[0].Events(), judging)
	if v != nil {
		d.t.Logf("settled in %v; judged, with %d of %d requests perhaps done, in %v", settled.Round(time.Millisecond), v.Open, v.Calls, (time.Since(began) - settled).Round(time.Millisecond))
		if !d.stale {
			d.page(v.Page)
		}
	}
	return errors.Join(append(errs, err)...)
}

// answeredElse leaves out the requests that were answered with an error.
func answeredElse(ops []*history.Op, with error) []*history.Op {
	return slices.DeleteFunc(slices.Clone(ops), func(op *history.Op) bool { return history.Is(op.Err, with) })
}

// left says whether a watcher's member is none any more.
func (d *drill) left(v *history.View) bool {
	n := slices.Index(d.views, v) / 2
	return n < len(d.members) && !d.members[n].up
}

// same compares what the members hold at one revision.
func (d *drill) same() error {
	var first *pb.HashKVResponse
	rev := d.views[2*d.up()[0]].Reached()
	for _, n := range d.up() {
		err := d.until(fmt.Sprintf("the hash of member %d", n), func(ctx context.Context) error {
			h, err := pb.NewMaintenanceClient(d.conn(n)).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
			if err != nil {
				return err
			}
			first = cmp.Or(first, h)
			return sameHash(first, h)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func sameHash(a, b *pb.HashKVResponse) error {
	if a.Hash != b.Hash || a.CompactRevision != b.CompactRevision || a.HashRevision != b.HashRevision {
		return fmt.Errorf("one member has the hash %v, another one %v", a, b)
	}
	return nil
}

// listed holds each member's list of members against those that run.
func (d *drill) listed() error {
	var want []string
	for _, n := range d.up() {
		want = append(want, fmt.Sprintf("%s %s %s", d.members[n].name, d.members[n].peerURL(), d.members[n].clientURL()))
	}
	return d.each(d.up(), func(n int) error {
		return d.until(fmt.Sprintf("the list of members at %d", n), func(ctx context.Context) error {
			r, err := pb.NewClusterClient(d.conn(n)).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			if err != nil {
				return err
			}
			return sameMembers(r.Members, want)
		})
	})
}

// sameMembers compares members with names and URLs of voters.
func sameMembers(members []*pb.Member, want []string) error {
	var got []string
	for _, m := range members {
		line := fmt.Sprintf("%s %s %s", m.Name, first(m.PeerURLs), first(m.ClientURLs))
		if m.IsLearner {
			line += " learner"
		}
		got = append(got, line)
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		return fmt.Errorf("members %q, want %q", got, want)
	}
	return nil
}

func first(all []string) string {
	if len(all) != 1 {
		return fmt.Sprint(all)
	}
	return all[0]
}

// counts shows how much was answered, and complains of too little and of requests without an end.
func (d *drill) counts() error {
	var ok, unknown, refused int
	var errs []error
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
			errs = append(errs, fmt.Errorf("no end: %v", op))
		}
	}
	d.t.Logf("%d requests answered, %d without an answer, %d refused; %d events; streams of watches broken, by member: %v",
		ok, unknown, refused, len(d.views[0].Events()), d.broken)
	if least := d.rounds * some; ok < least {
		errs = append(errs, fmt.Errorf("%d answers are fewer than %d", ok, least))
	}
	return errors.Join(errs...)
}

// goesBack complains of answers that show less than the same process has shown to somebody before: what a member has
// applied only grows. Answers, serializable ones too, are held against the state of their revision by history.Check.
// Requests that a start of the process meets are of nobody.
func goesBack(ops []*history.Op, members int, began [][]time.Duration) error {
	type life struct{ n, of int }
	lives := map[life][]*history.Op{}
	for _, op := range ops {
		n := op.Server % members
		at := func(moment time.Duration) int {
			i, _ := slices.BinarySearch(began[n], moment)
			return i
		}
		if op.Revision() != 0 && at(op.Begin) == at(op.End) {
			l := life{at(op.Begin), n}
			lives[l] = append(lives[l], op)
		}
	}
	var errs []error
	for _, ops := range lives {
		ends := slices.Clone(ops)
		slices.SortFunc(ends, func(a, b *history.Op) int { return cmp.Compare(a.End, b.End) })
		slices.SortFunc(ops, func(a, b *history.Op) int { return cmp.Compare(a.Begin, b.Begin) })
		var known *history.Op
		for _, op := range ops {
			for len(ends) > 0 && ends[0].End < op.Begin {
				if known == nil || ends[0].Revision() > known.Revision() {
					known = ends[0]
				}
				ends = ends[1:]
			}
			if known != nil && op.Revision() < known.Revision() {
				errs = append(errs, fmt.Errorf("revision %d, after the same process has shown revision %d:\n%v\n%v", op.Revision(), known.Revision(), known, op))
			}
		}
	}
	return errors.Join(errs[:min(len(errs), 10)]...)
}

// keep writes a history and the logs where they stay after the test.
func (d *drill) keep() {
	dir, err := os.MkdirTemp(os.Getenv(inside), "keelson-cluster-")
	if err != nil {
		d.t.Error(err)
		return
	}
	var text []byte
	for _, op := range d.recorder.Ops() {
		text = fmt.Appendln(text, op)
	}
	if len(d.views) > 0 {
		for i, e := range d.views[0].Events() {
			text = fmt.Appendln(text, i, e)
		}
	}
	errs := []error{os.WriteFile(filepath.Join(dir, "history.txt"), text, 0o600)}
	for _, m := range d.members {
		if b, err := os.ReadFile(m.logPath()); err == nil { // without, it was never started
			errs = append(errs, os.WriteFile(filepath.Join(dir, m.name+".log"), b, 0o600))
		}
	}
	d.t.Errorf("the history and the members' logs are in %s (%v)", dir, errors.Join(errs...))
}

// page keeps porcupine's page, if there is one.
func (d *drill) page(page []byte) {
	if page == nil {
		return
	}
	f, err := os.CreateTemp(os.Getenv(inside), "keelson-cluster-*.html")
	if err != nil {
		d.t.Error(err)
		return
	}
	_, err = f.Write(page)
	d.t.Errorf("porcupine's page is %s (%v)", f.Name(), errors.Join(err, f.Close()))
}
