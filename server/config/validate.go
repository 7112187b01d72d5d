package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What can be wrong with options that have a name in etcd. The other errors are told by their text.
var (
	ErrUnsetAdvertiseClientURLs = errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	ErrConflictBootstrapFlags   = errors.New(`multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`)
	ErrLogRotationOutput        = errors.New("--log-outputs requires a single file path when --log-rotate-config-json is defined")
	// ErrDiscovery says that etcd's discovery was asked for. To ignore it would found a cluster of its own.
	ErrDiscovery = errors.New("discovery is not supported: name the members in --initial-cluster")
)

const (
	fallbackExit  = "exit"
	fallbackProxy = "proxy"

	tls12 = "TLS1.2"
	tls13 = "TLS1.3"

	maxElectionTimeout = 50000
)

// Validate refuses options that contradict each other or cannot be, in etcd's words and etcd's order.
func (o *Options) Validate() error {
	for _, check := range []func() error{
		o.validateLogging, o.ValidateDatastore, o.validateURLs, o.validateBootstrap, o.validateRaft, o.validateAdvertise,
		o.validateCompaction, o.validateFeatures, o.validateTLS, o.validateListeners, o.validateBackups,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// ValidateDatastore refuses databases that are not known; Validate includes it. It shows no URL, which may have a password in it.
func (o *Options) ValidateDatastore() error {
	if o.Datastore == "" {
		if o.DatastorePasswordFile != "" {
			return errors.New("--datastore-password-file is given, and no --datastore")
		}
		return nil
	}
	scheme, _, ok := strings.Cut(o.Datastore, "://")
	switch {
	case ok && scheme != "postgres" && scheme != "postgresql":
		return errors.New("--datastore: only postgres:// is supported")
	case !ok && !strings.Contains(o.Datastore, "="):
		return errors.New("--datastore is neither a URL, as postgres://user@host/database, nor libpq's key=value pairs")
	}
	return nil
}

// showsPassword tells whether arguments have a password in a database's URL, where every user of the machine can read it.
func showsPassword(args []string) bool {
	for i, a := range args {
		name, value, ok := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if name != "datastore" {
			continue
		}
		if !ok && i+1 < len(args) {
			value = args[i+1]
		}
		if u, err := url.Parse(value); err == nil && u.User != nil {
			if _, set := u.User.Password(); set {
				return true
			}
		}
		if strings.Contains(value, "password=") {
			return true
		}
	}
	return false
}

func (o *Options) validateLogging() error {
	switch o.Logger {
	case "zap":
	case "capnslog":
		return errors.New("--logger=capnslog is removed in v3.5")
	default:
		return fmt.Errorf("unknown logger option %q", o.Logger)
	}
	if len(o.LogOutputs) > 1 && slices.Contains(o.LogOutputs, LogOutputDefault) {
		return fmt.Errorf("multi logoutput for %q is not supported yet", LogOutputDefault)
	}
	if o.EnableLogRotation {
		if _, err := o.LogRotation(); err != nil {
			return err
		}
	}
	if len(o.LogOutputs) > 1 && slices.Contains(o.LogOutputs, LogOutputJournal) {
		return fmt.Errorf("running with systemd/journal but other '--log-outputs' values (%q) are configured with 'default'; override 'default' value with something else", o.LogOutputs)
	}
	switch o.LogFormat {
	case LogJSON, LogConsole:
	default:
		return fmt.Errorf("unknown log format: %s, supported values json, console", o.LogFormat)
	}
	switch strings.ToLower(o.LogLevel) {
	case "", "debug", "info", "warn", "warning", "error", "dpanic", "panic", "fatal":
	default:
		return fmt.Errorf("unrecognized level: %q", o.LogLevel)
	}
	return nil
}

func (o *Options) validateURLs() error {
	for _, urls := range []URLs{o.ListenPeerURLs, o.ListenClientURLs, o.ListenClientHTTPURLs, o.ListenMetricsURLs} {
		if err := checkBindURLs(urls); err != nil {
			return err
		}
	}
	if err := checkHostURLs(o.AdvertisePeerURLs); err != nil {
		return fmt.Errorf(`--initial-advertise-peer-urls %q must be "host:port" (%w)`, o.AdvertisePeerURLs.String(), err)
	}
	if err := checkHostURLs(o.AdvertiseClientURLs); err != nil {
		return fmt.Errorf(`--advertise-client-urls %q must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (%w)`, o.AdvertiseClientURLs.String(), err)
	}
	return nil
}

// checkBindURLs refuses host names: one may resolve to an address of another machine, or to several.
func checkBindURLs(urls URLs) error {
	return eachHost(urls, func(u url.URL, host string) error {
		if host != "localhost" && net.ParseIP(host) == nil {
			return fmt.Errorf("expected IP in URL for binding (%s)", u.String())
		}
		return nil
	})
}

func checkHostURLs(urls URLs) error {
	return eachHost(urls, func(u url.URL, host string) error {
		if host == "" {
			return fmt.Errorf("unexpected empty host (%s)", u.String())
		}
		return nil
	})
}

func eachHost(urls URLs, check func(url.URL, string) error) error {
	for _, u := range urls {
		if u.Scheme == "unix" || u.Scheme == "unixs" {
			continue
		}
		host, _, err := net.SplitHostPort(u.Host)
		if err != nil {
			return err
		}
		if err := check(u, host); err != nil {
			return err
		}
	}
	return nil
}

// discovers says whether any of etcd's ways of discovery is asked for.
func (o *Options) discovers() bool {
	return o.DNSCluster != "" || o.DNSClusterServiceName != "" || len(o.Discovery.Endpoints) > 0
}

func (o *Options) validateBootstrap() error {
	if o.Discovery.Fallback == fallbackProxy {
		return fmt.Errorf("v2 proxy is deprecated, and --discovery-fallback can't be configured as %q", fallbackProxy)
	}
	if o.ClusterState != ClusterStateNew && o.ClusterState != ClusterStateExisting {
		return fmt.Errorf("unexpected clusterState %q", o.ClusterState)
	}
	ways := 0
	for _, way := range []bool{o.InitialCluster != "", o.DNSCluster != "", len(o.Discovery.Endpoints) > 0} {
		if way {
			ways++
		}
	}
	if ways > 1 {
		return ErrConflictBootstrapFlags
	}
	if (o.Discovery.Token != "") != (len(o.Discovery.Endpoints) > 0) {
		return errors.New("both --discovery-token and --discovery-endpoints must be set")
	}
	if o.discovers() || o.Discovery.URL != "" || o.Discovery.Proxy != "" {
		return ErrDiscovery
	}
	return nil
}

func (o *Options) validateRaft() error {
	switch {
	case o.HeartbeatInterval == 0:
		return fmt.Errorf("--heartbeat-interval must be >0 (set to %dms)", o.HeartbeatInterval)
	case o.ElectionTimeout == 0:
		return fmt.Errorf("--election-timeout must be >0 (set to %dms)", o.ElectionTimeout)
	case 5*o.HeartbeatInterval > o.ElectionTimeout:
		return fmt.Errorf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]", o.ElectionTimeout, o.HeartbeatInterval)
	case o.ElectionTimeout > maxElectionTimeout:
		return fmt.Errorf("--election-timeout[%vms] is too long, and should be set less than %vms", o.ElectionTimeout, maxElectionTimeout)
	case o.CompactHashCheckTime <= 0:
		return fmt.Errorf("--compact-hash-check-time must be >0 (set to %v)", o.CompactHashCheckTime)
	}
	return nil
}

func (o *Options) validateAdvertise() error {
	if o.ListenClientURLs != nil && o.AdvertiseClientURLs == nil {
		return ErrUnsetAdvertiseClientURLs
	}
	return nil
}

func (o *Options) validateCompaction() error {
	if o.HistoryRetention < 0 {
		return fmt.Errorf("--history-retention: %v is negative", o.HistoryRetention)
	}
	_, err := o.AutoCompaction()
	return err
}

// Compaction is how much history the server keeps by itself. All zero, it keeps everything.
type Compaction struct {
	// Period is for how long, in mode periodic.
	Period time.Duration
	// Revisions is how many, in mode revision.
	Revisions int64
}

// AutoCompaction reads AutoCompactionRetention the way AutoCompactionMode says.
func (o *Options) AutoCompaction() (Compaction, error) {
	n, err := strconv.ParseInt(o.AutoCompactionRetention, 10, 64)
	whole := err == nil && n >= 0
	switch o.AutoCompactionMode {
	case CompactionRevision:
		if !whole {
			return Compaction{}, fmt.Errorf("error parsing CompactionRetention: %q is not a number of revisions", o.AutoCompactionRetention)
		}
		return Compaction{Revisions: n}, nil
	case CompactionPeriodic:
		if whole && n <= math.MaxInt64/int64(time.Hour) {
			return Compaction{Period: time.Duration(n) * time.Hour}, nil
		}
		period, err := time.ParseDuration(o.AutoCompactionRetention)
		if err != nil {
			return Compaction{}, fmt.Errorf("error parsing CompactionRetention: %w", err)
		}
		if period < 0 {
			return Compaction{}, fmt.Errorf("error parsing CompactionRetention: %s is negative", period)
		}
		return Compaction{Period: period}, nil
	case "":
		return Compaction{}, errors.New("undefined auto-compaction-mode")
	}
	return Compaction{}, fmt.Errorf("unknown auto-compaction-mode %q", o.AutoCompactionMode)
}

func (o *Options) validateFeatures() error {
	if o.FeatureGates.Enabled("LeaseCheckpointPersist") && !o.FeatureGates.Enabled("LeaseCheckpoint") {
		return errors.New("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
	}
	return nil
}

// TLSVersion turns "TLS1.2", "TLS1.3" or "", which leaves it to Go, into Go's number for it.
func TLSVersion(name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case tls12:
		return tls.VersionTLS12, nil
	case tls13:
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unexpected TLS version %q (must be one of: TLS1.2, TLS1.3)", name)
}

// CipherSuiteIDs are the numbers of the cipher suites, in the order given.
func (o *Options) CipherSuiteIDs() ([]uint16, error) {
	ids := map[string]uint16{
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	for _, suite := range slices.Concat(tls.InsecureCipherSuites(), tls.CipherSuites()) {
		ids[suite.Name] = suite.ID
	}
	var list []uint16
	for _, name := range o.CipherSuites {
		id, ok := ids[name]
		if !ok {
			return nil, fmt.Errorf("unexpected TLS cipher suite %q", name)
		}
		list = append(list, id)
	}
	return list, nil
}

func (o *Options) validateTLS() error {
	lowest, err := TLSVersion(o.TLSMinVersion)
	if err != nil {
		return err
	}
	highest, err := TLSVersion(o.TLSMaxVersion)
	if err != nil {
		return err
	}
	if highest != 0 && lowest > highest {
		return fmt.Errorf("min version (%s) is greater than max version (%s)", o.TLSMinVersion, o.TLSMaxVersion)
	}
	if lowest == tls.VersionTLS13 && len(o.CipherSuites) > 0 {
		return errors.New("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	if _, err := o.CipherSuiteIDs(); err != nil {
		return err
	}
	for _, t := range []TLS{o.ClientTLS, o.PeerTLS} {
		if t.AutoTLS && t.Empty() && o.SelfSignedCertValidity == 0 {
			return errors.New("selfSignedCertValidity is invalid,it should be greater than 0")
		}
		if len(t.AllowedCNs) > 0 && len(t.AllowedHostnames) > 0 {
			return fmt.Errorf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)", t.AllowedCNs, t.AllowedHostnames)
		}
	}
	return nil
}

// validateListeners refuses URLs that want a certificate where there is none, and one URL for two kinds of traffic.
func (o *Options) validateListeners() error {
	withTLS := !o.ClientTLS.Empty() || o.ClientTLS.AutoTLS
	for _, u := range slices.Concat(o.ListenClientURLs, o.ListenClientHTTPURLs) {
		if secure(u) && !withTLS {
			return fmt.Errorf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme", u.String())
		}
	}
	for _, u := range o.ListenClientHTTPURLs {
		same := func(other url.URL) bool { return other.Host+other.Path == u.Host+u.Path }
		if slices.ContainsFunc(o.ListenClientURLs, same) {
			return fmt.Errorf("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url %s", u.String())
		}
	}
	if slices.ContainsFunc(o.ListenMetricsURLs, secure) && !withTLS {
		return errors.New("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")
	}
	if slices.ContainsFunc(o.ListenPeerURLs, secure) && o.PeerTLS.Empty() && !o.PeerTLS.AutoTLS {
		return fmt.Errorf("cannot listen on TLS for %s: KeyFile and CertFile are not presented", o.ListenPeerURLs)
	}
	return nil
}

func secure(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// advice is what an operator should know of options that are valid.
func (o *Options) advice() []Warning {
	var ws []Warning
	if o.Name == defaultName {
		ws = append(ws, Warning{"name", "it isn't recommended to use default name, please set a value for --name. " +
			"Several members with the same name cannot be told apart"})
	}
	if lowest, highest := uint(4), uint(31); o.BcryptCost < lowest || o.BcryptCost > highest {
		ws = append(ws, Warning{"bcrypt-cost", fmt.Sprintf("bcrypt takes no cost of %d: passwords are hashed with its default, %d", o.BcryptCost, Default().BcryptCost)})
	}
	if inert := o.FeatureGates.inert(); len(inert) > 0 {
		ws = append(ws, Warning{"feature-gates", "feature gates have no effect: " + inert.String()})
	}
	for _, side := range []struct {
		flag string
		urls URLs
		tls  TLS
	}{
		{"listen-client-urls", slices.Concat(o.ListenClientURLs, o.ListenClientHTTPURLs), o.ClientTLS},
		{"listen-peer-urls", o.ListenPeerURLs, o.PeerTLS},
	} {
		for _, u := range side.urls {
			switch {
			case secure(u):
			case side.tls.ClientCertAuth:
				ws = append(ws, Warning{side.flag, "client certificates are asked for, and cannot be over " + u.String()})
			case !side.tls.Empty():
				ws = append(ws, Warning{side.flag, "key and certificate are given, and not used for " + u.String()})
			}
		}
	}
	return ws
}
