package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/postgres"
	"github.com/keelson-io/keelson/drivers/sqlite"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/sqllog/roster"
)

// Datastore is an open log, with what else a server needs of its database.
type Datastore interface {
	drivers.Log
	drivers.Sizer
	drivers.Defragmenter
	io.Closer
	// Run does the log's work in the background until ctx ends.
	Run(ctx context.Context) error
}

// errEqual says that options name others where servers find each other by themselves.
var errEqual = errors.New("servers that share a --datastore find each other there")

// refuseOthers refuses an initial cluster of several members for a server that shares a datastore: it would seem to obey.
func refuseOthers(o config.Options) error {
	switch others, err := o.Others(); {
	case err != nil:
		return err
	case len(others) > 0 && o.Datastore != "":
		return fmt.Errorf("--initial-cluster names other members (%s): %w: name this member only, or none", strings.Join(others, ", "), errEqual)
	}
	return nil
}

// OpenDatastore opens the log that options name, without the other members of a cluster. With readOnly it is opened for inspection, and nothing is made or changed.
func OpenDatastore(ctx context.Context, o config.Options, logger *slog.Logger, readOnly bool) (Datastore, error) {
	if o.Datastore != "" {
		return postgres.Open(ctx, postgres.Options{
			URL: o.Datastore, Name: o.DatastoreName, PasswordFile: o.DatastorePasswordFile, Logger: logger, ReadOnly: readOnly,
		})
	}
	path, err := DatabasePath(o.DataDir)
	if err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, sqlite.Options{Path: path, Logger: logger, ReadOnly: readOnly})
}

// share makes the roster of the servers on a log that others may share.
func (n *Node) share() {
	shared, ok := n.log.(drivers.Shared)
	if !ok {
		return
	}
	n.roster = roster.New(roster.Options{
		Log: shared, Logger: n.logger,
		Position:     func() int64 { return n.store.Index().End.Position },
		BecameKeeper: func() { n.compactor.Compacted() },
	})
}

// join makes this server one of those that share the log. The first of all founds the cluster; each has its own member id, made of its
// names: the same as long as those stay, and another one than every other server's.
func (n *Node) join(ctx context.Context, self *pb.Member) (*mvcc.Member, error) {
	// Logs are told apart by chance, not by flags: hundreds of them may have been started with the same.
	founder := &mvcc.Member{ClusterID: rand.Uint64(), Member: &pb.Member{ID: rand.Uint64(), Name: self.Name, PeerURLs: self.PeerURLs}}
	resp, err := n.store.Do(ctx, &mvcc.Founding{Member: founder}, 0)
	if err != nil {
		return nil, err
	}
	cluster := resp.(*mvcc.Member).ClusterID
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find this machine's name: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %q %q", cluster, host, self.Name, self.ClientURLs)
	self.ID = binary.BigEndian.Uint64(h.Sum(nil))
	info, err := proto.Marshal(self)
	if err != nil {
		return nil, err
	}
	return &mvcc.Member{ClusterID: cluster, Member: self}, n.roster.Join(ctx, self.ID, info)
}

// updateMember changes the peer URLs that MemberList shows of this server. Nobody connects to them.
func (n *Node) updateMember(ctx context.Context, peerURLs []string) error {
	self := n.roster.Self()
	m := new(pb.Member)
	if err := proto.Unmarshal(self.Info, m); err != nil {
		return err
	}
	m.PeerURLs = peerURLs
	info, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return n.roster.Join(ctx, self.ID, info)
}

// keeper tells the lessor whether this server comes first, nil if it is alone.
func (n *Node) keeper() func() bool {
	if n.roster == nil {
		return nil
	}
	return n.roster.Keeper
}

func (n *Node) peers() sqllog.Peers {
	if n.roster == nil {
		return nil
	}
	return n.roster
}

// members gives those of the cluster that are there now, as MemberList shows them.
func (n *Node) members() []*pb.Member {
	if n.roster == nil {
		return n.cluster.Members()
	}
	var members []*pb.Member
	for _, s := range n.roster.Servers() {
		m := new(pb.Member)
		if err := proto.Unmarshal(s.Info, m); err == nil && m.ID == s.ID {
			members = append(members, m)
		}
	}
	return members
}

// leader gives the member that Status names as leader: the keeper, where servers are equal.
func (n *Node) leader() uint64 {
	if n.roster == nil {
		leader, leading, _ := n.cluster.leader()
		if leading {
			return n.member.Load()
		}
		return leader
	}
	if s := n.roster.Servers(); len(s) > 0 {
		return s[0].ID
	}
	return 0
}
