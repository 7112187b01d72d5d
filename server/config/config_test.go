package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, in Input) (Options, []Warning) {
	t.Helper()
	o, warnings, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	return o, warnings
}

// about returns the warnings without the one that every server without a name gets.
func about(warnings []Warning) []string {
	var names []string
	for _, w := range warnings {
		if w.Flag != "name" {
			names = append(names, w.Flag)
		}
	}
	return names
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestToldNothing(t *testing.T) {
	o, warnings := load(t, Input{})
	want := Default()
	want.DataDir = "default.etcd"
	want.QuotaBackendBytes = 2 << 30
	want.CompactionBatchLimit = 1000
	want.CompactionSleepInterval = 10 * time.Millisecond
	want.WatchProgressNotifyInterval = 10 * time.Minute
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
	if len(warnings) != 1 || warnings[0].Flag != "name" {
		t.Errorf("warnings: %v", warnings)
	}
	if got := o.RequestTimeout(); got != 7*time.Second {
		t.Errorf("RequestTimeout: %v", got)
	}
}

// TestKubeadm takes the flags of kubeadm's static pod as 1.37 writes them, and as older ones did.
func TestKubeadm(t *testing.T) {
	args := strings.Fields(`--advertise-client-urls=https://10.0.0.5:2379
		--cert-file=/etc/kubernetes/pki/etcd/server.crt --client-cert-auth=true --data-dir=/var/lib/etcd
		--initial-advertise-peer-urls=https://10.0.0.5:2380 --initial-cluster=cp1=https://10.0.0.5:2380
		--key-file=/etc/kubernetes/pki/etcd/server.key
		--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.5:2379 --listen-metrics-urls=http://127.0.0.1:2381
		--listen-peer-urls=https://10.0.0.5:2380 --name=cp1 --peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt
		--peer-client-cert-auth=true --peer-key-file=/etc/kubernetes/pki/etcd/peer.key
		--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt --snapshot-count=10000
		--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt`)
	newer := append(slices.Clone(args), "--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=5s")
	older := append(slices.Clone(args), "--experimental-initial-corrupt-check=true", "--experimental-watch-progress-notify-interval=5s")

	a, warnings := load(t, Input{Args: newer})
	if got := about(warnings); len(got) > 0 {
		t.Errorf("warnings of a newer one: %v", warnings)
	}
	b, warnings := load(t, Input{Args: older})
	if got := about(warnings); !slices.Equal(got, []string{"experimental-watch-progress-notify-interval", "experimental-initial-corrupt-check"}) {
		t.Errorf("warnings of an older one: %v", warnings)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("newer %+v\nolder %+v", a, b)
	}
	if a.ListenClientURLs.String() != "https://10.0.0.5:2379,https://127.0.0.1:2379" ||
		a.WatchProgressNotifyInterval != 5*time.Second || !a.ClientTLS.ClientCertAuth ||
		a.PeerTLS.TrustedCAFile != "/etc/kubernetes/pki/etcd/ca.crt" || !a.FeatureGates.Enabled("InitialCorruptCheck") {
		t.Errorf("options: %+v", a)
	}
	if err := a.VerifyBootstrap(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	o, warnings := load(t, Input{
		Args:    []string{"-name=here"},
		Environ: []string{"ETCD_DATA_DIR=/there", "ETCD_PRE_VOTE=false", "ETCD_SERVICE_HOST=10.0.0.1", "ETCD_VERSION=v3.7.3", "ETCD_METRICS=", "PATH=/bin"},
	})
	if o.Name != "here" || o.DataDir != "/there" || o.PreVote || o.Metrics != MetricsBasic {
		t.Errorf("options: %+v", o)
	}
	if got := about(warnings); !slices.Equal(got, []string{"ETCD_VERSION", "ETCD_SERVICE_HOST"}) {
		t.Errorf("warnings: %v", warnings)
	}
}

func TestEnvironmentErrors(t *testing.T) {
	_, _, err := Load(Input{Args: []string{"--name=a"}, Environ: []string{"ETCD_NAME="}})
	if !errors.Is(err, ErrShadowedEnv) {
		t.Errorf("flag and variable: %v", err)
	}
	_, _, err = Load(Input{Environ: []string{"ETCD_HEARTBEAT_INTERVAL=100 # ms"}})
	if err == nil || err.Error() != `invalid value "100 # ms" for ETCD_HEARTBEAT_INTERVAL: parse error` || errors.Is(err, ErrUsage) {
		t.Errorf("bad value: %v", err)
	}
}

func TestHelpAndVersionAreNoServers(t *testing.T) {
	for args, want := range map[string]error{"-h": ErrHelp, "--help": ErrHelp, "--version": ErrVersion, "-version": ErrVersion} {
		if _, _, err := Load(Input{Args: []string{args}}); !errors.Is(err, want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestFile(t *testing.T) {
	path := writeFile(t, `
name: m1
data-dir: /var/lib/etcd
listen-client-urls: https://127.0.0.1:2379,https://127.0.0.2:2379
advertise-client-urls: https://127.0.0.1:2379
client-transport-security:
  cert-file: server.crt
  key-file: server.key
  client-cert-auth: true
  trusted-ca-file: ca.crt
  allowed-hostname: [a.test]
peer-transport-security: {auto-tls: true}
socket-options: {reuse-port: true}
quota-backend-bytes: 8589934592
watch-progress-notify-interval: 5000000000
log-outputs: [stdout, a.log]
cors: https://a.test:443
host-whitelist: a.test,b.test
feature-gates: InitialCorruptCheck=true
auto-compaction-mode: revision
auto-compaction-retention: "1000"
datastore: postgres://db/kine
`)
	// The file wins over the arguments, and over the environment as a whole.
	o, warnings := load(t, Input{Args: []string{"--config-file", path, "--name=other"}, Environ: []string{"ETCD_DATA_DIR=/other", "ETCD_FOO=1"}})
	if got := about(warnings); len(got) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	want := Default()
	want.Name, want.DataDir, want.Datastore = "m1", "/var/lib/etcd", "postgres://db/kine"
	want.ListenClientURLs = mustURLs("https://127.0.0.1:2379,https://127.0.0.2:2379")
	want.AdvertiseClientURLs = mustURLs("https://127.0.0.1:2379")
	want.InitialCluster = "m1=http://localhost:2380"
	want.ClientTLS = TLS{CertFile: "server.crt", KeyFile: "server.key", ClientCertAuth: true, TrustedCAFile: "ca.crt", AllowedHostnames: []string{"a.test"}}
	want.PeerTLS.AutoTLS = true
	want.SocketOptions.ReusePort = true
	want.QuotaBackendBytes = 8 << 30
	want.WatchProgressNotifyInterval = 5 * time.Second
	want.LogOutputs = []string{"stdout", "a.log"}
	want.CORS, want.HostWhitelist = List{"https://a.test:443"}, List{"a.test", "b.test"}
	want.FeatureGates = Gates{"InitialCorruptCheck": true}
	want.AutoCompactionMode, want.AutoCompactionRetention = CompactionRevision, "1000"
	want.EnsureDefaults()
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
	if c, err := o.AutoCompaction(); err != nil || c != (Compaction{Revisions: 1000}) {
		t.Errorf("compaction: %v %v", c, err)
	}
}

func TestFileByEnvironment(t *testing.T) {
	path := writeFile(t, `{"name": "m1"}`)
	if o, _ := load(t, Input{Environ: []string{"ETCD_CONFIG_FILE=" + path, "ETCD_NAME=m2"}}); o.Name != "m1" {
		t.Errorf("name: %q", o.Name)
	}
}

func TestFileOfAnOlderRelease(t *testing.T) {
	path := writeFile(t, `
name: m1
experimental-watch-progress-notify-interval: 5000000000
experimental-snapshot-catch-up-entries: 7
experimental-initial-corrupt-check: true
experimental-enable-lease-checkpoint: true
experimental-peer-skip-client-san-verification: true
experimental-memory-mlock: true
peer-transport-security: {cert-file: p.crt}
listen-peer-urls: unixs:///run/p.sock
feature-gates: LeaseCheckpoint=false
cert-file: misplaced.crt
client-transport-security: {crl-file: misplaced.crl}
`)
	o, warnings := load(t, Input{Args: []string{"--config-file", path}})
	want := []string{
		"cert-file", "client-transport-security.crl-file", "experimental-watch-progress-notify-interval",
		"experimental-memory-mlock", "experimental-peer-skip-client-san-verification", "experimental-snapshot-catch-up-entries",
		"experimental-initial-corrupt-check", "experimental-enable-lease-checkpoint", "feature-gates",
	}
	if got := about(warnings); !slices.Equal(got, want) {
		t.Errorf("warnings:\n got %v\nwant %v", got, want)
	}
	if o.WatchProgressNotifyInterval != 5*time.Second || o.SnapshotCatchUpEntries != 7 ||
		!reflect.DeepEqual(o.PeerTLS, TLS{CertFile: "p.crt", SkipClientSANVerify: true}) ||
		o.FeatureGates.String() != "InitialCorruptCheck=true,LeaseCheckpoint=false" {
		t.Errorf("options: %+v", o)
	}
}

func TestFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"name: [":                               "yaml",
		"- name":                                "expected a mapping",
		"name: 5":                               "cannot unmarshal number",
		"watch-progress-notify-interval: 5x":    `watch-progress-notify-interval: "5x" is no duration`,
		"listen-client-urls: ftp://1":           "URL scheme must be",
		"feature-gates: Foo=true":               "unrecognized feature gate: Foo",
		"election-timeout: 1":                   "at least as 5 times",
		"initial-cluster-state: foo":            `unexpected clusterState "foo"`,
		"discovery-srv: a.test":                 ErrDiscovery.Error(),
		"experimental-initial-corrupt-check: 1": "experimental-initial-corrupt-check",
	} {
		_, _, err := Load(Input{Args: []string{"--config-file", writeFile(t, text)}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, _, err := Load(Input{Args: []string{"--config-file", "/nonexistent"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestAliases gives each older name a value by flag, and expects it at its successor.
func TestAliases(t *testing.T) {
	for _, a := range aliases() {
		o := Default()
		f := newFlags(&o)
		text := "7"
		if a.flag != "" {
			text = valueUnlike(f.Lookup(a.flag).DefValue)
		}
		if a.gate != "" {
			text = "true"
		}
		if err := f.Parse([]string{"--" + a.old + "=" + text}); err != nil {
			t.Fatal(err)
		}
		warnings, err := f.applyAliases(map[string]bool{a.old: true})
		if err != nil || len(warnings) != 1 {
			t.Errorf("%s: %v %v", a.old, warnings, err)
		}
		if a.flag != "" {
			if got := f.Lookup(a.flag).Value.String(); got != text {
				t.Errorf("%s=%s: --%s is %q", a.old, text, a.flag, got)
			}
		}
		if a.gate != "" && o.FeatureGates.String() != a.gate+"=true" {
			t.Errorf("%s: gates are %v", a.old, o.FeatureGates)
		}
	}
}

func valueUnlike(def string) string {
	switch {
	case def == "false":
		return "true"
	case strings.HasSuffix(def, "s"):
		return "7s"
	}
	return "7"
}

func TestAliasYieldsToItsSuccessor(t *testing.T) {
	o, _ := load(t, Input{Args: strings.Fields("--max-learners=3 --experimental-max-learners=2 --feature-gates=InitialCorruptCheck=false --experimental-initial-corrupt-check")})
	if o.MaxLearners != 3 || o.FeatureGates.Enabled("InitialCorruptCheck") {
		t.Errorf("learners %d, gates %v", o.MaxLearners, o.FeatureGates)
	}
	_, _, err := Load(Input{Args: []string{"--experimental-max-learners=x"}})
	if !errors.Is(err, ErrUsage) || err.Error() != `invalid value "x" for flag -experimental-max-learners: parse error` {
		t.Errorf("bad value: %v", err)
	}
}

func TestInertFlagsWarnOnce(t *testing.T) {
	for _, in := range inertFlags() {
		o := Default()
		text := valueUnlike(newFlags(&o).Lookup(in.name).DefValue)
		if in.kind == kindV2Deprecation {
			text = "gone"
		}
		_, warnings := load(t, Input{Args: []string{"--" + in.name + "=" + text}})
		if got := about(warnings); !slices.Equal(got, []string{in.name}) {
			t.Errorf("%s: %v", in.name, warnings)
		}
	}
}

func TestForgottenFlagsSayNothing(t *testing.T) {
	_, warnings := load(t, Input{Args: []string{"-v", "--snapshot", "--cluster-active-size=3"}})
	if got := about(warnings); len(got) != 0 {
		t.Errorf("warnings: %v", got)
	}
}

func TestUnusedTLSIsPointedOut(t *testing.T) {
	_, warnings := load(t, Input{Args: strings.Fields("--cert-file=a --key-file=b --peer-client-cert-auth")})
	if got := about(warnings); !slices.Equal(got, []string{"listen-client-urls", "listen-peer-urls"}) {
		t.Errorf("warnings: %v", warnings)
	}
}

func TestBcryptCost(t *testing.T) {
	for cost, want := range map[string][]string{"3": {"bcrypt-cost"}, "4": nil, "31": nil, "32": {"bcrypt-cost"}} {
		if _, warnings := load(t, Input{Args: []string{"--bcrypt-cost=" + cost}}); !slices.Equal(about(warnings), want) {
			t.Errorf("cost %s: %v", cost, warnings)
		}
	}
}

func TestAutoCompaction(t *testing.T) {
	for _, c := range []struct {
		mode, retention string
		want            Compaction
	}{
		{CompactionPeriodic, "0", Compaction{}},
		{CompactionPeriodic, "5", Compaction{Period: 5 * time.Hour}},
		{CompactionPeriodic, "30m", Compaction{Period: 30 * time.Minute}},
		{CompactionRevision, "0", Compaction{}},
		{CompactionRevision, "1000", Compaction{Revisions: 1000}},
	} {
		o := Options{AutoCompactionMode: c.mode, AutoCompactionRetention: c.retention}
		if got, err := o.AutoCompaction(); err != nil || got != c.want {
			t.Errorf("%s %s: %v %v", c.mode, c.retention, got, err)
		}
	}
}

// TestAdvertise is what etcd does with names and addresses that were left open.
func TestAdvertise(t *testing.T) {
	o, _ := load(t, Input{Args: []string{"--name=abc"}})
	if o.InitialCluster != "abc=http://localhost:2380" || o.DataDir != "abc.etcd" {
		t.Errorf("cluster %q, dir %q", o.InitialCluster, o.DataDir)
	}
	o, _ = load(t, Input{Args: strings.Fields("--name=abc --initial-advertise-peer-urls=http://127.0.0.1:2,http://127.0.0.1:1,http://127.0.0.1:2")})
	if o.InitialCluster != "abc=http://127.0.0.1:1,abc=http://127.0.0.1:2" {
		t.Errorf("cluster %q", o.InitialCluster)
	}
	o, _ = load(t, Input{Args: strings.Fields("--name=abc --listen-peer-urls=http://0.0.0.0:77")})
	want := "abc=http://localhost:2380"
	if host, err := defaultHost(); err == nil {
		want = "abc=http://" + host + ":77"
	}
	if o.InitialCluster != want {
		t.Errorf("cluster %q, want %q", o.InitialCluster, want)
	}
}

func TestVerifyBootstrap(t *testing.T) {
	for args, ok := range map[string]bool{
		"": true,
		// One address, written in two ways.
		"--initial-cluster=default=http://[::1]:1 --initial-advertise-peer-urls=http://[0:0:0:0:0:0:0:1]:1": true,
		// Who joins need not advertise what the cluster knows it by.
		"--initial-cluster=default=http://127.0.0.1:1,b=http://127.0.0.1:2 --initial-cluster-state=existing": true,
		"--initial-cluster=b=http://127.0.0.1:2 --initial-cluster-state=existing":                            false,
	} {
		o, _ := load(t, Input{Args: strings.Fields(args)})
		if err := o.VerifyBootstrap(t.Context()); (err == nil) != ok {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestGates(t *testing.T) {
	g := Gates{}
	if err := g.Set("AllAlpha=true,LeaseCheckpoint=false"); err != nil {
		t.Fatal(err)
	}
	if g.Enabled("LeaseCheckpoint") || !g.Enabled("PriorityRequest") || !g.Enabled("FastLeaseKeepAlive") || g.Enabled("AllBeta") {
		t.Errorf("gates: %v", g)
	}
}

// TestHelp looks for each flag, once, and for lines that do not fit a terminal.
func TestHelp(t *testing.T) {
	text := &strings.Builder{}
	if err := Help(text); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text.String(), "\n")
	for _, line := range lines {
		if len(line) > helpWidth+20 && !strings.Contains(line, "log-rotation-config-json") {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	o := Default()
	newFlags(&o).VisitAll(func(fl *flag.Flag) {
		n := 0
		for _, line := range lines {
			if line == "  --"+fl.Name || strings.HasPrefix(line, "  --"+fl.Name+" ") || strings.HasPrefix(line, "  --"+fl.Name+"=") {
				n++
			}
		}
		_, old := fl.Value.(*older)
		_, gone := fl.Value.(forgotten)
		if want := 1; !old && !gone && n != want || (old || gone) && n != 0 {
			t.Errorf("--%s is shown %d times", fl.Name, n)
		}
	})
}

func TestVersion(t *testing.T) {
	text := &strings.Builder{}
	if err := Version(text, Build{Version: "0.1.0"}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text.String(), "\n")
	if lines[0] != "etcd Version: 3.7.3" || !strings.HasPrefix(lines[1], "Git SHA: ") ||
		!strings.HasPrefix(lines[2], "Go Version: go1.") || !strings.HasPrefix(lines[3], "Go OS/Arch: ") || lines[4] != "Keelson Version: 0.1.0" {
		t.Errorf("%s", text)
	}
}

// TestBackups: what is asked for must be whole, and comes from flags, environment and file alike.
func TestBackups(t *testing.T) {
	want := Default()
	want.BackupSchedule, want.BackupS3Bucket, want.BackupKeep, want.BackupKeepFor = "0 2 * * *", "b", 7, 720*time.Hour
	want.EnsureDefaults()
	file := writeFile(t, "backup-schedule: 0 2 * * *\nbackup-s3-bucket: b\nbackup-keep: 7\nbackup-keep-for: 2592000000000000\n")
	for _, in := range []Input{
		{Args: []string{"--backup-schedule", "0 2 * * *", "--backup-s3-bucket=b", "--backup-keep=7", "--backup-keep-for=720h"}},
		{Environ: []string{"ETCD_BACKUP_SCHEDULE=0 2 * * *", "ETCD_BACKUP_S3_BUCKET=b", "ETCD_BACKUP_KEEP=7", "ETCD_BACKUP_KEEP_FOR=720h"}},
		{Args: []string{"--config-file", file}},
		{Args: []string{"--config-file", writeFile(t, "backup-schedule: 0 2 * * *\nbackup-s3-bucket: b\nbackup-keep: 7\nbackup-keep-for: 720h\n")}},
	} {
		o, warnings := load(t, in)
		if !reflect.DeepEqual(o, want) || len(about(warnings)) > 0 {
			t.Errorf("%+v: warnings %v, options %+v", in, warnings, o)
		}
	}
	for args, says := range map[string]string{
		"--backup-dir=d":           "--backup-dir is given, and no --backup-schedule",
		"--backup-s3-bucket=b":     "--backup-s3-bucket is given, and no --backup-schedule",
		"--backup-keep=3":          "--backup-keep is given, and no --backup-schedule",
		"--backup-keep-for=3h":     "--backup-keep-for is given, and no --backup-schedule",
		"--backup-schedule=@daily": "backups need a place: --backup-dir or --backup-s3-bucket",
		"--backup-schedule=@daily --backup-dir=d --backup-s3-bucket=b":  "--backup-dir and --backup-s3-bucket are both given: backups have one place",
		"--backup-schedule=@daily --backup-dir=d --backup-keep=-1":      "--backup-keep is negative",
		"--backup-schedule=@daily --backup-dir=d --backup-keep-for=-1h": "--backup-keep-for is negative",
	} {
		if _, _, err := Load(Input{Args: strings.Fields(args)}); err == nil || err.Error() != says {
			t.Errorf("%s: got %v, want %s", args, err, says)
		}
	}
}
