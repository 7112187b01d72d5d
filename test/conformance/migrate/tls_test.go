package migrate

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
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/keelson-io/keelson/test/conformance/launch"
	"github.com/keelson-io/keelson/test/conformance/script"
)

// authority signs certificates. Its own is ca.crt.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	a.sign("both", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign writes name.crt and name.key.
func (a *authority) sign(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key := must[*ecdsa.PrivateKey](a.t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter, template.BasicConstraintsValid = time.Now().Add(-time.Hour), time.Now().Add(time.Hour), true
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der := must[[]byte](a.t)(x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer))
	keyDER := must[[]byte](a.t)(x509.MarshalECPrivateKey(key))
	for file, block := range map[string]*pem.Block{name + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER}, name + ".crt": {Type: "CERTIFICATE", Bytes: der}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return must[*x509.Certificate](a.t)(x509.ParseCertificate(der)), key
}

// startSecure starts a server that asks clients for a certificate of this authority's.
func (a *authority) startSecure(name, dir string) *server {
	a.t.Helper()
	l := must[net.Listener](a.t)(net.Listen("tcp", "127.0.0.1:0"))
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		a.t.Fatal(err)
	}
	p, err := launch.Start(a.t.Context(), launch.Options{Binary: tool(a.t, name), Dir: dir, Flags: []string{
		"--listen-client-urls=https://" + address, "--advertise-client-urls=https://" + address, "--client-cert-auth",
		"--trusted-ca-file=" + a.file("ca.crt"), "--cert-file=" + a.file("both.crt"), "--key-file=" + a.file("both.key"),
	}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			a.t.Error(err)
		}
		if a.t.Failed() {
			a.t.Logf("the end of %s's log:\n%s", name, p.LogTail())
		}
	})
	pair := must[tls.Certificate](a.t)(tls.LoadX509KeyPair(a.file("both.crt"), a.file("both.key")))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	conn := must[*grpc.ClientConn](a.t)(script.Dial(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}))))
	a.t.Cleanup(func() { conn.Close() })
	return &server{a.t, clientsOf(conn), p.Stop, p.Kill, "https://" + address}
}

// TestTLS: servers that ask for certificates are shown one, the target another one than the source if it is told so.
func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	from, to := ours.startSecure("etcd", t.TempDir()), theirs.startSecure("keelson", t.TempDir())
	must[*pb.PutResponse](t)(from.Put(t.Context(), &pb.PutRequest{Key: []byte("/a"), Value: []byte("x")}))
	source := []string{"--cacert", ours.file("ca.crt"), "--cert", ours.file("both.crt"), "--key", ours.file("both.key")}
	target := []string{"--to-cacert", theirs.file("ca.crt"), "--to-cert", theirs.file("both.crt"), "--to-key", theirs.file("both.key"), "--yes"}

	dir := filepath.Join(t.TempDir(), "data")
	refused(t, "--cacert names the authority", from.url, "dir:"+dir)
	refused(t, "--cert and --key the certificate", from.url, "dir:"+dir, source[:2]...)
	refused(t, "has a URL with https", "http"+from.url[len("https"):], "dir:"+dir)
	migrate(t, from.url, "dir:"+dir, source...)
	refused(t, "unknown authority", from.url, to.url, append(source, "--yes")...)
	migrate(t, from.url, to.url, append(source, target...)...)
	if want, got := from.values(), to.values(); want != got || want == "" {
		t.Errorf("it has %s, and not %s", got, want)
	}
}
