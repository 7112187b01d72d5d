package server

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/keelson-io/keelson/server/etcdv3"
)

func (n *Node) listen(ctx context.Context, api etcdv3.Options) error {
	api.Observe = none{}
	g := etcdv3.Register(api, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: n.opts.GRPCKeepAliveMinTime, PermitWithoutStream: false}))
	l, err := net.Listen("tcp", n.opts.ListenClientURLs[0].Host)
	if err != nil {
		return err
	}
	n.logger.Info("ready to serve client requests")
	go func() { <-ctx.Done(); g.Stop() }()
	return g.Serve(l)
}

type none struct{}

func (none) Started(kind, method, clientVersion string)                  {}
func (none) Handled(kind, method string, err error, took time.Duration) {}
func (none) Sent(method string, bytes int)                               {}
func (none) Received(method string, bytes int)                           {}
