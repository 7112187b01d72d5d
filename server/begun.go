package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers/raft"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server/peer"
	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// errBegun says that a member without data had some: it has taken part in its cluster, and has forgotten what it has acknowledged and for
// whom it has voted. As the same member it must not come back.
var errBegun = errors.New("has already been bootstrapped, and there is no data of it here: remove it from the cluster (etcdctl member remove), add it again and start it with --initial-cluster-state=existing")

// begun refuses to be a member that has told the others where its clients reach it, which is the first thing that one does.
func begun(m *pb.Member) error {
	if len(m.ClientURLs) > 0 {
		return fmt.Errorf("member %x %w", m.ID, errBegun)
	}
	return nil
}

// hasBegun tells whether a member has told the others where its clients reach it.
func (c *cluster) hasBegun(id uint64) bool {
	m := c.node.store.Index().MemberByID(id)
	return m != nil && begun(m.Member) != nil
}

// begunBefore hears a member say that this one, whose Raft log has no entry, had some. It was not reached when this one has asked, and has taken none of its words since.
func (c *cluster) begunBefore(by uint64) {
	c.end(fmt.Errorf("member %x %w (as member %x says)", c.member(), errBegun, by))
}

// errNoRaft says that a member of a cluster has its database and not its Raft log. It must not take itself for one that is alone.
var errNoRaft = errors.New("the database is of a member of a cluster, and its Raft log is not there: was --wal-dir given before? If the log is lost, remove this member from the cluster, empty its data directory and add it again")

// errLostRaft says the same of the only member of a cluster: nobody else has what it had acknowledged last.
var errLostRaft = errors.New("the database is of a server with a Raft log, and that is not there: was --wal-dir given before? What was acknowledged last may be in it alone. If it is lost, start once with --force-new-cluster, which goes on from what the database has")

// lacksRaft refuses a database without a Raft log of which something tells that there was one: the members, or its own last batch.
func (c *cluster) lacksRaft(ix *mvcc.Index) error {
	err := errNoRaft
	switch members := ix.Members(); {
	case len(members) > 1:
	case !c.log.HadRaftLog():
		return nil
	case len(members) == 1 && c.named(members[0]):
		err = errLostRaft
	}
	return fmt.Errorf("%w (looked for in %s)", err, RaftDir(c.node.opts))
}

// OfRaft tells whether a log is the database of a server with a Raft log, wherever that is: by its members, or by its own last batch.
func OfRaft(log Datastore, ix *mvcc.Index) bool {
	file, ok := log.(*sqlite.Log)
	if !ok {
		return false
	}
	_, mark := file.LastMark()
	return mark != sqlite.Mark{} || len(ix.Members()) > 1
}

// forceAnew makes the member that has lost its Raft log the only one of its cluster. It is the one with its name, also if there is one alone: that may be
// another one, from which this one was removed. If it cannot be told which it is, why is the error.
func (c *cluster) forceAnew(ctx context.Context, ix *mvcc.Index, why error) error {
	members := slices.DeleteFunc(slices.Clone(ix.Members()), func(m *mvcc.Member) bool { return !c.named(m) })
	if len(members) != 1 {
		return why
	}
	self := raft.Identity{Cluster: members[0].ClusterID, Member: members[0].ID}
	if err := c.refuseBeside(ctx, self, ix); err != nil {
		return err
	}
	return c.log.ForceAnew(self)
}

// named tells whether a member has this server's name.
func (c *cluster) named(m *mvcc.Member) bool { return m.Name == c.node.opts.Name }

// unknownAs asks the others whether they know this member as one that was there before, if by its own Raft log it was not: it was restored. So a founder has asked before it had one.
func (c *cluster) unknownAs(ctx context.Context, self uint64, ix *mvcc.Index) error {
	if !c.log.Unbegun() {
		return nil
	}
	urls := map[uint64][]string{}
	for _, m := range ix.Members() {
		urls[m.ID] = m.PeerURLs
	}
	return c.unknown(ctx, self, urls)
}

// unknown asks all others of some members whether they know the founder that this server would be as one that was there before. In a new
// cluster nobody answers, or who does knows of nobody.
func (c *cluster) unknown(ctx context.Context, self uint64, members map[uint64][]string) error {
	var asking sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for id, urls := range members {
		if id == self {
			continue
		}
		asking.Go(func() {
			known, err := peer.Members(ctx, urls, c.clientTLS)
			if err != nil {
				return
			}
			i := slices.IndexFunc(known.Members, func(m *pb.Member) bool { return m.ID == self })
			if i < 0 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, begun(known.Members[i]))
		})
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
