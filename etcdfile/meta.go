package etcdfile

import (
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// StorageVersion is the storage version of a file whose reader is not known. etcd 3.6 does not take a newer one, and 3.7
// takes it and moves it on when its whole cluster is of 3.7. Meta.ClusterVersion should be this one too, or empty: an
// etcd does not start on the file of a newer cluster.
const StorageVersion = "3.6.0"

// Meta is what a file has beside its rows.
type Meta struct {
	// Compact is the compact revision, or -1 if there was no compaction. All that it freed has no row.
	Compact int64
	// Revision is the current revision, as etcd finds it at a start: that of the last row or Compact, whichever is greater, and 1
	// of an empty store. A Writer takes it, or 0.
	Revision int64

	// Index is the consistent index: the index in Raft's log of the last entry that the file has.
	// Zero means that none is known, as in an etcd that has done nothing yet.
	Index uint64
	// Term is the term of that entry; 0 in a file of 3.4.
	Term uint64
	// ConfState is a raftpb.ConfState in JSON; nil in a file of 3.4.
	ConfState []byte
	// Version is the storage version, as 3.6.0; empty in a file of 3.5 and before.
	Version string
	// ClusterVersion is the version that all members have; empty in a file of 3.4. That a downgrade goes on is not taken over.
	ClusterVersion string

	// Members are the cluster's, by their ids, and Removed the ids that may not come back. A restore drops them all.
	Members []Member
	Removed []uint64
	Leases  []Lease // by their ids
	Alarms  []*pb.AlarmMember
	Auth    Auth
}

// Member is a member of the cluster, as etcd writes it in JSON.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Lease is a lease. Which keys it has is in their rows.
type Lease struct {
	ID int64
	// TTL is what was granted, in seconds.
	TTL int64
	// Remaining is what the last checkpoint has left of it, in seconds, or 0 if there was no checkpoint.
	Remaining int64
}

// Auth is what etcd has of authentication.
type Auth struct {
	Enabled bool
	// Revision rises with each change; etcd begins with 1, and 0 means that the file has none.
	Revision uint64
	Users    []*authpb.User // by their names
	Roles    []*authpb.Role // by their names
}
