package config

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// answer is what etcd 3.7.3 says to a command line that it refuses: the exit code and the error. The peers test
// asks a real one the same.
type answer struct {
	args string
	exit int
	says string
}

func answers() []answer {
	const https = "--listen-client-urls https://127.0.0.1:0 --advertise-client-urls https://127.0.0.1:1 "
	return []answer{
		{"-no-such-flag", 2, "flag provided but not defined: -no-such-flag"},
		{"--no-such-flag=1", 2, "flag provided but not defined: -no-such-flag"},
		{"extra", 1, `"extra" is not a valid flag`},
		{"--listen-client-urls http://127.0.0.1:0", 1, "--advertise-client-urls is required when --listen-client-urls is set explicitly"},
		{"--listen-client-urls=", 1, "--advertise-client-urls is required when --listen-client-urls is set explicitly"},
		{"--listen-client-urls http://example.com:2379 --advertise-client-urls http://x:1", 1, "expected IP in URL for binding (http://example.com:2379)"},
		{"--listen-peer-urls http://foo:2380", 1, "expected IP in URL for binding (http://foo:2380)"},
		{"--listen-metrics-urls http://foo:1", 1, "expected IP in URL for binding (http://foo:1)"},
		{"--listen-client-urls ftp://127.0.0.1:1", 2, `invalid value "ftp://127.0.0.1:1" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1`},
		{"--listen-client-urls http://127.0.0.1", 2, `invalid value "http://127.0.0.1" for flag -listen-client-urls: URL address does not have the form "host:port": http://127.0.0.1`},
		{"--listen-client-urls http://127.0.0.1:1/p", 2, `invalid value "http://127.0.0.1:1/p" for flag -listen-client-urls: URL must not contain a path: http://127.0.0.1:1/p`},
		{"--advertise-client-urls http://:2379", 1, `--advertise-client-urls "http://:2379" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host (http://:2379))`},
		{"--initial-advertise-peer-urls http://:2380", 1, `--initial-advertise-peer-urls "http://:2380" must be "host:port" (unexpected empty host (http://:2380))`},
		{"--heartbeat-interval 0", 1, "--heartbeat-interval must be >0 (set to 0ms)"},
		{"--heartbeat-interval x", 2, `invalid value "x" for flag -heartbeat-interval: parse error`},
		{"--election-timeout 0", 1, "--election-timeout must be >0 (set to 0ms)"},
		{"--election-timeout 400", 1, "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"},
		{"--election-timeout 60000", 1, "--election-timeout[60000ms] is too long, and should be set less than 50000ms"},
		{"--compact-hash-check-time 0", 1, "--compact-hash-check-time must be >0 (set to 0s)"},
		{"--auto-compaction-mode x", 1, `unknown auto-compaction-mode "x"`},
		{"--auto-compaction-mode=", 1, "undefined auto-compaction-mode"},
		{"--auto-compaction-retention x", 1, `error parsing CompactionRetention: time: invalid duration "x"`},
		{"--auto-compaction-retention -5", 1, `error parsing CompactionRetention: time: missing unit in duration "-5"`},
		{"--initial-cluster-state foo", 2, `invalid value "foo" for flag -initial-cluster-state: invalid value`},
		{"--discovery-token x", 1, "both --discovery-token and --discovery-endpoints must be set"},
		{"--discovery-fallback proxy", 1, `v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy"`},
		{"--discovery-srv a.test --initial-cluster a=http://127.0.0.1:1", 1, `multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`},
		{"--tls-min-version TLS1.1", 1, `unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)`},
		{"--tls-min-version TLS1.3 --tls-max-version TLS1.2", 1, "min version (TLS1.3) is greater than max version (TLS1.2)"},
		{"--tls-min-version TLS1.3 --cipher-suites TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 1, "cipher suites cannot be configured when only TLS1.3 is enabled"},
		{"--cipher-suites FOO", 1, `unexpected TLS cipher suite "FOO"`},
		{https, 1, "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:0 with HTTPS scheme"},
		{https + "--auto-tls --self-signed-cert-validity 0", 1, "selfSignedCertValidity is invalid,it should be greater than 0"},
		{"--listen-metrics-urls https://127.0.0.1:0", 1, "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"},
		{"--logger capnslog", 1, "--logger=capnslog is removed in v3.5"},
		{"--logger foo", 1, `unknown logger option "foo"`},
		{"--log-format foo", 1, "unknown log format: foo, supported values json, console"},
		{"--log-outputs default,stdout", 1, `multi logoutput for "default" is not supported yet`},
		{"--enable-log-rotation", 1, "--log-outputs requires a single file path when --log-rotate-config-json is defined"},
		{"--enable-log-rotation --log-outputs a.log --log-rotation-config-json {", 1, "improperly formatted log rotation config: unexpected end of JSON input"},
		{"--enable-log-rotation --log-outputs a.log,b.log", 1, "--log-outputs requires a single file path when --log-rotate-config-json is defined"},
		{"--feature-gates Foo=true", 2, `invalid value "Foo=true" for flag -feature-gates: unrecognized feature gate: Foo`},
		{"--feature-gates Foo", 2, `invalid value "Foo" for flag -feature-gates: missing bool value for Foo`},
		{"--feature-gates AllAlpha=maybe", 2, `invalid value "AllAlpha=maybe" for flag -feature-gates: invalid value of AllAlpha=maybe, err: strconv.ParseBool: parsing "maybe": invalid syntax`},
		{"--feature-gates LeaseCheckpointPersist=true", 1, "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"},
		{"--v2-deprecation not-yet", 2, `invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet"`},
		{"--max-concurrent-streams -1", 2, `invalid value "-1" for flag -max-concurrent-streams: strconv.ParseUint: parsing "-1": invalid syntax`},
		{"--pre-vote=perhaps", 2, `invalid boolean value "perhaps" for -pre-vote: parse error`},
		{"--cors nowhere", 2, `invalid value "nowhere" for flag -cors: URL scheme must be http, https, unix, or unixs: nowhere`},

		// What etcd finds in the initial cluster of a member without data.
		{"--initial-cluster a=http://127.0.0.1:1", 1, `couldn't find local name "default" in the initial cluster configuration`},
		{"--initial-cluster=", 1, `couldn't find local name "default" in the initial cluster configuration`},
		{"--initial-cluster default", 1, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "},
		{"--initial-cluster default=ftp://127.0.0.1:1", 1, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"},
		{"--initial-cluster default=http://127.0.0.1:1", 1, `--initial-cluster has default=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: "http://localhost:2380" != "http://127.0.0.1:1")`},
		{"--initial-advertise-peer-urls http://127.0.0.1:1", 1, `--initial-cluster has default=http://localhost:2380 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1 (resolved urls: "http://127.0.0.1:1" != "http://localhost:2380")`},
		{"--initial-cluster default=http://127.0.0.1:1,b=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1", 1, "initial cluster b=http://127.0.0.1:1,default=http://127.0.0.1:1 has duplicate url"},
		{"--initial-cluster default=http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1,http://127.0.0.1:2", 1, "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from --initial-cluster=default=http://127.0.0.1:1,default=http://127.0.0.1:2"},
		{"--initial-cluster default=http://127.0.0.1:1,default=http://127.0.0.1:2 --initial-advertise-peer-urls http://127.0.0.1:1", 1, `--initial-cluster has default=http://127.0.0.1:2 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1 (len(["http://127.0.0.1:1"]) != len(["http://127.0.0.1:1" "http://127.0.0.1:2"]))`},
	}
}

func TestRefusesWhatEtcdRefuses(t *testing.T) {
	for _, a := range answers() {
		t.Run(a.args, func(t *testing.T) {
			o, _, err := Load(Input{Args: strings.Fields(a.args)})
			if err == nil {
				err = o.VerifyBootstrap(context.Background())
			}
			if err == nil || err.Error() != a.says {
				t.Fatalf("error:\n got %v\nwant %s", err, a.says)
			}
			exit := 1
			if errors.Is(err, ErrUsage) {
				exit = 2
			}
			if exit != a.exit {
				t.Errorf("exit code: got %d, want %d", exit, a.exit)
			}
		})
	}
}

// TestRefusesMore are command lines that etcd takes, or takes for something else, and that are refused here.
func TestRefusesMore(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		// etcd panics.
		{"--log-level foo", `unrecognized level: "foo"`},
		// etcd keeps 300,000,000,000 revisions.
		{"--auto-compaction-mode revision --auto-compaction-retention 5m", `error parsing CompactionRetention: "5m" is not a number of revisions`},
		{"--auto-compaction-mode revision --auto-compaction-retention -5", `error parsing CompactionRetention: "-5" is not a number of revisions`},
		{"--auto-compaction-retention -5m", "error parsing CompactionRetention: -5m0s is negative"},
		// etcd goes and asks.
		{"--discovery-srv a.test", ErrDiscovery.Error()},
		{"--discovery-endpoints 127.0.0.1:1 --discovery-token t", ErrDiscovery.Error()},
		{"--discovery http://127.0.0.1:1", ErrDiscovery.Error()},
		// etcd finds these when it listens.
		{"--listen-client-http-urls http://localhost:2379", "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379"},
		{"--listen-peer-urls https://127.0.0.1:1", "cannot listen on TLS for https://127.0.0.1:1: KeyFile and CertFile are not presented"},
		{"--peer-cert-allowed-cn a --peer-cert-allowed-hostname b", `AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a"], hostnames=["b"])`},
	} {
		t.Run(c.args, func(t *testing.T) {
			_, _, err := Load(Input{Args: strings.Fields(c.args)})
			if err == nil || err.Error() != c.says {
				t.Fatalf("error:\n got %v\nwant %s", err, c.says)
			}
		})
	}
}
