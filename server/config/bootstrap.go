package config

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sort"
	"strings"
)

// VerifyBootstrap refuses an initial cluster that this member is not in as it advertises itself. It is for a
// member that has no data yet; one that has knows better. Names in URLs are resolved if they must be.
func (o *Options) VerifyBootstrap(ctx context.Context) error {
	c, err := parseCluster(o.InitialCluster)
	if err != nil {
		return fmt.Errorf("error setting up initial cluster: %w", err)
	}
	if c[o.Name] == nil {
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration", o.Name)
	}
	if o.ClusterState == ClusterStateNew {
		if err := o.advertiseMatches(ctx, c[o.Name]); err != nil {
			return err
		}
	}
	if c.hasDuplicateURL() {
		return fmt.Errorf("initial cluster %s has duplicate url", c)
	}
	return nil
}

// Others gives the names of the other members that the initial cluster has, in order.
func (o *Options) Others() ([]string, error) {
	c, err := parseCluster(o.InitialCluster)
	if err != nil {
		return nil, fmt.Errorf("error setting up initial cluster: %w", err)
	}
	var others []string
	for name := range c {
		if name != o.Name {
			others = append(others, name)
		}
	}
	sort.Strings(others)
	return others, nil
}

// Founders gives the initial cluster: the peer URLs by member name.
func (o *Options) Founders() (map[string]URLs, error) {
	c, err := parseCluster(o.InitialCluster)
	if err != nil {
		return nil, fmt.Errorf("error setting up initial cluster: %w", err)
	}
	return c, nil
}

// advertiseMatches compares this member's URLs in the initial cluster with those that it advertises.
func (o *Options) advertiseMatches(ctx context.Context, initial URLs) error {
	advertised := o.AdvertisePeerURLs.Strings()
	sort.Strings(advertised)
	why := sameURLs(ctx, o.AdvertisePeerURLs, initial)
	if why == nil {
		return nil
	}
	if missing := without(initial.Strings(), advertised); len(missing) > 0 {
		return fmt.Errorf("--initial-cluster has %s%s but missing from --initial-advertise-peer-urls=%s (%w)",
			o.Name+"=", strings.Join(missing, ","+o.Name+"="), strings.Join(advertised, ","), why)
	}
	own := cluster{o.Name: o.AdvertisePeerURLs}
	if missing := without(advertised, initial.Strings()); len(missing) > 0 {
		return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s", strings.Join(missing, ","), own)
	}
	return fmt.Errorf("failed to resolve %s to match --initial-cluster=%s (%w)", strings.Join(advertised, ","), own, why)
}

// sameURLs says why two lists do not name the same places, if they do not.
func sameURLs(ctx context.Context, a, b URLs) error {
	if len(a) != len(b) {
		return fmt.Errorf("len(%q) != len(%q)", a.Strings(), b.Strings())
	}
	if differing(a, b) < 0 {
		return nil
	}
	a, err := resolved(ctx, a)
	if err != nil {
		return err
	}
	if b, err = resolved(ctx, b); err != nil {
		return err
	}
	if i := differing(a, b); i >= 0 {
		return fmt.Errorf("resolved urls: %q != %q", a[i].String(), b[i].String())
	}
	return nil
}

func differing(a, b URLs) int {
	for i := range a {
		if a[i].Scheme != b[i].Scheme || a[i].Path != b[i].Path || canonicalHost(a[i].Host) != canonicalHost(b[i].Host) {
			return i
		}
	}
	return -1
}

// canonicalHost writes an address in the one way that Go does.
func canonicalHost(hostport string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	if ip := net.ParseIP(host); ip != nil {
		return net.JoinHostPort(ip.String(), port)
	}
	return hostport
}

// resolved replaces host names by addresses, but for localhost and sockets.
func resolved(ctx context.Context, urls URLs) (URLs, error) {
	result := slices.Clone(urls)
	for i, u := range urls {
		host, port, err := net.SplitHostPort(u.Host)
		if u.Scheme == "unix" || u.Scheme == "unixs" || host == "localhost" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("failed to resolve %q (%w)", u.String(), err)
		}
		ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("failed to resolve %q (%w)", u.String(), err)
		}
		result[i].Host = net.JoinHostPort(ips[0].String(), port)
	}
	sort.SliceStable(result, func(i, j int) bool { return result[i].String() < result[j].String() })
	return result, nil
}

func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

// Indistinct tells whether the flags found the same cluster as those of every other server that is started alone with the default peer URL and token.
func (o *Options) Indistinct() bool {
	d := Default()
	return slices.Equal(o.AdvertisePeerURLs.Strings(), d.AdvertisePeerURLs.Strings()) && o.InitialClusterToken == d.InitialClusterToken
}
