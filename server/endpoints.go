package server

import (
	"context"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/etcdv3"
	"github.com/keelson-io/keelson/server/listen"
)

// endpoints opens the client listeners.
func (n *Node) clientListeners() ([]*listen.Listener, error) {
	tls, err := n.clientTLS()
	if err != nil {
		return nil, err
	}
	return listen.Open(n.opts.ListenClientURLs, listen.Options{
		TLS: tls, ReusePort: n.opts.SocketOptions.ReusePort, ReuseAddress: n.opts.SocketOptions.ReuseAddress,
	})
}

// clientTLS gives the TLS of the client URLs, nil if there is none.
func (n *Node) clientTLS() (*listen.TLS, error) {
	t := n.opts.ClientTLS
	if t.AutoTLS && t.Empty() {
		pair, err := listen.SelfSigned(filepath.Join(n.opts.DataDir, "fixtures", "client"), n.opts.ListenClientURLs, n.opts.SelfSignedCertValidity)
		if err != nil {
			return nil, err
		}
		t.CertFile, t.KeyFile = pair.CertFile, pair.KeyFile
	}
	if t.Empty() {
		return nil, nil
	}
	suites, err := n.opts.CipherSuiteIDs()
	if err != nil {
		return nil, err
	}
	lowest, err := config.TLSVersion(n.opts.TLSMinVersion)
	if err != nil {
		return nil, err
	}
	highest, err := config.TLSVersion(n.opts.TLSMaxVersion)
	if err != nil {
		return nil, err
	}
	return listen.NewTLS(listen.TLSOptions{
		CertFile: t.CertFile, KeyFile: t.KeyFile,
		TrustedCAFile: t.TrustedCAFile, ClientCertAuth: t.ClientCertAuth, CRLFile: t.CRLFile,
		AllowedCNs: t.AllowedCNs, AllowedHostnames: t.AllowedHostnames,
		CipherSuites: suites, MinVersion: lowest, MaxVersion: highest, Log: n.logger,
	})
}

// listen serves clients until ctx ends.
func (n *Node) listen(ctx context.Context, api etcdv3.Options) error {
	listeners, err := n.clientListeners()
	if err != nil {
		return err
	}
	api.Observe = none{}
	g := etcdv3.Register(api, n.grpcOptions()...)
	client := listen.NewServer(listen.ServerOptions{
		Listeners: listeners, GRPC: g, HTTP: n.handler(), Name: "client",
		MaxConcurrentStreams: n.opts.MaxConcurrentStreams, Log: n.logger,
	})
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return client.Run(ctx) })
	n.logger.Info("ready to serve client requests", "addresses", n.opts.ListenClientURLs.Strings())
	return eg.Wait()
}

func (n *Node) grpcOptions() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.Creds(listen.Credentials()),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: n.opts.GRPCKeepAliveMinTime}),
	}
	if n.opts.GRPCKeepAliveInterval > 0 && n.opts.GRPCKeepAliveTimeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: n.opts.GRPCKeepAliveInterval, Timeout: n.opts.GRPCKeepAliveTimeout,
		}))
	}
	return opts
}

func (n *Node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	return mux
}

type none struct{}

func (none) Started(kind, method, clientVersion string)                 {}
func (none) Handled(kind, method string, err error, took time.Duration) {}
func (none) Sent(method string, bytes int)                              {}
func (none) Received(method string, bytes int)                          {}
