package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// served is the certificate that a listener shows.
func served(t *testing.T, l *Listener) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial(l.Addr().Network(), l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

func TestCertificateIsReadAnew(t *testing.T) {
	a := newAuthority(t)
	listeners := open(t, Options{TLS: a.tls(a.options())}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	for range 3 {
		fresh := a.issue("server", "127.0.0.1", "localhost")
		if got := served(t, listeners[0]); got.SerialNumber.Cmp(fresh.SerialNumber) != 0 {
			t.Errorf("serial number %v, want %v", got.SerialNumber, fresh.SerialNumber)
		}
		checkAll(t, listeners[0], a.client(""))
	}
	before := served(t, listeners[0])
	for what, spoil := range map[string]func(){
		"a key that does not fit": func() { a.issue("another"); os.Rename(a.file("another.key"), a.file("server.key")) },
		"no key":                  func() { os.Remove(a.file("server.key")) },
		"nonsense":                func() { os.WriteFile(a.file("server.crt"), []byte("nonsense"), 0o600) },
	} {
		spoil()
		if got := served(t, listeners[0]); !got.Equal(before) {
			t.Errorf("with %s: another certificate than before", what)
		}
	}
	fresh := a.issue("server", "127.0.0.1", "localhost")
	if got := served(t, listeners[0]); got.SerialNumber.Cmp(fresh.SerialNumber) != 0 {
		t.Error("not read anew after it was spoilt")
	}
}

// TestRewrittenInPlace has a file change twice within what its times can tell.
func TestRewrittenInPlace(t *testing.T) {
	a := newAuthority(t)
	listeners := open(t, Options{TLS: a.tls(a.options())}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	for range 5 {
		fresh := a.issue("fresh", "127.0.0.1")
		for _, kind := range []string{".key", ".crt"} {
			data, err := os.ReadFile(a.file("fresh" + kind))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(a.file("server"+kind), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := served(t, listeners[0]); got.SerialNumber.Cmp(fresh.SerialNumber) != 0 {
			t.Errorf("serial number %v, want %v", got.SerialNumber, fresh.SerialNumber)
		}
	}
}

// TestAuthorityIsReadAnew changes the authority of client certificates, which etcd would have to be restarted for.
func TestAuthorityIsReadAnew(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	o := a.options()
	o.TrustedCAFile, o.ClientCertAuth = a.file("ca.crt"), true
	listeners := open(t, Options{TLS: a.tls(o)}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	a.issue("old")
	b.issue("new")
	withNew := a.client("old")
	withNew.Certificates = b.client("new").Certificates

	checkAll(t, listeners[0], a.client("old"))
	if _, err := get(t, listeners[0], 1, withNew); err == nil {
		t.Error("let in by an authority that is not trusted")
	}
	if _, err := get(t, listeners[0], 1, a.client("")); err == nil {
		t.Error("let in without a certificate")
	}
	if err := os.Rename(b.file("ca.crt"), o.TrustedCAFile); err != nil {
		t.Fatal(err)
	}
	checkAll(t, listeners[0], withNew)
	if _, err := get(t, listeners[0], 1, a.client("old")); err == nil {
		t.Error("let in by an authority that is trusted no more")
	}
}

func TestRevocation(t *testing.T) {
	a := newAuthority(t)
	o := a.options()
	o.TrustedCAFile, o.CRLFile = a.file("ca.crt"), a.file("crl")
	good, bad := a.issue("good"), a.issue("bad")
	a.revoke(o.CRLFile, bad.SerialNumber)
	listeners := open(t, Options{TLS: a.tls(o)}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	checkAll(t, listeners[0], a.client("good"))
	if _, err := get(t, listeners[0], 1, a.client("bad")); err == nil {
		t.Error("let in with a revoked certificate")
	}
	a.revoke(o.CRLFile, good.SerialNumber)
	checkAll(t, listeners[0], a.client("bad"))
	if _, err := get(t, listeners[0], 1, a.client("good")); err == nil {
		t.Error("let in with a certificate that was revoked since")
	}
}

func TestAllowed(t *testing.T) {
	a := newAuthority(t)
	a.issue("alice", "a.test")
	a.issue("bob", "b.test", "*.c.test")
	a.issue("alice-here", "127.0.0.1", "::1")
	a.issue("bob-elsewhere", "192.0.2.1")
	for _, c := range []struct {
		what, in, out string
		change        func(*TLSOptions)
	}{
		{"common name", "alice", "bob", func(o *TLSOptions) { o.AllowedCNs = []string{"carol", "alice"} }},
		{"host name", "alice", "bob", func(o *TLSOptions) { o.AllowedHostnames = []string{"other.test", "a.test"} }},
		{"remote hosts", "alice-here", "bob-elsewhere", func(o *TLSOptions) { o.CheckRemoteSAN = true }},
	} {
		o := a.options()
		o.TrustedCAFile = a.file("ca.crt")
		c.change(&o)
		listeners := open(t, Options{TLS: a.tls(o)}, "https://127.0.0.1:0")
		serve(t, listeners, nil)
		if _, err := get(t, listeners[0], 1, a.client(c.in)); err != nil {
			t.Errorf("by %s: %s is not let in: %v", c.what, c.in, err)
		}
		if _, err := get(t, listeners[0], 1, a.client(c.out)); err == nil {
			t.Errorf("by %s: %s is let in", c.what, c.out)
		}
	}
}

func TestRemoteHosts(t *testing.T) {
	remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}
	for _, c := range []struct {
		cert x509.Certificate
		ok   bool
	}{
		{x509.Certificate{}, true},
		{x509.Certificate{DNSNames: []string{"localhost"}}, true},
		{x509.Certificate{DNSNames: []string{"nowhere.invalid"}}, false},
		{x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1), net.IPv4(127, 0, 0, 1)}}, true},
		{x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, false},
		{x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}, DNSNames: []string{"localhost"}}, true},
	} {
		if err := checkRemote(t.Context(), &c.cert, remote); (err == nil) != c.ok {
			t.Errorf("%v %v: %v", c.cert.IPAddresses, c.cert.DNSNames, err)
		}
	}
	if err := checkRemote(t.Context(), &x509.Certificate{DNSNames: []string{"nowhere.invalid"}}, &net.UnixAddr{Name: "@"}); err != nil {
		t.Errorf("over a socket file: %v", err)
	}
}

func TestVersionsAndSuites(t *testing.T) {
	a := newAuthority(t)
	o := a.options()
	o.MaxVersion = tls.VersionTLS12
	o.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	listeners := open(t, Options{TLS: a.tls(o)}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	for _, c := range []struct {
		suite, lowest uint16
		ok            bool
	}{
		{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.VersionTLS12, true},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.VersionTLS12, false},
		{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.VersionTLS13, false},
	} {
		config := a.client("")
		config.CipherSuites, config.MinVersion = []uint16{c.suite}, c.lowest
		if _, err := get(t, listeners[0], 1, config); (err == nil) != c.ok {
			t.Errorf("suite %x, version %x: %v", c.suite, c.lowest, err)
		}
	}
	old := a.client("")
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := get(t, listeners[0], 1, old); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

func TestTLSOptionErrors(t *testing.T) {
	a := newAuthority(t)
	good := a.options()
	for want, change := range map[string]func(*TLSOptions){
		"KeyFile and CertFile must both be present": func(o *TLSOptions) { o.KeyFile = "" },
		"no such file":       func(o *TLSOptions) { o.CertFile = "/nonexistent" },
		"private key does":   func(o *TLSOptions) { a.issue("other"); o.KeyFile = a.file("other.key") },
		"mutually exclusive": func(o *TLSOptions) { o.AllowedCNs, o.AllowedHostnames = []string{"a"}, []string{"b"} },
		"no certificates":    func(o *TLSOptions) { o.TrustedCAFile = good.KeyFile },
		"x509":               func(o *TLSOptions) { o.CRLFile = good.KeyFile },
	} {
		o := good
		change(&o)
		if _, err := NewTLS(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func TestSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fixtures", "client")
	urls := []url.URL{{Scheme: "https", Host: "127.0.0.1:2379"}, {Scheme: "https", Host: "localhost:2379"}, {Scheme: "unixs", Path: "/s"}}
	pair, err := SelfSigned(dir, urls, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := NewTLS(TLSOptions{CertFile: pair.CertFile, KeyFile: pair.KeyFile})
	if err != nil {
		t.Fatal(err)
	}
	listeners := open(t, Options{TLS: config}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	checkAll(t, listeners[0], &tls.Config{InsecureSkipVerify: true})

	cert := served(t, listeners[0])
	if err := errors.Join(cert.VerifyHostname("127.0.0.1"), cert.VerifyHostname("localhost")); err != nil {
		t.Error(err)
	}
	if years := cert.NotAfter.Sub(cert.NotBefore).Hours() / 24 / 365; years != 2 {
		t.Errorf("valid for %v years", years)
	}
	if info, err := os.Stat(pair.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info, err)
	}
	if _, err := SelfSigned(dir, urls, 1); err != nil || !served(t, listeners[0]).Equal(cert) {
		t.Errorf("made anew though it was there (%v)", err)
	}
	if _, err := SelfSigned(t.TempDir(), urls, 0); !errors.Is(err, ErrNoValidity) {
		t.Errorf("for no years: %v", err)
	}
}
