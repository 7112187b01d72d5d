package listen

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
)

var (
	// ErrNoKeyPair says that TLS was asked for without a certificate and its key.
	ErrNoKeyPair = errors.New("KeyFile and CertFile must both be present")
	// ErrClientRejected says that a client's certificate is valid and not one of those that are let in.
	ErrClientRejected = errors.New("client certificate authentication failed")
	// ErrRevoked says that a client's certificate is on the revocation list.
	ErrRevoked = errors.New("certificate revoked")
)

// TLSOptions are the files and rules of a listener's TLS.
type TLSOptions struct {
	// CertFile and KeyFile are the server's certificate and key, in PEM.
	CertFile, KeyFile string
	// TrustedCAFile has the authorities of client certificates, in PEM. Named, a client certificate is demanded.
	TrustedCAFile string
	// ClientCertAuth demands a client certificate, of the system's authorities if TrustedCAFile is empty.
	ClientCertAuth bool
	// CRLFile lists revoked client certificates, in DER or PEM.
	CRLFile string
	// AllowedCNs and AllowedHostnames, one of them at most, are the names of which a client certificate must have one.
	AllowedCNs, AllowedHostnames []string
	// CheckRemoteSAN lets a client certificate that names hosts in only from one of these hosts.
	CheckRemoteSAN bool
	// CipherSuites, MinVersion and MaxVersion are tls.Config's; 0 as MinVersion means TLS 1.2.
	CipherSuites           []uint16
	MinVersion, MaxVersion uint16
	// Log hears of files that cannot be read anew. Nil discards.
	Log *slog.Logger
}

// TLS is a listener's TLS. It reads its files anew when they have changed, at the next handshake.
type TLS struct {
	options TLSOptions
	files   *followed
}

// NewTLS reads the files for the first time, and fails if they cannot be used.
func NewTLS(o TLSOptions) (*TLS, error) {
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, fmt.Errorf("%w[key: %v, cert: %v]", ErrNoKeyPair, o.KeyFile, o.CertFile)
	}
	if err := o.checkAllowed(); err != nil {
		return nil, err
	}
	files, err := follow(o, o.serverConfig)
	return &TLS{options: o, files: files}, err
}

func (o *TLSOptions) checkAllowed() error {
	if len(o.AllowedCNs) > 0 && len(o.AllowedHostnames) > 0 {
		return fmt.Errorf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)", o.AllowedCNs, o.AllowedHostnames)
	}
	return nil
}

// ServerConfig returns a configuration that follows the files.
func (t *TLS) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.files.current(), nil },
	}
}

// serverConfig is the configuration by the files as they are.
func (o TLSOptions) serverConfig() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, err
	}
	config := o.baseConfig()
	config.Certificates = []tls.Certificate{pair}
	config.NextProtos = []string{"h2", "http/1.1"}
	if o.TrustedCAFile != "" || o.ClientCertAuth {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		// A ticket would let a client in whom the files no longer do.
		config.SessionTicketsDisabled = true
	}
	if o.TrustedCAFile != "" {
		if config.ClientCAs, err = loadPool(o.TrustedCAFile); err != nil {
			return nil, err
		}
	}
	return config, o.judgeBy(config)
}

func (o TLSOptions) baseConfig() *tls.Config {
	return &tls.Config{CipherSuites: o.CipherSuites, MinVersion: max(o.MinVersion, tls.VersionTLS12), MaxVersion: o.MaxVersion}
}

// judgeBy has the configuration judge the other side's certificate.
func (o TLSOptions) judgeBy(config *tls.Config) error {
	var revoked map[string]bool
	if o.CRLFile != "" {
		var err error
		if revoked, err = loadCRL(o.CRLFile); err != nil {
			return err
		}
	}
	config.VerifyConnection = func(state tls.ConnectionState) error { return o.admit(state, revoked) }
	return nil
}

func loadPool(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: no certificates", path)
	}
	return pool, nil
}

// loadCRL returns the serial numbers on the list.
func loadCRL(path string) (map[string]bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil && bytes.HasPrefix(data, []byte("-----BEGIN")) {
		data = block.Bytes
	}
	list, err := x509.ParseRevocationList(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	revoked := map[string]bool{}
	for _, entry := range list.RevokedCertificateEntries {
		revoked[entry.SerialNumber.String()] = true
	}
	return revoked, nil
}

// admit judges the other side's certificate, a client's or a member's, that is valid as such.
func (o *TLSOptions) admit(state tls.ConnectionState, revoked map[string]bool) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	for _, cert := range state.PeerCertificates {
		if revoked[cert.SerialNumber.String()] {
			return fmt.Errorf("%w: serial %x", ErrRevoked, cert.SerialNumber)
		}
	}
	leaf := state.PeerCertificates[0]
	named := func(host string) bool { return leaf.VerifyHostname(host) == nil }
	switch {
	case len(o.AllowedCNs) > 0 && !slices.Contains(o.AllowedCNs, leaf.Subject.CommonName):
		return ErrClientRejected
	case len(o.AllowedHostnames) > 0 && !slices.ContainsFunc(o.AllowedHostnames, named):
		return ErrClientRejected
	}
	return nil
}
