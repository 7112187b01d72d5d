package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// clientOptions say which server a command asks, and how, as etcdctl's flags and variables do.
type clientOptions struct {
	endpoints         string
	caFile            string
	certFile, keyFile string
	skipVerify        bool // do not verify the server
	plain             bool // no TLS, unless an endpoint or a file asks for it
	user, password    string
	dialTimeout       time.Duration // for one endpoint to answer
	keepaliveTime     time.Duration // without a word from the server, until it is asked for one
	keepaliveTimeout  time.Duration // for that word
}

// define defines the flags.
func (o *clientOptions) define(f *flags) {
	o.endpoints, o.plain = "127.0.0.1:2379", true
	o.dialTimeout, o.keepaliveTime, o.keepaliveTimeout = 5*time.Second, 2*time.Second, 6*time.Second
	f.client("--endpoints URL[,URL…]", "the servers, of which the first that answers is asked; 127.0.0.1:2379 if not given", &o.endpoints)
	f.client("--cacert FILE", "the certificates by which the server is verified", &o.caFile)
	f.client("--cert FILE, --key FILE", "the client's certificate, and its key", &o.certFile, &o.keyFile)
	f.client("--insecure-skip-tls-verify", "do not verify the server: for tests only", &o.skipVerify)
	f.client("--insecure-transport=false", "TLS also where neither a certificate nor https:// is given", &o.plain)
	f.client("--user NAME[:PASSWORD]", "as whom, where authentication is enabled", &o.user)
	f.client("--password PASSWORD", "the user's password, if --user does not have it", &o.password)
	f.client("--dial-timeout DURATION", "how long a server may take to answer; 5s if not given", &o.dialTimeout)
	f.client("--keepalive-time DURATION", "how often a silent connection is tested; 2s if not given", &o.keepaliveTime)
	f.client("--keepalive-timeout DURATION", "how long the answer to that may take; 6s if not given", &o.keepaliveTimeout)
}

// connect connects to the first server that answers, as the user if there is one, and gives what it says of itself.
func (o *clientOptions) connect(ctx context.Context) (*grpc.ClientConn, *pb.StatusResponse, error) {
	if err := o.validate(); err != nil {
		return nil, nil, err
	}
	config, err := o.tls()
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for endpoint := range strings.SplitSeq(o.endpoints, ",") {
		conn, status, err := o.try(ctx, strings.TrimSpace(endpoint), config)
		if err == nil {
			return conn, status, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", endpoint, err))
	}
	return nil, nil, errors.Join(errs...)
}

func (o *clientOptions) validate() error {
	switch {
	case (o.certFile == "") != (o.keyFile == ""):
		return usageError("--cert and --key go together")
	case o.user != "" && o.password == "" && !strings.Contains(o.user, ":"):
		return usageError("--user %s has no password: give --user NAME:PASSWORD, or --password", o.user)
	}
	return nil
}

// try connects to one server, which is to answer in time.
func (o *clientOptions) try(ctx context.Context, endpoint string, config *tls.Config) (*grpc.ClientConn, *pb.StatusResponse, error) {
	target, secure, err := o.target(endpoint)
	if err != nil {
		return nil, nil, err
	}
	creds := insecure.NewCredentials()
	if secure {
		creds = credentials.NewTLS(config)
	}
	var token userToken
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithPerRPCCredentials(&token),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: o.keepaliveTime, Timeout: o.keepaliveTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, nil, err
	}
	resp, err := o.enter(ctx, conn, &token)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, resp, nil
}

// enter logs in, and asks the server how it is.
func (o *clientOptions) enter(ctx context.Context, conn *grpc.ClientConn, token *userToken) (*pb.StatusResponse, error) {
	dctx, cancel := context.WithTimeout(ctx, o.dialTimeout)
	defer cancel()
	if o.user != "" {
		name, password := o.user, o.password
		if password == "" {
			name, password, _ = strings.Cut(name, ":")
		}
		r, err := pb.NewAuthClient(conn).Authenticate(dctx, &pb.AuthenticateRequest{Name: name, Password: password})
		if err != nil {
			return nil, fmt.Errorf("log in as %s: %w", name, o.plainly(ctx, dctx, err))
		}
		token.text = r.Token
	}
	resp, err := pb.NewMaintenanceClient(conn).Status(dctx, &pb.StatusRequest{})
	if err != nil {
		return nil, o.plainly(ctx, dctx, err)
	}
	return resp, nil
}

// plainly gives an error of gRPC in the words of who asked.
func (o *clientOptions) plainly(ctx, dctx context.Context, err error) error {
	if dctx.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer within --dial-timeout (%v): %s", o.dialTimeout, status.Convert(err).Message())
	}
	return errors.New(status.Convert(err).Message())
}

// target gives an endpoint as gRPC has it, and whether TLS is spoken to it: with a scheme as that says, without one as in etcdctl, where certificates say so.
func (o *clientOptions) target(endpoint string) (target string, secure bool, err error) {
	scheme, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		scheme, address = "http", endpoint
		if o.caFile != "" || o.certFile != "" || o.skipVerify || !o.plain {
			scheme = "https"
		}
	}
	address = strings.TrimRight(address, "/")
	if address == "" {
		return "", false, errors.New("an endpoint without an address")
	}
	switch scheme {
	case "http", "https":
		return "passthrough:///" + address, scheme == "https", nil
	case "unix", "unixs":
		return "unix:" + address, scheme == "unixs", nil
	}
	return "", false, errors.New("an endpoint is host:port, or a URL of http, https, unix or unixs")
}

func (o *clientOptions) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.skipVerify}
	if o.caFile != "" {
		pem, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cacert: %s has no certificate", o.caFile)
		}
	}
	if o.certFile != "" {
		pair, err := tls.LoadX509KeyPair(o.certFile, o.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// userToken goes with every request, once there is one. Where there is no TLS, it is as little a secret as in etcdctl.
type userToken struct{ text string }

func (t *userToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if t.text == "" {
		return nil, nil
	}
	return map[string]string{"token": t.text}, nil
}

func (t *userToken) RequireTransportSecurity() bool { return false }
