package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

var (
	// ErrLagging says that a snapshot lacks what its cluster had acknowledged before it was asked for.
	ErrLagging = errors.New("the server lags behind its cluster")
	// ErrAlone says that a server cannot tell what its cluster has acknowledged.
	ErrAlone = errors.New("the server cannot tell whether it has all that its cluster has acknowledged")
)

// acknowledgedTime is what a server may take to tell. An etcd that has no leader says so sooner.
const acknowledgedTime = 30 * time.Second

// Acknowledged asks a server what its cluster has acknowledged: the revision of a linearizable read. What a server gives as its snapshot is only what it has itself, so one that is asked
// for on the same connection later has to reach this revision, or is refused as lagging. Calls go with ctx, and so with its token.
func Acknowledged(ctx context.Context, cc grpc.ClientConnInterface) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, acknowledgedTime)
	defer cancel()
	resp, err := pb.NewKVClient(cc).Range(ctx, &pb.RangeRequest{Key: []byte("/")}) // a key that also a kine can be asked for
	if err != nil {
		return 0, fmt.Errorf("%w (%s): name the endpoint of another member, or take what this one has with --lost-quorum", ErrAlone, status.Convert(err).Message())
	}
	return resp.GetHeader().GetRevision(), nil
}

// Reaches refuses a snapshot of a revision that does not reach what was acknowledged.
func Reaches(revision, acknowledged int64) error {
	if revision >= acknowledged {
		return nil
	}
	return fmt.Errorf("%w: its snapshot has revision %d, and %d was acknowledged before: name the endpoint of another member, or take what this one has with --lost-quorum", ErrLagging, revision, acknowledged)
}
