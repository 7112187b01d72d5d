package server

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/listen"
)

// peerNode is a node with these flags, as far as its TLS goes. "DIR" stands for its data directory's parent.
func peerNode(t *testing.T, dir, args string) *Node {
	t.Helper()
	fields := strings.Fields(strings.ReplaceAll(args, "DIR", dir))
	opts, _, err := config.Load(config.Input{Args: append(fields, "--data-dir="+filepath.Join(t.TempDir(), "data"))})
	if err != nil {
		t.Fatal(err)
	}
	return &Node{opts: opts, logger: slog.New(slog.DiscardHandler)}
}

// handshake connects two members.
func handshake(t *testing.T, server *listen.TLS, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	client = client.Clone()
	client.ServerName = "127.0.0.1"
	ended := make(chan error, 1)
	go func() {
		s := tls.Server(a, server.ServerConfig())
		err := s.HandshakeContext(t.Context())
		if err == nil {
			_, err = s.Write([]byte{1}) // in TLS 1.3 the client learns of a refusal when it reads
		}
		if err != nil {
			a.Close()
		}
		ended <- err
	}()
	c := tls.Client(b, client)
	err := c.HandshakeContext(t.Context())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err != nil {
		b.Close()
	}
	return errors.Join(err, <-ended)
}

// TestPeerTLS: what the flags say of the TLS between members.
func TestPeerTLS(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} { // each an authority of its own, with itself as its only member
		if _, err := listen.SelfSigned(filepath.Join(dir, name), []url.URL{{Host: "127.0.0.1:2380"}}, 1); err != nil {
			t.Fatal(err)
		}
	}
	const (
		auto = "--peer-auto-tls"
		a    = "--peer-cert-file=DIR/a/cert.pem --peer-key-file=DIR/a/key.pem --peer-trusted-ca-file=DIR/a/cert.pem"
		ab   = a + " --peer-client-cert-file=DIR/b/cert.pem --peer-client-key-file=DIR/b/key.pem"
		b    = "--peer-cert-file=DIR/b/cert.pem --peer-key-file=DIR/b/key.pem"
	)
	for _, c := range []struct {
		what, server, client string
		ok                   bool
	}{
		{"each signs for itself", auto, auto, true},
		{"a client that demands more", auto, a, false},
		{"authentication that auto TLS overrides", auto + " --peer-client-cert-auth", auto + " --peer-trusted-ca-file=DIR/a/cert.pem", true},
		{"auto TLS that a certificate overrides", a + " " + auto, auto, false},
		{"certificates", a, a, true},
		{"another authority", a, b, false},
		{"a client certificate of another authority", a, ab, false},
		{"a client certificate of the one that is trusted", b + " --peer-trusted-ca-file=DIR/b/cert.pem --peer-client-cert-auth", b + " --peer-trusted-ca-file=DIR/b/cert.pem", true},
		{"a name that is not allowed", a + " --peer-cert-allowed-cn=x", a, false},
		{"a host that is not allowed", a + " --peer-cert-allowed-hostname=x", a, false},
		{"a server's host that is not allowed", a, a + " --peer-cert-allowed-hostname=x", false},
		{"a host that is allowed", a + " --peer-cert-allowed-hostname=127.0.0.1", a + " --peer-cert-allowed-hostname=127.0.0.1", true},
	} {
		server, _, err := peerNode(t, dir, c.server).peerTLS()
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		_, client, err := peerNode(t, dir, c.client).peerTLS()
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if err := handshake(t, server, client()); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if server, client, err := peerNode(t, dir, "").peerTLS(); server != nil || client == nil || err != nil {
		t.Errorf("without options: %v, %v", server, err)
	}
	for _, args := range []string{
		"--peer-cert-file=DIR/a/cert.pem", a + " --peer-client-cert-file=DIR/b/cert.pem", a + " --peer-crl-file=DIR/none",
		"--peer-trusted-ca-file=DIR/none", a + " --peer-client-cert-file=DIR/b/cert.pem --peer-client-key-file=DIR/a/key.pem",
	} {
		if _, _, err := peerNode(t, dir, args).peerTLS(); err == nil {
			t.Errorf("%s: no error", args)
		}
	}
}
