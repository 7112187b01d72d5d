package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// checkpointSlack is what a restart may give back to a lease: the interval of
// checkpoints, a second for rounding up, and two for a disk that was slow.
const checkpointSlack = 8 * time.Second

// holder grants leases, puts keys on them, renews, revokes, and leaves some to expire.
func (l *load) holder(id int, rng *rand.Rand) func(context.Context) error {
	l.mu.Lock()
	var mine []*leaseState
	for _, le := range l.ledger.leases {
		// One whose keys did not get in before a kill is left to expire, too.
		if le.id%leaseHolders == int64(id) && !le.gone && !le.unsure && le.ttl > abandoned && len(l.ledger.leaseKeys(le.id)) > 0 {
			mine = append(mine, le)
		}
	}
	l.mu.Unlock()
	left := 2 // leases to leave alone
	return func(ctx context.Context) error {
		if len(mine) < leasesEach {
			le := &leaseState{id: rng.Int64N(1<<40)*leaseHolders + int64(id) + leaseHolders, ttl: time.Duration(20+rng.IntN(40)) * time.Second}
			if left > 0 {
				left--
				le.ttl = time.Duration(2+rng.IntN(5)) * time.Second
			} else {
				mine = append(mine, le)
			}
			return l.grant(ctx, le)
		}
		i := rng.IntN(len(mine))
		if rng.IntN(3) > 0 {
			return l.renew(ctx, mine[i])
		}
		le := mine[i]
		mine = append(mine[:i], mine[i+1:]...)
		return l.revoke(ctx, le)
	}
}

// abandoned is the longest TTL of the leases that are left to expire.
const abandoned = 10 * time.Second

// grant grants a lease and puts its keys.
func (l *load) grant(ctx context.Context, le *leaseState) error {
	le.renewed = time.Now()
	resp, err := etcdserverpb.NewLeaseClient(l.client.ActiveConnection()).LeaseGrant(ctx,
		&etcdserverpb.LeaseGrantRequest{ID: le.id, TTL: int64(le.ttl / time.Second)})
	le.left, le.at, le.unsure = le.ttl, time.Now(), err != nil
	l.mu.Lock()
	l.ledger.leases[le.id] = le
	l.mu.Unlock()
	if err != nil {
		return l.failed("grant", err)
	}
	if resp.ID != le.id || resp.TTL != int64(le.ttl/time.Second) {
		return fmt.Errorf("granted lease %x of %d s, asked for %x of %v", resp.ID, resp.TTL, le.id, le.ttl)
	}
	var effects []effect
	var ops []clientv3.Op
	for i := range keysPerLease {
		e := effect{key: leaseKey(le.id, i), value: fmt.Sprint("held by ", le.id), lease: le.id}
		effects = append(effects, e)
		ops = append(ops, clientv3.OpPut(e.key, e.value, clientv3.WithLease(clientv3.LeaseID(le.id))))
	}
	_, err = l.change(effects, func() (int64, map[string]*kv, error) {
		resp, err := l.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return 0, nil, err
		}
		return resp.Header.Revision, nil, nil
	})
	return l.tolerateExpiry(le, err)
}

// tolerateExpiry accepts that a lease was not found if it may have expired.
func (l *load) tolerateExpiry(le *leaseState, err error) error {
	if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return err
	}
	if early := time.Until(le.renewed.Add(le.ttl)); early > 0 {
		return fmt.Errorf("lease %x is not found, %v too early: %w", le.id, early, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	le.unsure = true
	return nil
}

func (l *load) renew(ctx context.Context, le *leaseState) error {
	sent := time.Now()
	resp, err := l.client.KeepAliveOnce(ctx, clientv3.LeaseID(le.id))
	l.mu.Lock()
	// An unanswered renewal may have happened.
	le.left, le.at = le.ttl, time.Now()
	if err == nil {
		le.renewed = sent
	}
	l.mu.Unlock()
	if err != nil {
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return l.tolerateExpiry(le, err)
		}
		return l.failed("renew", err)
	}
	if resp.TTL != int64(le.ttl/time.Second) {
		return fmt.Errorf("lease %x was renewed to %d s, want %v", le.id, resp.TTL, le.ttl)
	}
	return nil
}

func (l *load) revoke(ctx context.Context, le *leaseState) error {
	var effects []effect
	for i := range keysPerLease {
		effects = append(effects, effect{key: leaseKey(le.id, i), deleted: true})
	}
	l.mu.Lock()
	le.unsure = true
	l.mu.Unlock()
	_, err := l.change(effects, func() (int64, map[string]*kv, error) {
		resp, err := l.client.Revoke(ctx, clientv3.LeaseID(le.id))
		if err != nil {
			return 0, nil, err
		}
		return resp.Header.Revision, nil, nil
	})
	return l.tolerateExpiry(le, err)
}

// ended takes note that the server has been ended: leases do not run on while nobody serves.
func (l *ledger) ended(at time.Time) {
	for _, le := range l.leases {
		le.left = min(le.ttl, max(0, le.left-at.Sub(le.at))+checkpointSlack)
		le.at = time.Now().Add(time.Hour) // not running
	}
}

// restarted takes note that the server serves again.
func (l *ledger) restarted(at time.Time) {
	for _, le := range l.leases {
		le.at = at
	}
}

// checkLeases holds the server's leases against the ledger, and forgets those that are gone.
func (l *ledger) checkLeases(ctx context.Context, client *clientv3.Client) error {
	listed := map[int64]bool{}
	resp, err := client.Leases(ctx)
	if err != nil {
		return err
	}
	for _, le := range resp.Leases {
		listed[int64(le.ID)] = true
		if known := l.leases[int64(le.ID)]; known == nil || known.gone {
			err = errors.Join(err, fmt.Errorf("lease %x is there, but it was revoked, expired or never granted", le.ID))
		}
	}
	for id, le := range l.leases {
		switch {
		case le.gone || le.unsure && !listed[id] && len(l.leaseKeys(id)) == 0:
			delete(l.leases, id)
		case le.unsure && len(l.leaseKeys(id)) == 0:
		default:
			err = errors.Join(err, l.checkLease(ctx, client, le))
		}
	}
	return err
}

func (l *ledger) checkLease(ctx context.Context, client *clientv3.Client, le *leaseState) error {
	resp, err := client.TimeToLive(ctx, clientv3.LeaseID(le.id), clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	now := time.Now()
	if resp.TTL < 0 {
		if early := le.renewed.Add(le.ttl).Sub(now); early > 0 {
			return fmt.Errorf("lease %x is gone, %v too early", le.id, early)
		}
		return nil // its keys are still to be seen deleted
	}
	if got, want := len(resp.Keys), len(l.leaseKeys(le.id)); got != want {
		return fmt.Errorf("lease %x has %d keys, want %d", le.id, got, want)
	}
	left := time.Duration(resp.TTL) * time.Second
	if least := le.renewed.Add(le.ttl).Sub(now) - time.Second; left < least {
		return fmt.Errorf("lease %x has %v left, at least %v was promised", le.id, left, least)
	}
	if left > le.left {
		return fmt.Errorf("lease %x of %v has %v left, at most %v should be", le.id, le.ttl, left, le.left)
	}
	return nil
}
