package listen

import (
	"crypto/tls"
	"fmt"
)

// NewClientTLS is for who dials listeners with TLS: the members of a cluster each other. The options are read from that
// side: CertFile and KeyFile, which may be empty, are shown to a server that asks; TrustedCAFile has the authorities of
// servers, the system's if empty; the revocation list and the allowed names are about servers.
//
// unverified accepts every server, as is needed where all have certificates that they signed themselves.
//
// The function that it returns gives the configuration by the files as they are now, or as they last could be used. It
// may be called concurrently.
func NewClientTLS(o TLSOptions, unverified bool) (func() *tls.Config, error) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, fmt.Errorf("%w[key: %v, cert: %v]", ErrNoKeyPair, o.KeyFile, o.CertFile)
	}
	if err := o.checkAllowed(); err != nil {
		return nil, err
	}
	files, err := follow(o, func() (*tls.Config, error) { return o.clientConfig(unverified) })
	if err != nil {
		return nil, err
	}
	return files.current, nil
}

func (o TLSOptions) clientConfig(unverified bool) (*tls.Config, error) {
	config := o.baseConfig()
	config.InsecureSkipVerify = unverified
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, err
		}
		// Unlike Certificates, this shows it whatever authorities the server says it trusts.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	if o.TrustedCAFile != "" {
		var err error
		if config.RootCAs, err = loadPool(o.TrustedCAFile); err != nil {
			return nil, err
		}
	}
	return config, o.judgeBy(config)
}
