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
	"sync"
	"time"
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

	mu     sync.Mutex
	loaded *loadedTLS
	failed []stamp // the files that could not be loaded, so as to say so once
}

// loadedTLS is what one reading of the files came to.
type loadedTLS struct {
	stamps []stamp
	config *tls.Config
}

// NewTLS reads the files for the first time, and fails if they cannot be used.
func NewTLS(o TLSOptions) (*TLS, error) {
	if o.CertFile == "" || o.KeyFile == "" {
		return nil, fmt.Errorf("%w[key: %v, cert: %v]", ErrNoKeyPair, o.KeyFile, o.CertFile)
	}
	if len(o.AllowedCNs) > 0 && len(o.AllowedHostnames) > 0 {
		return nil, fmt.Errorf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)", o.AllowedCNs, o.AllowedHostnames)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &TLS{options: o}
	var err error
	t.loaded, err = t.load()
	return t, err
}

// ServerConfig returns a configuration that follows the files.
func (t *TLS) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current(), nil },
	}
}

// current is the configuration by the files as they are now, or as they last could be used.
func (t *TLS) current() *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.stamps()
	if slices.EqualFunc(now, t.loaded.stamps, stamp.same) || t.failed != nil && slices.EqualFunc(now, t.failed, stamp.same) {
		return t.loaded.config
	}
	fresh, err := t.load()
	if err != nil {
		t.failed = now
		t.options.Log.Warn("TLS files have changed and cannot be used; the ones before stay in use", "cert-file", t.options.CertFile, "error", err)
		return t.loaded.config
	}
	t.failed = nil
	t.loaded = fresh
	return fresh.config
}

// stamp tells one state of a file from another without reading it.
type stamp struct {
	info os.FileInfo // nil if there is none
	seen time.Time
}

// settling is how long after its last change a file may change again without a trace in its times.
const settling = time.Second

// same says that the file is certainly the one that the older stamp, b, was made of.
func (a stamp) same(b stamp) bool {
	if a.info == nil || b.info == nil {
		return a.info == nil && b.info == nil
	}
	return os.SameFile(a.info, b.info) && a.info.ModTime().Equal(b.info.ModTime()) && a.info.Size() == b.info.Size() &&
		b.seen.Sub(b.info.ModTime()) > settling
}

func (t *TLS) stamps() []stamp {
	o := t.options
	var list []stamp
	for _, path := range []string{o.CertFile, o.KeyFile, o.TrustedCAFile, o.CRLFile} {
		s := stamp{seen: time.Now()}
		if path != "" {
			s.info, _ = os.Stat(path)
		}
		list = append(list, s)
	}
	return list
}

func (t *TLS) load() (*loadedTLS, error) {
	o := t.options
	// The stamps are older than what is read, so that a change in between is seen next time.
	stamps := t.stamps()
	pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		CipherSuites: o.CipherSuites,
		MinVersion:   max(o.MinVersion, tls.VersionTLS12),
		MaxVersion:   o.MaxVersion,
		NextProtos:   []string{"h2", "http/1.1"},
	}
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
	var revoked map[string]bool
	if o.CRLFile != "" {
		if revoked, err = loadCRL(o.CRLFile); err != nil {
			return nil, err
		}
	}
	config.VerifyConnection = func(state tls.ConnectionState) error { return o.admit(state, revoked) }
	return &loadedTLS{stamps: stamps, config: config}, nil
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

// admit judges a client certificate that is valid as such.
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
