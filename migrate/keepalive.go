package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
)

const (
	// renewals is how often it is looked which leases are due: a third of the shortest TTL, one second, is longer.
	renewals = 100 * time.Millisecond
	// renewedAtOnce is how many keep-alives are sent before their answers are read: few enough for neither side to wait for the other.
	renewedAtOnce = 100
)

// keeper keeps leases of a running server alive from their grant to the end of the proof, as a migration may take longer than their TTLs. It has the
// connection, and a goroutine with one stream, until end.
type keeper struct {
	conn   *conn
	cancel context.CancelFunc
	group  errgroup.Group
	stream pb.Lease_LeaseKeepAliveClient // of the goroutine, as is what follows; nil if there is none
	ended  error                         // the first lease that was gone

	mu     sync.Mutex
	leases map[int64]keptLease
}

type keptLease struct {
	ttl int64
	due time.Time
}

func keepAlive(ctx context.Context, conn *conn) *keeper {
	k := &keeper{conn: conn, leases: map[int64]keptLease{}}
	ctx, k.cancel = context.WithCancel(ctx)
	k.group.Go(func() error { return k.run(ctx) })
	return k
}

// end ends the stream and the connection. Its error says which lease was gone, and why leases could not be kept alive in the end: it matters if something is amiss.
func (k *keeper) end() error {
	k.cancel()
	return errors.Join(k.group.Wait(), k.conn.Close())
}

// add keeps a lease alive from now on.
func (k *keeper) add(id, ttl int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leases[id] = keptLease{ttl: ttl} // due at once: of one that was there little may be left
}

func (k *keeper) run(ctx context.Context) error {
	ticker := time.NewTicker(renewals)
	defer ticker.Stop()
	var failed error
	for {
		select {
		case <-ctx.Done():
			return errors.Join(k.ended, failed)
		case <-ticker.C:
		}
		if err := k.renew(ctx); ctx.Err() == nil {
			failed = err // until it is tried again
		}
	}
}

// due gives the leases that are to be kept alive now.
func (k *keeper) due() (ids []int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for id, l := range k.leases {
		if !l.due.After(now) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (k *keeper) renew(ctx context.Context) (err error) {
	for ids := range slices.Chunk(k.due(), renewedAtOnce) {
		if k.stream == nil {
			k.stream, err = pb.NewLeaseClient(k.conn).LeaseKeepAlive(k.conn.with(ctx))
		}
		if err == nil {
			err = k.exchange(ids)
		}
		if err != nil {
			k.stream = nil // which an error ends
			return fmt.Errorf("keep leases alive: %w", err)
		}
	}
	return nil
}

// exchange has the server renew leases.
func (k *keeper) exchange(ids []int64) error {
	sent := time.Now()
	for _, id := range ids {
		err := k.stream.Send(&pb.LeaseKeepAliveRequest{ID: id})
		if errors.Is(err, io.EOF) {
			break // the reason is what is received
		}
		if err != nil {
			return err
		}
	}
	for range ids {
		resp, err := k.stream.Recv()
		if err != nil {
			return err
		}
		k.renewed(resp, sent)
	}
	return nil
}

func (k *keeper) renewed(resp *pb.LeaseKeepAliveResponse, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.leases[resp.ID]; resp.TTL > 0 {
		l.due = at.Add(time.Duration(l.ttl) * time.Second / 3)
		k.leases[resp.ID] = l
		return
	}
	delete(k.leases, resp.ID)
	if k.ended == nil {
		k.ended = fmt.Errorf("lease %x was gone when it was to be kept alive", resp.ID)
	}
}
