package migrate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/etcdfile"
)

// Client says how a server is spoken to: the flags of etcdctl with these names.
type Client struct {
	CACert, Cert, Key     string
	InsecureSkipTLSVerify bool
	// User is name:password, or empty.
	User string
}

const kineAdvice = "name its database, kine+sqlite:PATH, kine+postgres://… or kine+mysql://…"

// conn is a connection to a server, whose calls go with a token if there is a user.
type conn struct {
	*grpc.ClientConn
	token string
}

// dial connects to the first of the endpoints that answers. Nothing is balanced: what is read and written must be one server's.
func (c Client) dial(ctx context.Context, endpoints string) (*conn, error) {
	var failed error
	for endpoint := range strings.SplitSeq(endpoints, ",") {
		conn, err := c.dialOne(ctx, strings.TrimSpace(endpoint))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", endpoint, err))
	}
	return nil, failed
}

func (c Client) dialOne(ctx context.Context, endpoint string) (*conn, error) {
	scheme, address, ok := strings.Cut(endpoint, "://")
	if !ok {
		return nil, noPlace("%q is no URL", endpoint)
	}
	creds := insecure.NewCredentials()
	if scheme == "https" {
		config, err := c.tls()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	}
	cc, err := grpc.NewClient("passthrough:///"+strings.TrimSuffix(address, "/"), grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, err
	}
	conn := &conn{ClientConn: cc}
	if err := conn.begin(ctx, c.User); err != nil {
		return nil, errors.Join(c.explain(scheme, err), cc.Close())
	}
	return conn, nil
}

// explain says what to do about an error of the first call.
func (c Client) explain(scheme string, err error) error {
	said := errors.New(status.Convert(err).Message())
	switch {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: authentication is enabled there: --user NAME:PASSWORD, or --to-user for the target", said)
	case status.Code(err) == codes.Unavailable && scheme == "http":
		return fmt.Errorf("%w (a server with TLS has a URL with https)", said)
	case status.Code(err) == codes.Unavailable && c.Cert == "":
		return fmt.Errorf("%w (--cacert names the authority of its certificate, --cert and --key the certificate that it may ask for)", said)
	}
	return said
}

// begin logs in, or finds out that somebody is there.
func (c *conn) begin(ctx context.Context, user string) error {
	if user == "" {
		_, err := pb.NewMaintenanceClient(c).Status(ctx, &pb.StatusRequest{})
		if status.Code(err) == codes.Unimplemented {
			return nil
		}
		return err
	}
	name, password, _ := strings.Cut(user, ":")
	resp, err := pb.NewAuthClient(c).Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	if err == nil {
		c.token = resp.Token
	}
	return err
}

// with adds the token to a call.
func (c *conn) with(ctx context.Context) context.Context {
	if c.token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", c.token)
}

func (c Client) tls() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: c.InsecureSkipTLSVerify, MinVersion: tls.VersionTLS12}
	if c.CACert != "" {
		pem, err := os.ReadFile(c.CACert)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", c.CACert)
		}
	}
	if c.Cert != "" || c.Key != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// download has a server make a snapshot, and gives the revision that it has to reach.
func (m *migration) download(ctx context.Context, p Place, path string) (acknowledged int64, err error) {
	conn, err := m.Client.dial(ctx, p.Where)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if !m.LostQuorum {
		if acknowledged, err = Acknowledged(conn.with(ctx), conn); err != nil {
			return 0, err
		}
	}
	return acknowledged, m.fetch(ctx, conn, path)
}

func (m *migration) fetch(ctx context.Context, conn *conn, path string) error {
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(conn.with(ctx), &pb.SnapshotRequest{})
	if err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var done int64
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return whole(done)
		case done == 0 && (status.Code(err) == codes.Unimplemented || status.Code(err) == codes.Unknown):
			return fmt.Errorf("%w (a kine makes no snapshots: %s)", errors.New(status.Convert(err).Message()), kineAdvice)
		case err != nil:
			return err
		}
		if _, err := out.Write(resp.Blob); err != nil {
			return err
		}
		done += int64(len(resp.Blob))
		m.Progress("reading (bytes)", done, done+int64(resp.RemainingBytes))
	}
}

// whole refuses what came without the hash that etcd sends in the end.
func whole(size int64) error {
	if size%512 != etcdfile.HashSize {
		return fmt.Errorf("%w: the snapshot has no hash (%d bytes)", etcdfile.ErrHash, size)
	}
	return nil
}
