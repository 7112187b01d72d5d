package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sort"
	"strings"
)

// URLs is a list of URLs to listen on or to advertise, sorted, of the schemes http, https, unix and unixs.
type URLs []url.URL

// ParseURLs reads a comma-separated list, with etcd's errors.
func ParseURLs(list string) (URLs, error) {
	var urls URLs
	for text := range strings.SplitSeq(list, ",") {
		u, err := parseURL(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		urls = append(urls, *u)
	}
	sort.SliceStable(urls, func(i, j int) bool { return urls[i].String() < urls[j].String() })
	return urls, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http", "https":
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return nil, fmt.Errorf(`URL address does not have the form "host:port": %s`, text)
		}
		if u.Path != "" {
			return nil, fmt.Errorf("URL must not contain a path: %s", text)
		}
	case "unix", "unixs":
	default:
		return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
	}
	return u, nil
}

// mustURLs is for the defaults, which are constants.
func mustURLs(list string) URLs {
	urls, err := ParseURLs(list)
	if err != nil {
		panic(err)
	}
	return urls
}

// Strings returns the URLs as text.
func (us URLs) Strings() []string {
	texts := make([]string, len(us))
	for i := range us {
		texts[i] = us[i].String()
	}
	return texts
}

// String returns the URLs as a comma-separated list.
func (us URLs) String() string { return strings.Join(us.Strings(), ",") }

// Set reads a comma-separated list. Duplicates count once; an empty list changes nothing, as in etcd.
func (us *URLs) Set(list string) error {
	if list == "" {
		return nil
	}
	urls, err := ParseURLs(list)
	if err != nil {
		return err
	}
	*us = slices.CompactFunc(urls, func(a, b url.URL) bool { return a.String() == b.String() })
	return nil
}

// UnmarshalJSON reads the comma-separated list that a configuration file has.
func (us *URLs) UnmarshalJSON(data []byte) error {
	var list string
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	return us.Set(list)
}

// cluster is an initial cluster: the peer URLs of each member by name.
type cluster map[string]URLs

// parseCluster reads name=url[,name=url...]; a name that comes twice has both URLs.
func parseCluster(list string) (cluster, error) {
	texts := map[string][]string{}
	for entry := range strings.SplitSeq(list, ",") {
		if entry == "" {
			continue
		}
		name, u, _ := strings.Cut(entry, "=")
		texts[name] = append(texts[name], u)
	}
	c := cluster{}
	for name, us := range texts {
		urls, err := ParseURLs(strings.Join(us, ","))
		if err != nil {
			return nil, err
		}
		c[name] = urls
	}
	return c, nil
}

// String returns the cluster as name=url pairs, sorted.
func (c cluster) String() string {
	var pairs []string
	for name, urls := range c {
		for _, u := range urls.Strings() {
			pairs = append(pairs, name+"="+u)
		}
	}
	sort.Strings(pairs)
	return strings.Join(pairs, ",")
}

func (c cluster) hasDuplicateURL() bool {
	seen := map[string]bool{}
	for _, urls := range c {
		for _, u := range urls.Strings() {
			if seen[u] {
				return true
			}
			seen[u] = true
		}
	}
	return false
}

// Members returns the names and peer URLs of the initial cluster.
func (o *Options) Members() (map[string]URLs, error) { return parseCluster(o.InitialCluster) }

func clusterOf(name string, urls URLs) string {
	pairs := make([]string, len(urls))
	for i, u := range urls.Strings() {
		pairs[i] = name + "=" + u
	}
	return strings.Join(pairs, ",")
}

// advertiseHost replaces the default host to advertise by the machine's own where the server listens on every
// address: "localhost" would send the others astray. A machine without a default route keeps the default.
func (o *Options) advertiseHost() {
	for _, pair := range []struct {
		listen    URLs
		advertise *URLs
		ifIs      string
	}{
		{o.ListenPeerURLs, &o.AdvertisePeerURLs, defaultPeerURL},
		{o.ListenClientURLs, &o.AdvertiseClientURLs, defaultClientURL},
	} {
		if pair.advertise.String() != pair.ifIs || len(pair.listen) == 0 || pair.listen[0].Hostname() != "0.0.0.0" {
			continue
		}
		host, err := defaultHost()
		if err != nil {
			continue
		}
		*pair.advertise = URLs{{Scheme: "http", Host: net.JoinHostPort(host, pair.listen[0].Port())}}
	}
}

// defaultHost is the address that the machine's default route leaves from. A UDP socket that is connected and
// never written to makes the kernel choose it without a packet on the wire.
func defaultHost() (string, error) {
	conn, err := net.Dial("udp", "198.51.100.1:9")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	addr, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return "", errors.New("no default route")
	}
	return addr.IP.String(), nil
}
