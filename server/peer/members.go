package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/resolver"
)

// membersTimeout bounds the question to one URL.
const membersTimeout = 3 * time.Second

// Members asks an existing cluster for its id and its members, at one peer URL after the other until one
// answers. The answer is that member's own: it may not have heard of the last changes.
func Members(ctx context.Context, urls []string, config func() *tls.Config) (cluster uint64, members []*pb.Member, err error) {
	errs := []error{errors.New("no peer URL of the cluster has answered")}
	for _, text := range urls {
		resp, err := MembersAt(ctx, text, config)
		if err == nil {
			return resp.GetHeader().GetClusterId(), resp.GetMembers(), nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", text, err))
		if ctx.Err() != nil {
			break
		}
	}
	return 0, nil, errors.Join(errs...)
}

// MembersAt asks whoever is at a peer URL for the members of its cluster. The header says who it is.
func MembersAt(ctx context.Context, text string, config func() *tls.Config) (*pb.MemberListResponse, error) {
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
	return pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{})
}
