package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
)

// membersTimeout bounds the question to one URL.
const membersTimeout = 3 * time.Second

// Known is what a member tells of its cluster.
type Known struct {
	// Cluster is its id, and Origin what it began with; 0: an empty log.
	Cluster, Origin uint64
	Members         []*pb.Member
}

// Members asks an existing cluster for its id and its members, at one peer URL after the other until one
// answers. The answer is that member's own: it may not have heard of the last changes.
func Members(ctx context.Context, urls []string, config func() *tls.Config) (*Known, error) {
	errs := []error{errors.New("no peer URL of the cluster has answered")}
	for _, text := range urls {
		var told metadata.MD
		resp, err := membersAt(ctx, text, config, grpc.Header(&told))
		if err == nil {
			k := &Known{Cluster: resp.GetHeader().GetClusterId(), Members: resp.GetMembers()}
			if k.Origin, err = readOrigin(told.Get(keyOrigin)); err == nil {
				return k, nil
			}
		}
		errs = append(errs, fmt.Errorf("%s: %w", text, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// MembersAt asks whoever is at a peer URL for the members of its cluster. The header says who it is.
func MembersAt(ctx context.Context, text string, config func() *tls.Config) (*pb.MemberListResponse, error) {
	return membersAt(ctx, text, config)
}

func membersAt(ctx context.Context, text string, config func() *tls.Config, opts ...grpc.CallOption) (*pb.MemberListResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, membersTimeout)
	defer cancel()
	address, err := parseURL(text)
	if err != nil {
		return nil, err
	}
	conn, err := dialOptions{tls: config, timeout: membersTimeout}.dial([]resolver.Address{address})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{}, opts...)
}
