package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keelson-io/keelson/server/listen"
)

// authority signs members' certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.sign(t, "ca", &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue makes a certificate for 127.0.0.1 and localhost, with this common name.
func (a *authority) issue(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	cert, _ := a.sign(t, name, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return cert
}

// sign writes name.crt and name.key.
func (a *authority) sign(t *testing.T, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject.CommonName = big.NewInt(time.Now().UnixNano()), name
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.BasicConstraintsValid = true
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER}, name + ".crt": {Type: "CERTIFICATE", Bytes: der},
	} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func (a *authority) options(name string) listen.TLSOptions {
	return listen.TLSOptions{CertFile: a.file(name + ".crt"), KeyFile: a.file(name + ".key"), TrustedCAFile: a.file("ca.crt"), ClientCertAuth: true, CheckRemoteSAN: true}
}

func serverTLS(t *testing.T, o listen.TLSOptions) *listen.TLS {
	t.Helper()
	s, err := listen.NewTLS(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func clientTLS(t *testing.T, o listen.TLSOptions, unverified bool) func() *tls.Config {
	t.Helper()
	c, err := listen.NewClientTLS(o, unverified)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTLS connects members with certificates of one authority, and none else.
func TestTLS(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	a.issue(t, "server")
	a.issue(t, "client")
	b.issue(t, "client")
	mixed := a.options("client") // trusts the server, is not trusted
	mixed.CertFile, mixed.KeyFile = b.file("client.crt"), b.file("client.key")
	blind := b.options("client") // trusted, does not trust
	blind.CertFile, blind.KeyFile = a.file("client.crt"), a.file("client.key")
	nothing := listen.TLSOptions{TrustedCAFile: a.file("ca.crt")}
	named := a.options("client")
	named.AllowedCNs = []string{"server", "x"}
	others := a.options("client")
	others.AllowedCNs = []string{"client"}
	m := start(t, memberOptions{url: "https://127.0.0.1:0", tls: serverTLS(t, a.options("server"))})
	for what, c := range map[string]struct {
		config func() *tls.Config
		good   bool
	}{
		"one authority":       {clientTLS(t, a.options("client"), false), true},
		"allowed name":        {clientTLS(t, named, false), true},
		"the server's name":   {clientTLS(t, others, false), false},
		"not trusted":         {clientTLS(t, mixed, false), false},
		"server not trusted":  {clientTLS(t, blind, false), false},
		"no certificate":      {clientTLS(t, nothing, false), false},
		"no configuration":    {nil, false},
		"configuration empty": {func() *tls.Config { return nil }, false},
	} {
		n, r := network(t, c.config, m.url)
		if c.good {
			reach(t, n, m, 1)
		} else {
			await(t, r.unreachable, what)
		}
		n.Close()
		for len(m.got) > 0 {
			if <-m.got; !c.good {
				t.Errorf("%s: delivered", what)
			}
		}
	}
	plain, r := network(t, nil, "http"+m.url[len("https"):])
	await(t, r.unreachable, "a plaintext connection to fail")
	plain.Close()
}

// TestRotation has the authority of a whole cluster replaced: connections that are made then use it.
func TestRotation(t *testing.T) {
	a := newAuthority(t)
	a.issue(t, "server")
	a.issue(t, "client")
	m := start(t, memberOptions{url: "https://127.0.0.1:0", tls: serverTLS(t, a.options("server"))})
	n, r := network(t, clientTLS(t, a.options("client"), false), m.url)
	reach(t, n, m, 1)
	fresh := newAuthority(t)
	fresh.issue(t, "server")
	fresh.issue(t, "client")
	for _, name := range []string{"ca.crt", "server.crt", "server.key", "client.crt", "client.key"} {
		if err := os.Rename(fresh.file(name), a.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	m.stop()
	await(t, r.unreachable, "the break")
	m = start(t, memberOptions{url: m.url, tls: serverTLS(t, a.options("server"))})
	reach(t, n, m, 2)
}

// TestSelfSigned connects members that have signed for themselves.
func TestSelfSigned(t *testing.T) {
	pair, err := listen.SelfSigned(t.TempDir(), []url.URL{{Scheme: "https", Host: "192.0.2.1:2380"}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	o := listen.TLSOptions{CertFile: pair.CertFile, KeyFile: pair.KeyFile}
	m := start(t, memberOptions{url: "https://127.0.0.1:0", tls: serverTLS(t, o)})
	n, _ := network(t, clientTLS(t, o, true), m.url)
	reach(t, n, m, 1)
	strict, r := network(t, clientTLS(t, o, false), m.url)
	await(t, r.unreachable, "a connection to fail that wants more")
	strict.Close()
}

func TestUnixSockets(t *testing.T) {
	a := newAuthority(t)
	a.issue(t, "server")
	t.Chdir(t.TempDir())
	for _, where := range []string{"unix://" + a.file("s"), "unix://relative:1", "unixs://" + a.file("t"), "unixs://localhost:2"} {
		m := start(t, memberOptions{url: where, tls: serverTLS(t, a.options("server"))})
		n, _ := network(t, clientTLS(t, a.options("server"), false), where)
		reach(t, n, m, 1)
		n.Close()
		m.stop()
	}
}

// TestMembers asks for the members of a cluster, of which one URL answers.
func TestMembers(t *testing.T) {
	a := newAuthority(t)
	a.issue(t, "server")
	m := start(t, memberOptions{url: "https://127.0.0.1:0", tls: serverTLS(t, a.options("server")), GuardOptions: GuardOptions{Origin: 0xd1}})
	config := clientTLS(t, a.options("server"), false)
	known, err := Members(t.Context(), []string{"nonsense", closedPort(t), silent(t), m.url}, config)
	if err != nil || known.Cluster != testCluster || known.Origin != 0xd1 || len(known.Members) != 1 || known.Members[0].ID != other {
		t.Errorf("%+v, %v", known, err)
	}
	if _, err := Members(t.Context(), []string{closedPort(t), m.url}, nil); err == nil {
		t.Error("no error where nobody answers")
	}
	if _, err := Members(t.Context(), nil, nil); err == nil {
		t.Error("no error without URLs")
	}
}
