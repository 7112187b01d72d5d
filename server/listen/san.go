package listen

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
)

// checkRemote says whether a client comes from a host that its certificate names. A certificate that names none
// is good from everywhere, as is a connection without an address.
func checkRemote(ctx context.Context, cert *x509.Certificate, remote net.Addr) error {
	addr, ok := remote.(*net.TCPAddr)
	if !ok || len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	host := addr.IP.String()
	for _, ip := range cert.IPAddresses {
		if ip.Equal(addr.IP) {
			return nil
		}
	}
	if len(cert.DNSNames) == 0 {
		return cert.VerifyHostname(host)
	}
	if comesFrom(ctx, host, cert.DNSNames) {
		return nil
	}
	return fmt.Errorf("%w: tls: %q does not match any of DNSNames %q", ErrClientRejected, host, cert.DNSNames)
}

// comesFrom asks the resolver for the names of the address, and for the addresses of the names.
func comesFrom(ctx context.Context, host string, names []string) bool {
	found, _ := net.DefaultResolver.LookupAddr(ctx, host)
	for _, name := range found {
		name = strings.TrimSuffix(name, ".")
		for _, allowed := range names {
			suffix, wildcard := strings.CutPrefix(allowed, "*")
			if name == allowed || wildcard && strings.HasSuffix(name, suffix) {
				return true
			}
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, "*.") {
			continue
		}
		addrs, _ := net.DefaultResolver.LookupHost(ctx, name)
		if slices.Contains(addrs, host) {
			return true
		}
	}
	return false
}
