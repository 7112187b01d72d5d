package pg

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// TLSUser is the superuser who has a client certificate and no password, in a server with Options.TLS.
const TLSUser = "keelson_tls"

// TLSFiles are the paths of PEM files. A client checks the server by CA, and shows it Cert and Key.
type TLSFiles struct {
	CA, Cert, Key string

	serverCert, serverKey string
}

// TLSFiles are the files for clients of this server; all servers of a process have the same.
func (s *Server) TLSFiles() TLSFiles { return s.workshop.tls }

// TLSURL is for clients of a server with Options.TLS: as TLSUser, with a client certificate, and both sides verified.
func (s *Server) TLSURL(database string) string {
	files := s.workshop.tls
	return clientURL(s.Address(), url.User(TLSUser), database, url.Values{
		"sslmode": {"verify-full"}, "sslrootcert": {files.CA}, "sslcert": {files.Cert}, "sslkey": {files.Key},
	})
}

// TLSPasswordURL is like TLSURL, but as Superuser with the password and without a client certificate.
func (s *Server) TLSPasswordURL(database string) string {
	return clientURL(s.Address(), url.UserPassword(Superuser, s.Password()), database, url.Values{
		"sslmode": {"verify-full"}, "sslrootcert": {s.workshop.tls.CA},
	})
}

// makeTLS makes a CA, and the keys and certificates of server and client.
func (w *workshop) makeTLS() (TLSFiles, error) {
	dir := filepath.Join(w.dir, "tls")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return TLSFiles{}, err
	}
	if err := w.own(dir); err != nil {
		return TLSFiles{}, err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	files := TLSFiles{CA: path("ca.crt"), Cert: path("client.crt"), Key: path("client.key"),
		serverCert: path("server.crt"), serverKey: path("server.key")}

	ca := certificate(1, "Keelson test CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caKey, err := w.issue(ca, issuer{cert: ca}, files.CA, path("ca.key"))
	if err != nil {
		return TLSFiles{}, err
	}
	by := issuer{cert: ca, key: caKey}
	server := certificate(2, "localhost")
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	server.DNSNames, server.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	if _, err := w.issue(server, by, files.serverCert, files.serverKey); err != nil {
		return TLSFiles{}, err
	}
	client := certificate(3, TLSUser)
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	_, err = w.issue(client, by, files.Cert, files.Key)
	return files, err
}

func certificate(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// issuer signs a certificate. Without a key, the certificate signs itself.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes a key, and has its certificate signed.
func (w *workshop) issue(cert *x509.Certificate, by issuer, certPath, keyPath string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if by.key == nil {
		by.key = key
	}
	signed, err := x509.CreateCertificate(rand.Reader, cert, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := w.writeFile(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})); err != nil {
		return nil, err
	}
	return key, w.writeFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}
