package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// errBeside refuses to force a new cluster beside members of the old one.
var errBeside = errors.New("--force-new-cluster is for when no other member of the cluster runs: stop it first")

// besideTimeout bounds the question whether others run.
const besideTimeout = 3 * time.Second

// mayForce looks, before anything is changed, whether this member may be made the only one of its cluster: whether all others are gone.
func (c *cluster) mayForce(ctx context.Context) func(raft.Identity) error {
	return func(self raft.Identity) error {
		ix, err := c.recorded(ctx)
		if err != nil {
			return err
		}
		return c.refuseBeside(ctx, self, ix)
	}
}

// recorded reads from the database who the members are. The store is not there yet.
func (c *cluster) recorded(ctx context.Context) (*mvcc.Index, error) {
	b := mvcc.NewIndex().Edit(false)
	err := c.log.Scan(ctx, drivers.ScanOptions{}, func(entries []drivers.Entry) error {
		for i, e := range entries {
			if e.Kind != mvcc.KindMember && e.Kind != mvcc.KindJoined {
				continue
			}
			if err := b.Load(entries[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read who the members are: %w", err)
	}
	return b.Index(drivers.End{}), nil
}

// refuseBeside asks all others that there are or were, at the same time, whether they run, and gives an error that names those that do. Who is of another cluster does not count. Who is of
// this one does, whoever it is: one that has come in the place of another, or has founded the cluster anew from nothing and by the same flags.
func (c *cluster) refuseBeside(ctx context.Context, self raft.Identity, ix *mvcc.Index) error {
	ctx, cancel := context.WithTimeout(ctx, besideTimeout)
	defer cancel()
	var asking sync.WaitGroup
	var mu sync.Mutex
	found := map[string]bool{}
	for _, url := range c.urlsOfOthers(self.Member, ix) {
		asking.Go(func() {
			resp, err := peer.MembersAt(ctx, url, c.clientTLS)
			if err != nil {
				c.logger.Info("nobody answers where another member was", "url", url, "error", err)
				return
			}
			if h := resp.GetHeader(); h.GetClusterId() == self.Cluster {
				mu.Lock()
				defer mu.Unlock()
				found[fmt.Sprintf("member %s at %s", called(h.GetMemberId(), resp.GetMembers()), url)] = true
			}
		})
	}
	asking.Wait()
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", errBeside, strings.Join(slices.Sorted(maps.Keys(found)), ", "))
}

// called names a member.
func called(id uint64, members []*pb.Member) string {
	for _, m := range members {
		if m.ID == id && m.Name != "" {
			return fmt.Sprintf("%x (%s)", id, m.Name)
		}
	}
	return fmt.Sprintf("%x", id)
}

// urlsOfOthers gives all peer URLs of the others that the log has or had, those that the removal was broken off after included, or that the flags name if it has nobody.
func (c *cluster) urlsOfOthers(self uint64, ix *mvcc.Index) []string {
	all := map[uint64][]string{}
	if len(ix.Members()) == 0 {
		maps.Copy(all, c.addresses.urls)
	}
	for _, m := range slices.Concat(ix.Members(), ix.RemovedMembers()) {
		all[m.ID] = m.PeerURLs
	}
	delete(all, self)
	urls := slices.Concat(slices.Collect(maps.Values(all))...)
	slices.Sort(urls)
	return slices.Compact(urls)
}

// removedBy hears a member say that this one was removed. If the leader says it, or there is no connection to one for a while, that is so: leaders part from members that were
// removed. While there is one, who says it was forced to be a cluster of its own, beside one that lives.
func (c *cluster) removedBy(id uint64) {
	leader, _, leading, _ := c.log.Leader()
	led := leading || leader != 0 && !c.ActiveSince(leader).IsZero()
	c.mu.Lock()
	believed := !leading && leader == id || c.hearsay.believed(led, time.Now(), c.leaderPatience())
	news := !c.hearsay.heard[id]
	c.hearsay.heard[id] = true
	c.mu.Unlock()
	says := fmt.Sprintf("%x", id)
	switch {
	case believed:
		c.logger.Error("this member was removed from the cluster", "says-member", says)
		c.leave()
	case led && news:
		c.logger.Error("a member says that this one was removed, and the leader does not: was one of them started with --force-new-cluster while others ran? Then stop that one, remove it from the cluster (etcdctl member remove), empty its data directory and add it again", "says-member", says)
	}
}

// hearsay is what members that do not lead say about this one: that it was removed.
type hearsay struct {
	since time.Time       // when they began to say so without a leader's being there; zero: there is one
	last  time.Time       // when they said so last; if that is long ago they begin anew
	heard map[uint64]bool // who have said so
}

// believed tells whether it is believed, having been said again: when there was no leader for so long.
func (h *hearsay) believed(led bool, now time.Time, patience time.Duration) bool {
	switch {
	case led:
		h.since = time.Time{}
	case h.since.IsZero(), now.Sub(h.last) > patience:
		h.since = now
	}
	h.last = now
	return !led && now.Sub(h.since) >= patience
}

// leaderPatience is for how long a member hopes for a leader, as in etcd, but no shorter than until others have said several times what they have to say.
func (c *cluster) leaderPatience() time.Duration {
	return max(3*time.Duration(c.node.opts.ElectionTimeout)*time.Millisecond, 3*time.Second)
}
