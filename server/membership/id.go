package membership

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ID is the id of a member or a cluster. It is never 0 but by a one in 2^64 chance.
type ID uint64

// String returns the id as etcd writes it, in hexadecimal.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// Founder is a member of the initial cluster.
type Founder struct {
	// Name is the member's name.
	Name string
	// PeerURLs are where it is reached by the others, in any order.
	PeerURLs []string
	// ID is the member's id, which Found computes.
	ID ID
}

// ErrSameID says that two members would have the same id, since they have the same peer URLs.
var ErrSameID = errors.New("two members of the initial cluster have the same id")

// MemberID is the id of a member of an initial cluster: the first eight bytes of the SHA-1 of its peer URLs,
// sorted and joined, and the cluster's token. The member's name has no part in it.
func MemberID(peerURLs []string, token string) ID {
	return memberID(peerURLs, token)
}

// AddedMemberID is the id of a member that was added to a running cluster at the given time: the second stands
// for the token, so that a member that was removed and added again is another one.
func AddedMemberID(peerURLs []string, at time.Time) ID {
	return memberID(peerURLs, strconv.FormatInt(at.Unix(), 10))
}

func memberID(peerURLs []string, salt string) ID {
	return first([]byte(strings.Join(slices.Sorted(slices.Values(peerURLs)), "") + salt))
}

// ClusterID is the id of a cluster: the first eight bytes of the SHA-1 of its founders' ids, sorted. It stays
// when members come and go.
func ClusterID(founders []ID) ID {
	var b []byte
	for _, id := range slices.Sorted(slices.Values(founders)) {
		b = binary.BigEndian.AppendUint64(b, uint64(id))
	}
	return first(b)
}

func first(b []byte) ID {
	sum := sha1.Sum(b)
	return ID(binary.BigEndian.Uint64(sum[:8]))
}

// Found gives the founders their ids, in a new list that is sorted by id, and the cluster its own.
func Found(founders []Founder, token string) ([]Founder, ID, error) {
	members := slices.Clone(founders)
	ids := make([]ID, len(members))
	for i, m := range members {
		members[i].ID = MemberID(m.PeerURLs, token)
		ids[i] = members[i].ID
	}
	slices.SortFunc(members, func(a, b Founder) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	for i := 1; i < len(members); i++ {
		if members[i].ID == members[i-1].ID {
			return nil, 0, ErrSameID
		}
	}
	return members, ClusterID(ids), nil
}
