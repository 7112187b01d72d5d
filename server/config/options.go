package config

import (
	"math"
	"time"
)

// Options is everything an operator can decide about one server. The names in the tags are those of the
// configuration file; the flags are named alike unless the file nests them (TLS, socket and discovery options).
//
// Durations in a configuration file are whole nanoseconds, as in etcd, or texts such as "24h".
type Options struct {
	// Name is this member's name, the key of its entry in InitialCluster.
	Name string `json:"name"`
	// DataDir is where the server keeps its files; empty means "<name>.etcd" in the working directory.
	DataDir string `json:"data-dir"`
	// WALDir is a directory of its own for the Raft log. Of use to a cluster only.
	WALDir string `json:"wal-dir"`
	// Datastore is the URL of the database that holds the log; empty means SQLite under DataDir. Keelson's own,
	// as are the next two.
	Datastore string `json:"datastore"`
	// DatastoreName sets the logs in one database apart.
	DatastoreName string `json:"datastore-name"`
	// DatastorePasswordFile is a file with the database's password, which then is neither in the URL nor in a list of processes.
	DatastorePasswordFile string `json:"datastore-password-file"`
	// SnapshotDir is where a snapshot's file is while it is sent; empty means under DataDir, or, with Datastore, where temporary files are.
	SnapshotDir string `json:"snapshot-dir"`

	// HistoryRetention is how long what was superseded stays in the log after a compaction, for history and rewind. Keelson's own.
	HistoryRetention time.Duration `json:"history-retention"`

	// BackupSchedule says when backups are made, as crontab(5) has it; empty means never. Keelson's own, as is all that begins with Backup.
	BackupSchedule string `json:"backup-schedule"`
	// BackupDir is the directory that they go to, unless there is a bucket.
	BackupDir string `json:"backup-dir"`
	// BackupS3Bucket is the bucket that they go to, and the next three say where it is: the store's URL, the region, the folder in it.
	BackupS3Bucket   string `json:"backup-s3-bucket"`
	BackupS3Endpoint string `json:"backup-s3-endpoint"`
	BackupS3Region   string `json:"backup-s3-region"`
	BackupS3Prefix   string `json:"backup-s3-prefix"`
	// BackupS3CredentialsFile is AWS's file of credentials; empty means the environment, as AWS_ACCESS_KEY_ID.
	BackupS3CredentialsFile string `json:"backup-s3-credentials-file"`
	// BackupS3CAFile has certificates of authorities that vouch for the store.
	BackupS3CAFile string `json:"backup-s3-trusted-ca-file"`
	// BackupKeep is how many backups stay, BackupKeepFor those of what age do. What either is for stays; all do if both are 0.
	BackupKeep    int           `json:"backup-keep"`
	BackupKeepFor time.Duration `json:"backup-keep-for"`

	// ListenClientURLs are where gRPC is served, and HTTP too unless ListenClientHTTPURLs is set.
	ListenClientURLs URLs `json:"listen-client-urls"`
	// ListenClientHTTPURLs are where HTTP alone is served; set, ListenClientURLs serve gRPC alone.
	ListenClientHTTPURLs URLs `json:"listen-client-http-urls"`
	// ListenPeerURLs are where the other members reach this one.
	ListenPeerURLs URLs `json:"listen-peer-urls"`
	// ListenMetricsURLs are where /metrics and the health endpoints are served in addition.
	ListenMetricsURLs URLs `json:"listen-metrics-urls"`
	// AdvertiseClientURLs is what MemberList tells clients about this member.
	AdvertiseClientURLs URLs `json:"advertise-client-urls"`
	// AdvertisePeerURLs is what the member is known by among members; the member id derives from it.
	AdvertisePeerURLs URLs `json:"initial-advertise-peer-urls"`

	// InitialCluster is the membership to begin with, as name=url[,name=url...].
	InitialCluster string `json:"initial-cluster"`
	// ClusterState is ClusterStateNew or ClusterStateExisting: found a cluster, or join one.
	ClusterState string `json:"initial-cluster-state"`
	// InitialClusterToken sets apart clusters that have the same members; ids derive from it.
	InitialClusterToken string `json:"initial-cluster-token"`
	// StrictReconfigCheck refuses membership changes that would cost the quorum.
	StrictReconfigCheck bool `json:"strict-reconfig-check"`
	// MaxLearners bounds the learners in a cluster.
	MaxLearners int `json:"max-learners"`
	// ForceNewCluster makes this member a cluster of its own, whatever its data say. Unsafe.
	ForceNewCluster bool `json:"force-new-cluster"`
	// DNSCluster and DNSClusterServiceName are etcd's discovery by SRV records; Validate refuses them.
	DNSCluster            string `json:"discovery-srv"`
	DNSClusterServiceName string `json:"discovery-srv-name"`
	// Discovery is etcd's discovery service; Validate refuses it.
	Discovery Discovery `json:"discovery-config"`

	// HeartbeatInterval and ElectionTimeout are Raft's, in milliseconds. ElectionTimeout also bounds how long a
	// request may take, in a server of one member too (RequestTimeout).
	HeartbeatInterval uint `json:"heartbeat-interval"`
	ElectionTimeout   uint `json:"election-timeout"`
	// PreVote has a candidate ask whether it could win before it disturbs the leader.
	PreVote bool `json:"pre-vote"`
	// SnapshotCount is how many entries Raft applies between two snapshots.
	SnapshotCount uint64 `json:"snapshot-count"`
	// SnapshotCatchUpEntries is how many entries Raft keeps behind a snapshot for slow followers.
	SnapshotCatchUpEntries uint64 `json:"snapshot-catchup-entries"`
	// RaftReadTimeout and RaftWriteTimeout bound one read and one write of a connection between members.
	RaftReadTimeout  time.Duration `json:"-"`
	RaftWriteTimeout time.Duration `json:"-"`

	// ClientTLS is for the client and metrics URLs, PeerTLS for the peer URLs.
	ClientTLS TLS `json:"client-transport-security"`
	PeerTLS   TLS `json:"peer-transport-security"`
	// SelfSignedCertValidity is the life in years of the certificates that AutoTLS makes.
	SelfSignedCertValidity uint `json:"self-signed-cert-validity"`
	// CipherSuites are Go's names of the suites to offer below TLS 1.3; none leaves it to Go.
	CipherSuites []string `json:"cipher-suites"`
	// TLSMinVersion and TLSMaxVersion are "TLS1.2", "TLS1.3" or empty for Go's default.
	TLSMinVersion string `json:"tls-min-version"`
	TLSMaxVersion string `json:"tls-max-version"`
	// CORS are the origins that browsers may call from; "*" or none means all.
	CORS List `json:"cors"`
	// HostWhitelist are the host names that plaintext HTTP requests may carry; "*" or none means all.
	HostWhitelist List `json:"host-whitelist"`

	// QuotaBackendBytes is the size of the store beyond which the NOSPACE alarm goes up; negative means none.
	QuotaBackendBytes int64 `json:"quota-backend-bytes"`
	// MaxTxnOps bounds the operations of a transaction, MaxRequestBytes the size of a request.
	MaxTxnOps       uint `json:"max-txn-ops"`
	MaxRequestBytes uint `json:"max-request-bytes"`
	// MaxConcurrentStreams bounds the streams of one connection.
	MaxConcurrentStreams uint32 `json:"max-concurrent-streams"`
	// GRPCKeepAliveMinTime is how often a client may ping at most before it is sent away.
	GRPCKeepAliveMinTime time.Duration `json:"grpc-keepalive-min-time"`
	// GRPCKeepAliveInterval and GRPCKeepAliveTimeout are for the server's own pings; 0 sends none.
	GRPCKeepAliveInterval time.Duration `json:"grpc-keepalive-interval"`
	GRPCKeepAliveTimeout  time.Duration `json:"grpc-keepalive-timeout"`
	// EnableGRPCGateway serves the JSON form of the API under /v3/.
	EnableGRPCGateway bool `json:"enable-grpc-gateway"`
	// SocketOptions are set on TCP listeners.
	SocketOptions SocketOptions `json:"socket-options"`

	// AutoCompactionMode is CompactionPeriodic or CompactionRevision, and says how AutoCompactionRetention is
	// read: as a duration (a bare number counts hours), or as a number of revisions. "0" compacts nothing.
	AutoCompactionMode      string `json:"auto-compaction-mode"`
	AutoCompactionRetention string `json:"auto-compaction-retention"`
	// CompactionBatchLimit and CompactionSleepInterval pace the deletion of what compaction freed: how many
	// revisions a slice deletes, and the pause between slices.
	CompactionBatchLimit    int           `json:"compaction-batch-limit"`
	CompactionSleepInterval time.Duration `json:"compaction-sleep-interval"`
	// CompactHashCheckTime and CorruptCheckTime are how often members compare their hashes.
	CompactHashCheckTime time.Duration `json:"compact-hash-check-time"`
	CorruptCheckTime     time.Duration `json:"corrupt-check-time"`
	// WatchProgressNotifyInterval is how often an idle watch that asked for it is told the revision.
	WatchProgressNotifyInterval time.Duration `json:"watch-progress-notify-interval"`
	// WarningApplyDuration and WarningUnaryRequestDuration are how long a commit and a request may take before
	// a warning is logged.
	WarningApplyDuration        time.Duration `json:"warning-apply-duration"`
	WarningUnaryRequestDuration time.Duration `json:"warning-unary-request-duration"`
	// UnsafeNoFsync asks to answer before data are durable. It is not done; a server says so when it starts.
	UnsafeNoFsync bool `json:"unsafe-no-fsync"`

	// AuthToken is "simple" or "jwt,...", AuthTokenTTL the life of a simple token in seconds, BcryptCost the
	// cost of hashing a password.
	AuthToken    string `json:"auth-token"`
	AuthTokenTTL uint   `json:"auth-token-ttl"`
	BcryptCost   uint   `json:"bcrypt-cost"`

	// EnablePprof serves Go's profiles under /debug/pprof/.
	EnablePprof bool `json:"enable-pprof"`
	// Metrics is MetricsBasic or MetricsExtensive; the latter adds histograms of the RPCs.
	Metrics string `json:"metrics"`
	// Logger is what etcd calls its logger: "zap", and no other. Checked and not used.
	Logger string `json:"logger"`
	// LogLevel is debug, info, warn, error, panic, fatal (or dpanic), in either case.
	LogLevel string `json:"log-level"`
	// LogFormat is LogJSON or LogConsole.
	LogFormat string `json:"log-format"`
	// LogOutputs are "default" and "stderr" (standard error), "stdout", "systemd/journal", or paths of files.
	LogOutputs []string `json:"log-outputs"`
	// EnableLogRotation rotates the one file among LogOutputs as LogRotationJSON says.
	EnableLogRotation bool   `json:"enable-log-rotation"`
	LogRotationJSON   string `json:"log-rotation-config-json"`

	// FeatureGates are etcd's gates that were set, one by one or by AllAlpha and AllBeta.
	FeatureGates Gates `json:"feature-gates"`
}

// TLS names the files and rules of one side's TLS. The zero value means plaintext.
type TLS struct {
	// CertFile and KeyFile are the server's certificate and key.
	CertFile string `json:"cert-file"`
	KeyFile  string `json:"key-file"`
	// ClientCertFile and ClientKeyFile are what this server shows where it is the client; CertFile if empty.
	ClientCertFile string `json:"client-cert-file"`
	ClientKeyFile  string `json:"client-key-file"`
	// ClientCertAuth demands a client certificate that TrustedCAFile vouches for. So does a TrustedCAFile alone.
	ClientCertAuth bool   `json:"client-cert-auth"`
	TrustedCAFile  string `json:"trusted-ca-file"`
	// CRLFile lists certificates that are no longer valid.
	CRLFile string `json:"-"`
	// AutoTLS makes a self-signed certificate where none is given.
	AutoTLS bool `json:"auto-tls"`
	// AllowedCNs and AllowedHostnames, only one of them, narrow down which client certificates will do.
	AllowedCNs       []string `json:"allowed-cn"`
	AllowedHostnames []string `json:"allowed-hostname"`
	// SkipClientSANVerify accepts a peer's certificate from whatever address it comes.
	SkipClientSANVerify bool `json:"skip-client-san-verification"`
}

// Empty says that no server certificate is named.
func (t TLS) Empty() bool { return t.CertFile == "" && t.KeyFile == "" }

// SocketOptions are options of TCP listeners.
type SocketOptions struct {
	// ReusePort lets several processes listen on one port.
	ReusePort bool `json:"reuse-port"`
	// ReuseAddress lets a listener take an address that is in TIME_WAIT.
	ReuseAddress bool `json:"reuse-address"`
}

// Discovery is what is looked at of etcd's options for its discovery service: whether they are used.
type Discovery struct {
	// URL and Proxy were version 2's.
	URL   string `json:"-"`
	Proxy string `json:"-"`
	// Token and Endpoints are version 3's.
	Token     string   `json:"discovery-token"`
	Endpoints []string `json:"endpoints"`
	// Fallback is "exit" or "proxy", of which the latter is gone.
	Fallback string `json:"-"`
}

// The values that some options are limited to.
const (
	ClusterStateNew      = "new"
	ClusterStateExisting = "existing"

	CompactionPeriodic = "periodic"
	CompactionRevision = "revision"

	MetricsBasic     = "basic"
	MetricsExtensive = "extensive"

	LogJSON    = "json"
	LogConsole = "console"

	LogOutputDefault = "default"
	LogOutputStderr  = "stderr"
	LogOutputStdout  = "stdout"
	LogOutputJournal = "systemd/journal"
)

const (
	defaultName           = "default"
	defaultClientURL      = "http://localhost:2379"
	defaultPeerURL        = "http://localhost:2380"
	defaultInitialCluster = defaultName + "=" + defaultPeerURL
	defaultQuota          = 2 << 30
	defaultLogRotation    = `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`
)

// Default returns the options of a server that was told nothing, as etcd has them.
func Default() Options {
	return Options{
		Name:                        defaultName,
		DatastoreName:               "keelson",
		ListenClientURLs:            mustURLs(defaultClientURL),
		ListenPeerURLs:              mustURLs(defaultPeerURL),
		AdvertiseClientURLs:         mustURLs(defaultClientURL),
		AdvertisePeerURLs:           mustURLs(defaultPeerURL),
		InitialCluster:              defaultInitialCluster,
		ClusterState:                ClusterStateNew,
		InitialClusterToken:         "etcd-cluster",
		StrictReconfigCheck:         true,
		MaxLearners:                 1,
		Discovery:                   Discovery{Fallback: fallbackExit},
		HeartbeatInterval:           100,
		ElectionTimeout:             1000,
		PreVote:                     true,
		SnapshotCount:               10000,
		SnapshotCatchUpEntries:      5000,
		RaftReadTimeout:             raftTimeoutFloor,
		RaftWriteTimeout:            raftTimeoutFloor,
		SelfSignedCertValidity:      1,
		TLSMinVersion:               tls12,
		CORS:                        List{"*"},
		HostWhitelist:               List{"*"},
		MaxTxnOps:                   128,
		MaxRequestBytes:             1.5 * 1024 * 1024,
		MaxConcurrentStreams:        math.MaxUint32,
		GRPCKeepAliveMinTime:        5 * time.Second,
		GRPCKeepAliveInterval:       2 * time.Hour,
		GRPCKeepAliveTimeout:        20 * time.Second,
		EnableGRPCGateway:           true,
		AutoCompactionMode:          CompactionPeriodic,
		AutoCompactionRetention:     "0",
		CompactHashCheckTime:        time.Minute,
		WarningApplyDuration:        100 * time.Millisecond,
		WarningUnaryRequestDuration: 300 * time.Millisecond,
		AuthToken:                   "simple",
		AuthTokenTTL:                300,
		BcryptCost:                  10,
		Metrics:                     MetricsBasic,
		Logger:                      "zap",
		LogLevel:                    "info",
		LogFormat:                   LogJSON,
		LogOutputs:                  []string{LogOutputDefault},
		LogRotationJSON:             defaultLogRotation,
		FeatureGates:                Gates{},
	}
}

// RequestTimeout is how long a request may take: etcd's 5 s, and two elections.
func (o *Options) RequestTimeout() time.Duration {
	return 5*time.Second + 2*time.Duration(o.ElectionTimeout)*time.Millisecond
}

// EnsureDefaults fills in what follows from other options: the data directory and the initial cluster from the
// name, the host to advertise where the server listens on every address, and etcd's meaning of zeroes.
func (o *Options) EnsureDefaults() {
	o.advertiseHost()
	if o.Name != defaultName && o.InitialCluster == defaultInitialCluster {
		o.InitialCluster = clusterOf(o.Name, o.AdvertisePeerURLs)
	}
	if o.DataDir == "" {
		o.DataDir = o.Name + ".etcd"
	}
	if o.QuotaBackendBytes == 0 {
		o.QuotaBackendBytes = defaultQuota
	}
	if o.AutoCompactionRetention == "" {
		o.AutoCompactionRetention = "0"
	}
	if o.SelfSignedCertValidity == 0 && !o.ClientTLS.AutoTLS && !o.PeerTLS.AutoTLS {
		o.SelfSignedCertValidity = 1
	}
	setDefault(&o.ClusterState, ClusterStateNew)
	setDefault(&o.LogFormat, LogJSON)
	setDefault(&o.CompactionBatchLimit, 1000)
	setDefault(&o.CompactionSleepInterval, 10*time.Millisecond)
	setDefault(&o.WatchProgressNotifyInterval, 10*time.Minute)
	setDefault(&o.WarningUnaryRequestDuration, 300*time.Millisecond)
	o.RaftReadTimeout = max(o.RaftReadTimeout, raftTimeoutFloor)
	o.RaftWriteTimeout = max(o.RaftWriteTimeout, raftTimeoutFloor)
	if len(o.LogOutputs) == 0 {
		o.LogOutputs = []string{LogOutputDefault}
	}
}

// raftTimeoutFloor is what etcd raises shorter timeouts between members to.
const raftTimeoutFloor = 5 * time.Second

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Pprof tells whether Go's profiles are served: at level debug too, as etcd does.
func (o *Options) Pprof() bool { return o.EnablePprof || o.LogLevel == "debug" }
