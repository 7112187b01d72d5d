package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// quiet is a load, and its end: all members have all of it.
func (d *drill) quiet() {
	d.t.Helper()
	if err := d.during(func() error { return d.more(d.up()...) }); err != nil {
		d.t.Fatal(err)
	}
}

// TestQuorumLost kills two of three: what needs no majority goes on, all else fails as etcd has it, until one is back.
func TestQuorumLost(t *testing.T) {
	d := newDrill(t, 3)
	d.form(3)
	d.quiet()
	leader, err := d.anyLeader()
	if err != nil {
		t.Fatal(err)
	}
	lasts := []int{leader}
	if *long {
		lasts = append(lasts, d.pick(d.others(leader)))
	}
	for _, last := range lasts {
		rest := d.others(last)
		if err := d.each(rest, func(n int) error { return d.members[n].kill() }); err != nil {
			t.Fatal(err)
		}
		if err := d.alone(last); err != nil {
			t.Fatalf("-seed=%d: member %d alone: %v\n%s", d.seed, last, err, d.tails())
		}
		if err := errors.Join(d.begin(rest[0]), d.serve(last, rest[0]), d.healthy(last, http.StatusOK, "/health", "/readyz", "/livez")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.begin(rest[1]), d.serve(0, 1, 2)); err != nil {
			t.Fatal(err)
		}
		d.quiet()
	}
	d.finish()
}

// alone asks a member without a majority for everything.
func (d *drill) alone(n int) error {
	err := d.healthy(n, http.StatusServiceUnavailable, "/health", "/readyz")
	err = errors.Join(err, d.healthy(n, http.StatusOK, "/health?serializable=true", "/livez"))
	past := everything()
	past.Serializable = true
	requests := []proto.Message{past, everything(), d.value("k0"), past, &pb.LeaseGrantRequest{ID: 99, TTL: 3600}}
	var numbers []int
	for i := range requests {
		numbers = append(numbers, i)
	}
	err = errors.Join(err, d.each(numbers, func(i int) error {
		op := d.once(d.t.Context(), n, requests[i])
		switch {
		case op == nil:
			return errors.New("no connection")
		case op.Serializable():
			return op.Err
		case op.Late || !isUnavailable(op.Err):
			return fmt.Errorf("without a majority: %v: %w", op, op.Err)
		}
		return nil
	}))
	return errors.Join(err, d.leaderless(n))
}

// isUnavailable says whether an error is one of those that etcd has for requests that need a majority. A write that found
// no leader to go to has the server's own deadline, after some seconds.
func isUnavailable(err error) bool {
	return status.Code(err) == codes.DeadlineExceeded || slices.ContainsFunc([]error{
		rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCTimeoutDueToLeaderFail, rpctypes.ErrGRPCTimeoutDueToConnectionLost,
		rpctypes.ErrGRPCTimeoutWaitAppliedIndex, rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCLeaderChanged,
	}, func(known error) bool { return history.Is(err, known) })
}

// leaderless sees that a watch that wants a leader is ended.
func (d *drill) leaderless(n int) error {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(d.t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader), patience)
	defer cancel()
	stream, err := pb.NewWatchClient(d.conn(n)).Watch(ctx)
	if err != nil {
		return err
	}
	create := &pb.WatchCreateRequest{Key: []byte("k")}
	_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}) // Recv says why
	for err == nil {
		_, err = stream.Recv()
	}
	if !history.Is(err, rpctypes.ErrGRPCNoLeader) {
		return fmt.Errorf("a watch that wants a leader ended with: %w", err)
	}
	return nil
}

// healthy waits until a member answers so on some paths.
func (d *drill) healthy(n, code int, paths ...string) error {
	for _, path := range paths {
		err := d.until(fmt.Sprintf("status %d of %s at member %d", code, path, n), func(ctx context.Context) error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.members[n].clientURL()+path, nil)
			if err != nil {
				return err
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}}
			r, err := client.Do(request)
			if err != nil {
				return err
			}
			defer r.Body.Close()
			text, err := io.ReadAll(r.Body)
			if err == nil && r.StatusCode != code {
				err = fmt.Errorf("status %d: %s", r.StatusCode, text)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// TestForceNewCluster loses two of three for good: the data of the third becomes a cluster of one, which grows again.
func TestForceNewCluster(t *testing.T) {
	d := newDrill(t, 3)
	d.form(3)
	d.quiet() // the third has all that was acknowledged
	last := d.pick(d.up())
	rest := d.others(last)
	for _, n := range rest {
		d.admit(false, n)
		if err := errors.Join(d.members[n].kill(), d.members[n].forget()); err != nil {
			t.Fatal(err)
		}
	}
	m := d.members[last]
	if err := errors.Join(m.stop(), d.begin(last, "--force-new-cluster"), d.serve(last), d.listed()); err != nil {
		t.Fatal(err)
	}
	d.quiet()
	if err := errors.Join(m.kill(), d.begin(last), d.serve(last), d.listed()); err != nil {
		t.Fatal(err)
	}
	for i, n := range rest {
		d.step(fmt.Sprintf("member %d is added", n), func() error { return d.join(n, last, i == 0) })
	}
	d.finish()
}
