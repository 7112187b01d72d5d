package listen

import (
	"crypto/tls"
	"os"
	"testing"
)

// TestClientTLSFollowsFiles: who dials refuses a server whose certificate was revoked, or whose authority is trusted
// no more, from the next connection on.
func TestClientTLSFollowsFiles(t *testing.T) {
	a := newAuthority(t)
	o := a.options()
	server := a.issue("server", "127.0.0.1")
	o.TrustedCAFile, o.CRLFile = a.file("ca.crt"), a.file("crl")
	a.revoke(o.CRLFile)
	listeners := open(t, Options{TLS: a.tls(TLSOptions{CertFile: o.CertFile, KeyFile: o.KeyFile})}, "https://127.0.0.1:0")
	serve(t, listeners, nil)
	config, err := NewClientTLS(o, false)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		c, err := tls.Dial("tcp", listeners[0].Addr().String(), config())
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(); err != nil {
		t.Error(err)
	}
	a.revoke(o.CRLFile, server.SerialNumber)
	if err := dial(); err == nil {
		t.Error("a revoked certificate is accepted")
	}
	a.revoke(o.CRLFile)
	if err := dial(); err != nil {
		t.Error(err)
	}
	if err := os.Rename(newAuthority(t).file("ca.crt"), o.TrustedCAFile); err != nil {
		t.Fatal(err)
	}
	if err := dial(); err == nil {
		t.Error("an authority is accepted that is trusted no more")
	}
}
