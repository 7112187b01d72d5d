package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/etcdfile"
)

const saveUsage = `Usage:

  keelson snapshot save FILE [flags]

Save a snapshot of the server at an endpoint, of Keelson or of etcd: what that server has at one moment. FILE has its
name when it is whole and its sha256 was found right. The flags are etcdctl's, and ETCDCTL_ENDPOINTS, ETCDCTL_CACERT and so on are read.

`

// saveCommand is keelson snapshot save.
type saveCommand struct {
	file                              string
	endpoints                         string
	cacert, cert, key, user, password string
	skipVerify, insecure              bool
	dialTimeout, timeout              time.Duration
	keepaliveTime, keepaliveTimeout   time.Duration
}

func (p *program) snapshotSave(ctx context.Context, args []string) error {
	c, err := p.parseSave(args)
	if err != nil {
		return err
	}
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	conn, ctx, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	bar := newProgressLine(p.stderr)
	defer bar.clear()
	s, err := save(ctx, conn, c.file, bar)
	bar.clear()
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("--command-timeout is over: %w", err)
		}
		return err
	}
	fmt.Fprintf(p.stdout, "Snapshot saved at %s\n", c.file)
	if s.version != "" {
		fmt.Fprintf(p.stdout, "Server version %s\n", s.version)
	}
	return nil
}

func (p *program) parseSave(args []string) (*saveCommand, error) {
	c := &saveCommand{}
	f := newFlags()
	duration := func(d *time.Duration, name string, usual time.Duration) error {
		*d = usual
		f.DurationVar(d, name, usual, "")
		if text := p.getenv("ETCDCTL_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))); text != "" {
			return f.Set(name, text)
		}
		return nil
	}
	f.StringVar(&c.endpoints, "endpoints", cmp.Or(p.getenv("ETCDCTL_ENDPOINTS"), "127.0.0.1:2379"), "")
	f.StringVar(&c.cacert, "cacert", p.getenv("ETCDCTL_CACERT"), "")
	f.StringVar(&c.cert, "cert", p.getenv("ETCDCTL_CERT"), "")
	f.StringVar(&c.key, "key", p.getenv("ETCDCTL_KEY"), "")
	f.StringVar(&c.user, "user", p.getenv("ETCDCTL_USER"), "")
	f.StringVar(&c.password, "password", p.getenv("ETCDCTL_PASSWORD"), "")
	f.BoolVar(&c.skipVerify, "insecure-skip-tls-verify", p.getenv("ETCDCTL_INSECURE_SKIP_TLS_VERIFY") == "true", "")
	f.BoolVar(&c.insecure, "insecure-transport", p.getenv("ETCDCTL_INSECURE_TRANSPORT") != "false", "")
	err := errors.Join(
		duration(&c.dialTimeout, "dial-timeout", 2*time.Second),
		duration(&c.timeout, "command-timeout", 0),
		duration(&c.keepaliveTime, "keepalive-time", 2*time.Second),
		duration(&c.keepaliveTimeout, "keepalive-timeout", 6*time.Second))
	if err != nil {
		return nil, usageError("the environment: %v", err)
	}
	c.file, err = parseFile(f, args, func() {
		fmt.Fprint(p.stdout, saveUsage)
		writeFlag(p.stdout, "--endpoints ADDRESS", "the server, one; 127.0.0.1:2379 if not given")
		writeFlag(p.stdout, "--cacert FILE", "the certificates by which the server is verified")
		writeFlag(p.stdout, "--cert FILE", "the client certificate")
		writeFlag(p.stdout, "--key FILE", "its key")
		writeFlag(p.stdout, "--insecure-skip-tls-verify", "do not verify the server: for tests only")
		writeFlag(p.stdout, "--insecure-transport=false", "TLS also where neither a certificate nor https:// is given")
		writeFlag(p.stdout, "--user NAME[:PASSWORD]", "as whom, where authentication is enabled")
		writeFlag(p.stdout, "--password PASSWORD", "the user's password, if --user does not have it")
		writeFlag(p.stdout, "--dial-timeout DURATION", "how long to try to connect; 2s if not given")
		writeFlag(p.stdout, "--command-timeout DURATION", "how long the whole may take; for ever if not given")
		writeFlag(p.stdout, "--keepalive-time DURATION", "how often an idle connection is tested; 2s if not given")
		writeFlag(p.stdout, "--keepalive-timeout DURATION", "how long the answer to that may take; 6s if not given")
	})
	if err != nil {
		return nil, err
	}
	if all := strings.Split(c.endpoints, ","); len(all) > 1 {
		return nil, usageError("snapshot must be requested to one selected node, not multiple %v", all)
	}
	if (c.cert == "") != (c.key == "") {
		return nil, usageError("--cert and --key go together")
	}
	return c, nil
}

// connect connects, and gives a context with the user's token in it, if there is a user.
func (c *saveCommand) connect(ctx context.Context) (*grpc.ClientConn, context.Context, error) {
	target, secure := c.target()
	creds := insecure.NewCredentials()
	if secure {
		config, err := c.tls()
		if err != nil {
			return nil, nil, err
		}
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: c.keepaliveTime, Timeout: c.keepaliveTimeout}))
	if err != nil {
		return nil, nil, usageError("%v", err)
	}
	if ctx, err = c.enter(ctx, conn); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, ctx, nil
}

// enter waits until the server answers, and logs in.
func (c *saveCommand) enter(ctx context.Context, conn *grpc.ClientConn) (context.Context, error) {
	dctx, cancel := context.WithTimeout(ctx, c.dialTimeout)
	defer cancel()
	if c.user == "" {
		_, err := pb.NewMaintenanceClient(conn).Status(dctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
		if dctx.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%s does not answer within --dial-timeout (%v): %s", c.endpoints, c.dialTimeout, status.Convert(err).Message())
		}
		return ctx, nil // what else it says is said again
	}
	name, password, has := strings.Cut(c.user, ":")
	if !has {
		password = c.password
	}
	r, err := pb.NewAuthClient(conn).Authenticate(dctx, &pb.AuthenticateRequest{Name: name, Password: password}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("log in as %s: %w", name, err)
	}
	return metadata.AppendToOutgoingContext(ctx, "token", r.Token), nil
}

// target gives the endpoint as gRPC has it, and whether TLS is spoken to it: with a scheme as that says, without one if a file for it is given.
func (c *saveCommand) target() (target string, secure bool) {
	scheme, rest, ok := strings.Cut(c.endpoints, "://")
	if !ok {
		scheme, rest = "", c.endpoints
	}
	secure = scheme == "https" || scheme == "unixs" || scheme != "http" && (c.cacert != "" || c.cert != "" || c.skipVerify || !c.insecure)
	if scheme == "unix" || scheme == "unixs" {
		return "unix:" + rest, secure
	}
	return "dns:///" + strings.TrimSuffix(rest, "/"), secure
}

func (c *saveCommand) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.skipVerify}
	if c.cacert != "" {
		pem, err := os.ReadFile(c.cacert)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cacert: %s has no certificate", c.cacert)
		}
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// saved is what came of a snapshot.
type saved struct {
	size    int64
	version string // the storage version that the server tells
}

// part is behind the name of a file that is not whole.
const part = ".part"

// save writes a snapshot to a file, which has its name when all of it is durable and was found whole.
func save(ctx context.Context, conn *grpc.ClientConn, path string, bar *progressLine) (saved, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return saved{}, err
	}
	file, err := os.OpenFile(path+part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return saved{}, err
	}
	bar.say("waiting for the server to make the snapshot")
	s, err := receive(stream, file, bar)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(path+part, path)
	}
	if err != nil {
		return saved{}, errors.Join(err, os.Remove(path+part))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return saved{}, err
	}
	return s, errors.Join(dir.Sync(), dir.Close())
}

// receive writes what a server sends, and holds it against the sha256 that comes last.
func receive(stream pb.Maintenance_SnapshotClient, w io.Writer, bar *progressLine) (s saved, err error) {
	out := bufio.NewWriterSize(w, 1<<20)
	sum := sha256.New()
	var tail []byte // what may be the sha256
	var m *meter
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s, errors.New(status.Convert(err).Message())
		}
		if m == nil {
			m = bar.meter("saving", int64(len(r.Blob))+int64(r.RemainingBytes), formatBytes)
		}
		s.version = cmp.Or(r.Version, s.version)
		s.size += int64(len(r.Blob))
		if _, err := out.Write(r.Blob); err != nil {
			return s, err
		}
		tail = append(tail, r.Blob...)
		if n := len(tail) - etcdfile.HashSize; n > 0 {
			sum.Write(tail[:n])
			tail = append(tail[:0], tail[n:]...)
		}
		m.show(s.size)
	}
	if err := out.Flush(); err != nil {
		return s, err
	}
	if s.size%512 != etcdfile.HashSize {
		return s, fmt.Errorf("sha256 checksum not found [bytes: %d]: the snapshot did not come whole", s.size)
	}
	if string(sum.Sum(nil)) != string(tail) {
		return s, errors.New("the snapshot was altered on its way: its sha256 is not that of what came")
	}
	return s, nil
}
