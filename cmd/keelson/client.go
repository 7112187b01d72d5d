package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// clientOptions say which server a command asks, and how, as etcdctl's flags and variables do.
type clientOptions struct {
	endpoints         string
	caFile            string
	certFile, keyFile string
	skipVerify        bool
	dialTimeout       time.Duration
}

// define defines the flags.
func (o *clientOptions) define(f *flag.FlagSet, getenv func(string) string) {
	*o = clientOptions{
		endpoints: cmp.Or(getenv("ETCDCTL_ENDPOINTS"), "127.0.0.1:2379"), caFile: getenv("ETCDCTL_CACERT"),
		certFile: getenv("ETCDCTL_CERT"), keyFile: getenv("ETCDCTL_KEY"), dialTimeout: 5 * time.Second,
	}
	f.StringVar(&o.endpoints, "endpoints", o.endpoints, "")
	f.StringVar(&o.caFile, "cacert", o.caFile, "")
	f.StringVar(&o.certFile, "cert", o.certFile, "")
	f.StringVar(&o.keyFile, "key", o.keyFile, "")
	f.BoolVar(&o.skipVerify, "insecure-skip-tls-verify", false, "")
	f.DurationVar(&o.dialTimeout, "dial-timeout", o.dialTimeout, "")
}

func (o *clientOptions) help(w io.Writer) {
	writeFlag(w, "--endpoints URL[,URL…]", "the servers, of which the first that answers is asked; "+o.endpoints+" if not given")
	writeFlag(w, "--cacert FILE", "certificates of the authorities that vouch for the server")
	writeFlag(w, "--cert FILE, --key FILE", "the client's certificate, and its key")
	writeFlag(w, "--insecure-skip-tls-verify", "do not verify the server's certificate")
	writeFlag(w, "--dial-timeout DURATION", "how long a server may take to answer; "+o.dialTimeout.String()+" if not given")
}

// connect connects to the first server that answers, and gives what it says of itself.
func (o *clientOptions) connect(ctx context.Context) (*grpc.ClientConn, *pb.StatusResponse, error) {
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

func (o *clientOptions) try(ctx context.Context, endpoint string, config *tls.Config) (*grpc.ClientConn, *pb.StatusResponse, error) {
	scheme, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		// As in etcdctl, certificates say that there is TLS.
		scheme, address = "http", endpoint
		if o.caFile != "" || o.certFile != "" || o.skipVerify {
			scheme = "https"
		}
	}
	creds := insecure.NewCredentials()
	switch scheme {
	case "https", "unixs":
		creds = credentials.NewTLS(config)
	case "http", "unix":
	default:
		return nil, nil, errors.New("an endpoint is host:port, or a URL of http, https, unix or unixs")
	}
	target := "passthrough:///" + strings.TrimRight(address, "/")
	if strings.HasPrefix(scheme, "unix") {
		target = "unix:" + address
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.dialTimeout)
	defer cancel()
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, status, nil
}

func (o *clientOptions) tls() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.skipVerify}
	if o.caFile != "" {
		pem, err := os.ReadFile(o.caFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", o.caFile)
		}
	}
	if o.certFile != "" || o.keyFile != "" {
		pair, err := tls.LoadX509KeyPair(o.certFile, o.keyFile)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
