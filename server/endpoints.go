package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/etcdv3"
	"github.com/keelson-io/keelson/server/httpapi"
	"github.com/keelson-io/keelson/server/listen"
)

// endpoint is one group of URLs and what is served there. Its sockets are bound
// when the node is opened and served when it runs, so that a taken port is told at once.
type endpoint struct {
	name      string
	listeners []*listen.Listener
	grpc      bool
	http      bool
}

// bind opens the sockets of the client and metrics URLs.
func (n *Node) bind() error {
	o := &n.opts
	if _, clustered := n.clustered(); clustered {
		if err := n.bindPeers(); err != nil {
			return err
		}
	}
	tls, err := n.clientTLS(false)
	if err != nil {
		return err
	}
	apart := len(o.ListenClientHTTPURLs) > 0
	if err := n.open(endpoint{name: "client", grpc: true, http: !apart}, o.ListenClientURLs, tls); err != nil {
		return err
	}
	if err := n.open(endpoint{name: "client-http", http: true}, o.ListenClientHTTPURLs, tls); err != nil {
		return err
	}
	if len(o.ListenMetricsURLs) == 0 {
		return nil
	}
	// As in etcd, a client certificate shown here must fit the address it comes from.
	tls, err = n.clientTLS(true)
	if err != nil {
		return err
	}
	return n.open(endpoint{name: "metrics", http: true}, o.ListenMetricsURLs, tls)
}

func (n *Node) open(e endpoint, urls []url.URL, tls *listen.TLS) error {
	if len(urls) == 0 {
		return nil
	}
	var err error
	s := n.opts.SocketOptions
	e.listeners, err = listen.Open(urls, listen.Options{TLS: tls, ReusePort: s.ReusePort, ReuseAddress: s.ReuseAddress})
	if err != nil {
		return err
	}
	n.endpoints = append(n.endpoints, e)
	return nil
}

// clientTLS gives the TLS of the client URLs, nil if there is none.
func (n *Node) clientTLS(checkSAN bool) (*listen.TLS, error) {
	t := n.opts.ClientTLS
	if t.AutoTLS && t.Empty() {
		dir := filepath.Join(n.opts.DataDir, "fixtures", "client")
		pair, err := listen.SelfSigned(dir, n.opts.ListenClientURLs, n.opts.SelfSignedCertValidity)
		if err != nil {
			return nil, err
		}
		t.CertFile, t.KeyFile = pair.CertFile, pair.KeyFile
	}
	if t.Empty() {
		return nil, nil
	}
	o, err := n.tlsOptions(t)
	if err != nil {
		return nil, err
	}
	o.CheckRemoteSAN = checkSAN
	return listen.NewTLS(o)
}

// peerTLS gives the TLS of the peer URLs, nil if there is none, and the configuration for connections to other members'.
func (n *Node) peerTLS() (*listen.TLS, func() *tls.Config, error) {
	t, selfSigned := n.opts.PeerTLS, false
	if t.AutoTLS && t.Empty() {
		dir := filepath.Join(n.opts.DataDir, "fixtures", "peer")
		pair, err := listen.SelfSigned(dir, n.opts.ListenPeerURLs, n.opts.SelfSignedCertValidity)
		if err != nil {
			return nil, nil, err
		}
		if t.ClientCertAuth || t.TrustedCAFile != "" {
			n.logger.Warn("members are not authenticated: --peer-auto-tls overrides --peer-client-cert-auth and --peer-trusted-ca-file, as in etcd")
		}
		// Nobody vouches for certificates that each member signs for itself.
		t, selfSigned = config.TLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile}, true
	}
	o, err := n.tlsOptions(t)
	if err != nil {
		return nil, nil, err
	}
	o.CheckRemoteSAN = !t.SkipClientSANVerify
	var server *listen.TLS
	if !t.Empty() {
		if server, err = listen.NewTLS(o); err != nil {
			return nil, nil, err
		}
	}
	if t.ClientCertFile != "" || t.ClientKeyFile != "" {
		o.CertFile, o.KeyFile = t.ClientCertFile, t.ClientKeyFile
	}
	client, err := listen.NewClientTLS(o, selfSigned)
	return server, client, err
}

// tlsOptions translates the options of one side.
func (n *Node) tlsOptions(t config.TLS) (listen.TLSOptions, error) {
	suites, err := n.opts.CipherSuiteIDs()
	if err != nil {
		return listen.TLSOptions{}, err
	}
	lowest, err := config.TLSVersion(n.opts.TLSMinVersion)
	if err != nil {
		return listen.TLSOptions{}, err
	}
	highest, err := config.TLSVersion(n.opts.TLSMaxVersion)
	return listen.TLSOptions{
		CertFile: t.CertFile, KeyFile: t.KeyFile,
		TrustedCAFile: t.TrustedCAFile, ClientCertAuth: t.ClientCertAuth, CRLFile: t.CRLFile,
		AllowedCNs: t.AllowedCNs, AllowedHostnames: t.AllowedHostnames,
		CipherSuites: suites, MinVersion: lowest, MaxVersion: highest, Log: n.logger,
	}, err
}

// listen serves all endpoints until ctx ends.
func (n *Node) listen(ctx context.Context, api etcdv3.Options) error {
	// Watches end only with their clients, so they are ended first when the server stops.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	api.Stopping = streams.Done()
	g := etcdv3.Register(api, n.grpcOptions()...)
	healthpb.RegisterHealthServer(g, health.NewServer())

	var client *listen.Server
	gateway, err := httpapi.NewGateway(int(n.opts.MaxRequestBytes), func(ctx context.Context) (net.Conn, error) { return client.Dial(ctx) })
	if err != nil {
		return err
	}
	defer gateway.Close()
	web, err := n.webAPI(gateway)
	if err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	for _, e := range n.endpoints {
		o := listen.ServerOptions{
			Listeners: e.listeners, Name: e.name, Log: n.logger,
			StopTimeout: n.opts.RequestTimeout(), MaxConcurrentStreams: n.opts.MaxConcurrentStreams,
		}
		if e.grpc {
			o.GRPC = g
		}
		switch {
		case e.name == "metrics":
			o.HTTP = web.Metrics()
		case e.http:
			o.HTTP = web.Client()
		}
		s := listen.NewServer(o)
		if e.grpc {
			client = s
		}
		eg.Go(func() error { return s.Run(ctx) })
	}
	context.AfterFunc(ctx, endStreams)
	eg.Go(func() error {
		// As with etcd, a member of a cluster counts as ready when the cluster knows where clients reach it. It answers before, as far as it can.
		if _, clustered := n.clustered(); clustered {
			if err := n.cluster.publish(ctx); err != nil || ctx.Err() != nil {
				return err
			}
		}
		if n.cluster != nil {
			close(n.cluster.published)
		}
		n.logger.Info("ready to serve client requests", "addresses", n.opts.ListenClientURLs.Strings())
		notifySupervisor(n.logger)
		return nil
	})
	return eg.Wait()
}

func (n *Node) webAPI(gateway http.Handler) (*httpapi.API, error) {
	o := httpapi.Options{
		Health: n, Versions: versions{}, Metrics: n.metrics,
		CORS: n.opts.CORS, HostWhitelist: n.opts.HostWhitelist,
		Pprof: n.opts.Pprof(),
		Log:   n.logger,
	}
	if n.opts.EnableGRPCGateway {
		o.Gateway = gateway
	}
	return httpapi.New(o)
}

func (n *Node) grpcOptions() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.Creds(n.counted.Credentials(listen.Credentials())),
		grpc.ChainStreamInterceptor(n.counted.Stream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: n.opts.GRPCKeepAliveMinTime}),
	}
	if n.opts.GRPCKeepAliveInterval > 0 && n.opts.GRPCKeepAliveTimeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: n.opts.GRPCKeepAliveInterval, Timeout: n.opts.GRPCKeepAliveTimeout,
		}))
	}
	return opts
}
