package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// ErrNoValidity says that a certificate was to be made that is never valid.
var ErrNoValidity = errors.New("selfSignedCertValidity is invalid,it should be greater than 0")

// KeyPair names a certificate and its key.
type KeyPair struct{ CertFile, KeyFile string }

// SelfSigned returns a certificate for the hosts of the URLs that it signs itself, kept in dir. One that is there
// and has not expired is used again.
func SelfSigned(dir string, urls []url.URL, years uint) (KeyPair, error) {
	if years == 0 {
		return KeyPair{}, ErrNoValidity
	}
	pair := KeyPair{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	if found, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile); err == nil && time.Now().Before(found.Leaf.NotAfter) {
		return pair, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return KeyPair{}, err
	}
	cert, key, err := selfSigned(urls, years)
	if err != nil {
		return KeyPair{}, fmt.Errorf("make a certificate: %w", err)
	}
	if err := writePEM(pair.KeyFile, "EC PRIVATE KEY", key); err != nil {
		return KeyPair{}, err
	}
	return pair, writePEM(pair.CertFile, "CERTIFICATE", cert)
}

func selfSigned(urls []url.URL, years uint) (cert, key []byte, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"keelson"}},
		NotBefore:             now,
		NotAfter:              now.Add(time.Duration(years) * 365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	for _, u := range urls {
		if ip := net.ParseIP(u.Hostname()); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if u.Hostname() != "" {
			template.DNSNames = append(template.DNSNames, u.Hostname())
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if cert, err = x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalECPrivateKey(private)
	return cert, key, err
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
