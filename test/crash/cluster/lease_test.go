package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	// keptTTL is the TTL in seconds of leases that are kept alive.
	keptTTL = 15
	// keepEvery is the time between two renewals.
	keepEvery = 500 * time.Millisecond
)

// keeper keeps one lease alive, which has a key. Were it to expire, the key's end would be a revision that
// nobody asked for.
type keeper struct {
	lease   int64
	key     string
	mu      sync.Mutex
	renewed time.Time // when the last renewal that was answered was asked for
	over    error     // how it ended, if it did
}

// keepLease grants a lease by a member and keeps it, by that member if it can, else by others.
func (d *drill) keepLease(home int, members []int) {
	d.t.Helper()
	k := &keeper{lease: int64(home+1) << 56, key: fmt.Sprintf("kz%d", home)}
	err := d.until("a lease to keep", func(ctx context.Context) error {
		k.renewed = time.Now()
		err := d.asks(ctx, home, &pb.LeaseGrantRequest{ID: k.lease, TTL: keptTTL})
		if err != nil && !history.Is(err, rpctypes.ErrGRPCDuplicateKey) {
			return err
		}
		return d.asks(ctx, home, &pb.PutRequest{Key: []byte(k.key), Value: []byte("kept"), Lease: k.lease})
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.keepers = append(d.keepers, k)
	d.watching.Go(func() {
		for n := 0; d.ctx.Err() == nil && k.ended() == nil; n++ {
			if d.renew(k, members[(home+n)%len(members)]) == nil {
				n = -1 // home again
			}
			select {
			case <-time.After(keepEvery):
			case <-d.ctx.Done():
			}
		}
	})
}

func (k *keeper) ended() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.over
}

// renew renews a lease once. If it is not there and could not be expected to be, its end is recorded as asked for.
func (d *drill) renew(k *keeper, n int) error {
	ctx, cancel := context.WithTimeout(d.ctx, 2*time.Second)
	defer cancel()
	stream, err := pb.NewLeaseClient(d.conn(n)).LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	sent := time.Now()
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: k.lease}); err != nil {
		return err
	}
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.judge(sent, time.Now(), r.TTL)
	if errors.Is(k.over, errExpired) {
		op := &history.Op{Client: clients + n, Server: n, Request: &pb.LeaseRevokeRequest{ID: k.lease}}
		d.recorder.Do(d.ctx, unanswered{}, op, patience)
	}
	return nil
}

var (
	// errExpired means that nobody could have kept the lease.
	errExpired = errors.New("the lease was not renewed in time, and has expired")
	errEarly   = errors.New("the lease has expired before its time")
)

// judge takes note of an answer to a renewal.
func (k *keeper) judge(sent, answered time.Time, ttl int64) {
	left := k.renewed.Add(keptTTL * time.Second).Sub(answered)
	switch {
	case ttl == keptTTL:
		k.renewed = sent
	case ttl > 0:
		k.over = fmt.Errorf("lease %x was renewed to %d s instead of %d", k.lease, ttl, keptTTL)
	case left > 0:
		k.over = fmt.Errorf("lease %x, %v left: %w", k.lease, left, errEarly)
	default:
		k.over = fmt.Errorf("lease %x: %w", k.lease, errExpired)
	}
}

// kept holds leases against what was promised: all are there, unless nobody could have kept them.
func (d *drill) kept(ctx context.Context, n int) error {
	var errs []error
	for _, k := range d.keepers {
		over := k.ended()
		if errors.Is(over, errExpired) {
			d.t.Log(over)
			continue
		}
		r, err := pb.NewLeaseClient(d.conn(n)).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: k.lease, Keys: true})
		if err == nil && over == nil && (r.TTL <= 0 || r.GrantedTTL != keptTTL || len(r.Keys) != 1 || string(r.Keys[0]) != k.key) {
			err = fmt.Errorf("lease %x was kept alive, and is now %v", k.lease, r)
		}
		errs = append(errs, over, err)
	}
	return errors.Join(errs...)
}

// unanswered is a connection on which requests get lost.
type unanswered struct{ grpc.ClientConnInterface }

func (unanswered) Invoke(_ context.Context, _ string, _, _ any, opts ...grpc.CallOption) error {
	for _, o := range opts {
		if p, ok := o.(grpc.PeerCallOption); ok {
			*p.PeerAddr = peer.Peer{Addr: &net.TCPAddr{}}
		}
	}
	return status.Error(codes.Unavailable, "lost")
}
