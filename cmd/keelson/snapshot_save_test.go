package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// source is a server that sends a snapshot in chunks, and then an error if there is one.
type source struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedAuthServer
	pb.UnimplementedKVServer
	revision int64  // that it tells of its cluster
	lost     bool   // it has no leader
	version  string // of the server
	blob     []byte
	err      error
	hang     bool
	half     chan struct{} // if there is one: a token is put in when half is out, and the rest comes after a second one
}

func (s *source) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Version: s.version}, nil
}

func (s *source) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if s.lost || r.Serializable {
		return nil, status.Error(codes.Unavailable, "etcdserver: no leader")
	}
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: s.revision}}, nil
}

func (s *source) Authenticate(_ context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if r.Name != "ann" || r.Password != "secret" {
		return nil, status.Error(codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
	}
	return &pb.AuthenticateResponse{Token: "the token"}, nil
}

func (s *source) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	version := "3.6.0"
	if t := md.Get("token"); len(t) > 0 {
		version = t[0]
	}
	for left := s.blob; len(left) > 0; {
		n := min(len(left), 1000)
		chunk := left[:n]
		if half := len(s.blob) / 2; s.half != nil && len(left) >= half && len(left)-n < half {
			s.half <- struct{}{}
			s.half <- struct{}{}
		}
		left = left[n:]
		if err := stream.Send(&pb.SnapshotResponse{RemainingBytes: uint64(len(left)), Blob: chunk, Version: version}); err != nil {
			return err
		}
	}
	if s.hang {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return s.err
}

// serveSource serves it, and gives its address.
func serveSource(t *testing.T, s *source, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	pb.RegisterMaintenanceServer(server, s)
	pb.RegisterAuthServer(server, s)
	pb.RegisterKVServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// patient has a command wait for servers on a busy machine.
const patient = "ETCDCTL_DIAL_TIMEOUT=1m"

// TestSnapshotSave: what came is in the file, whose name was there for something else before.
func TestSnapshotSave(t *testing.T) {
	blob := contents(t, snapshotFile(t, 100, plain()))
	address := serveSource(t, &source{blob: blob})
	path := filepath.Join(t.TempDir(), "saved.db")
	if err := os.WriteFile(path+part, []byte("half of another one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env, args []string
		version   string
	}{
		{nil, []string{"--endpoints", address, path}, "3.6.0"},
		{nil, []string{path, "--endpoints=http://" + address + "/", "--command-timeout", "1m"}, "3.6.0"},
		{[]string{"ETCDCTL_ENDPOINTS=" + address}, []string{path}, "3.6.0"},
		{nil, []string{path, "--endpoints", address, "--user", "ann:secret"}, "the token"},
		{nil, []string{path, "--endpoints", address, "--user", "ann", "--password", "secret"}, "the token"},
	} {
		o := run(t, append(c.env, patient), append([]string{"snapshot", "save"}, c.args...)...)
		if want := "Snapshot saved at " + path + "\nServer version " + c.version + "\n"; o.code != 0 || o.stdout != want || o.stderr != "" {
			t.Errorf("%v: %+v", c.args, o)
		}
		if !bytes.Equal(contents(t, path), blob) {
			t.Errorf("%v: the file is another one", c.args)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("%v, %v", left, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestSnapshotSaveFails: what is not whole, or not what was sent, does not get the name, and what had it stays.
func TestSnapshotSaveFails(t *testing.T) {
	blob := contents(t, snapshotFile(t, 100, plain()))
	altered := bytes.Clone(blob)
	altered[5000] ^= 1
	path := filepath.Join(t.TempDir(), "saved.db")
	if err := os.WriteFile(path, []byte("the last one"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := status.Error(codes.ResourceExhausted, "keelson: no space left on device")
	none := serveSource(t, &source{})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for text, args := range map[string][]string{
		"altered on its way":        {"--endpoints", serveSource(t, &source{blob: altered})},
		"did not come whole":        {"--endpoints", serveSource(t, &source{blob: blob[:len(blob)-100]})},
		"[bytes: 0]":                {"--endpoints", none},
		"no space left on device":   {"--endpoints", serveSource(t, &source{blob: blob[:9000], err: failed})},
		"--command-timeout is over": {"--endpoints", serveSource(t, &source{blob: blob, hang: true}), "--command-timeout", "300ms"},
		"connection refused":        {"--endpoints", "127.0.0.1:1"},
		"within --dial-timeout":     {"--endpoints", silent.Addr().String(), "--dial-timeout", "100ms"},
		"invalid user ID":           {"--endpoints", none, "--user", "ann:wrong"},
		"--cacert":                  {"--endpoints", none, "--cacert", path},
		"--cert and --key":          {"--endpoints", none, "--cert", path, "--key", path},
	} {
		o := run(t, []string{patient}, append([]string{"snapshot", "save", path}, args...)...)
		if o.code != 1 || o.stdout != "" || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 || string(contents(t, path)) != "the last one" {
			t.Errorf("%s: %v, %v", text, left, err)
		}
	}
	if o := run(t, nil, "snapshot", "save", filepath.Join(path, "under a file"), "--endpoints", none); o.code != 1 {
		t.Errorf("%+v", o)
	}
}

// TestSnapshotSaveLags: what a server has that lags behind its cluster, or has none, is not taken for everything.
func TestSnapshotSaveLags(t *testing.T) {
	blob := contents(t, snapshotFile(t, 100, plain())) // of revision 101
	path := filepath.Join(t.TempDir(), "saved.db")
	level := serveSource(t, &source{blob: blob, revision: 101})
	if o := run(t, []string{patient}, "snapshot", "save", path, "--endpoints", level); o.code != 0 {
		t.Errorf("%+v", o)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for text, s := range map[string]*source{
		"its snapshot has revision 101, and 102 was acknowledged": {blob: blob, revision: 102},
		"no leader": {blob: blob, lost: true},
	} {
		address := serveSource(t, s)
		o := run(t, []string{patient}, "snapshot", "save", path, "--endpoints", address)
		if o.code != 1 || !strings.Contains(o.stderr, text) || !strings.Contains(o.stderr, "--lost-quorum") {
			t.Errorf("want %q: %+v", text, o)
		}
		dir := t.TempDir()
		o = run(t, []string{patient}, "backup", "--backup-dir", dir, "--endpoints", address)
		if o.code != 1 || !strings.Contains(o.stderr, text) {
			t.Errorf("want %q: %+v", text, o)
		}
		to := filepath.Join(t.TempDir(), "migrated.db")
		o = run(t, nil, "migrate", "--from", "http://"+address, "--to", "snapshot:"+to)
		if o.code != 1 || !strings.Contains(o.stderr, text) || !strings.Contains(o.stderr, "--lost-quorum") {
			t.Errorf("want %q: %+v", text, o)
		}
		for _, below := range []string{filepath.Dir(path), dir, filepath.Dir(to)} {
			if left, err := os.ReadDir(below); err != nil || len(left) > 0 {
				t.Errorf("%s: %v, %v", text, left, err)
			}
		}
		if o := run(t, []string{patient}, "snapshot", "save", path, "--lost-quorum", "--endpoints", address); o.code != 0 || !bytes.Equal(contents(t, path), blob) {
			t.Errorf("%+v", o)
		}
		if o := run(t, []string{patient}, "backup", "--backup-dir", dir, "--lost-quorum", "--endpoints", address); o.code != 0 {
			t.Errorf("%+v", o)
		}
		if o := run(t, nil, "migrate", "--from", "http://"+address, "--to", "snapshot:"+to, "--lost-quorum"); o.code != 0 {
			t.Errorf("%+v", o)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSnapshotSaveTwice: of two saves to one file at once the second is refused, and the first is whole; what fails gives the file free.
func TestSnapshotSaveTwice(t *testing.T) {
	first, second := contents(t, snapshotFile(t, 2000, plain())), contents(t, snapshotFile(t, 100, plain()))
	path := filepath.Join(t.TempDir(), "saved.db")
	half := make(chan struct{})
	slow, quick := serveSource(t, &source{blob: first, half: half}), serveSource(t, &source{blob: second})
	done := make(chan output)
	go func() { done <- run(t, []string{patient}, "snapshot", "save", path, "--endpoints", slow) }()
	<-half
	if o := run(t, []string{patient}, "snapshot", "save", path, "--endpoints", quick); o.code != 1 || !strings.Contains(o.stderr, errSaving.Error()) {
		t.Errorf("the second: %+v", o)
	}
	<-half
	if o := <-done; o.code != 0 || !bytes.Equal(contents(t, path), first) {
		t.Errorf("the first: %+v, a file of %d bytes", o, len(contents(t, path)))
	}
	if o := run(t, []string{patient}, "snapshot", "save", path, "--endpoints", quick); o.code != 0 || !bytes.Equal(contents(t, path), second) {
		t.Errorf("the next: %+v, a file of %d bytes", o, len(contents(t, path)))
	}
}

// TestCreatePart: a file that has got its name between its opening and its lock is not written to.
func TestCreatePart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "saved.db"+part)
	file, err := createPart(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	late, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := own(late); !errors.Is(err, errSaving) {
		t.Errorf("beside another one: %v", err)
	}
	if err := errors.Join(os.Rename(path, path+"whole"), file.Close()); err != nil {
		t.Fatal(err)
	}
	if there, err := own(late); there || err != nil {
		t.Errorf("a whole one: %v, %v", there, err)
	}
}

// certificate makes one that signs itself, for 127.0.0.1 and for clients.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	err = errors.Join(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: b}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestSnapshotSaveTLS: with certificates on both sides, and not without.
func TestSnapshotSaveTLS(t *testing.T) {
	cert, key := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(contents(t, cert))
	address := serveSource(t, &source{blob: contents(t, snapshotFile(t, 10, plain()))}, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})))
	path := filepath.Join(t.TempDir(), "saved.db")
	for _, args := range [][]string{
		{"--endpoints", address, "--cacert", cert, "--cert", cert, "--key", key},
		{"--endpoints", "https://" + address, "--insecure-skip-tls-verify", "--cert", cert, "--key", key},
	} {
		if o := run(t, []string{patient}, append([]string{"snapshot", "save", path}, args...)...); o.code != 0 {
			t.Errorf("%v: %+v", args, o)
		}
	}
	for text, args := range map[string][]string{
		"certificate signed by unknown authority": {"--endpoints", "https://" + address, "--cert", cert, "--key", key},
		address + ": ": {"--endpoints", address, "--cacert", cert}, // in words that depend on who is first to see it
	} {
		if o := run(t, []string{patient}, append([]string{"snapshot", "save", path}, args...)...); o.code != 1 || !strings.Contains(o.stderr, text) {
			t.Errorf("%v: %+v", args, o)
		}
	}
}
