package config

import (
	"flag"
	"io"
	"time"
)

// group is a heading of the help text and the flags below it, in order.
type group struct {
	title string
	flags []string
}

// flags is the command line of one server: the flags of the standard library, so that -name and --name and
// --name=value are the same as for etcd, and the order in which the help shows them.
type flags struct {
	*flag.FlagSet
	groups []group
	file   string
	show   bool
}

// newFlags defines every flag so that parsing them fills o.
func newFlags(o *Options) *flags {
	f := &flags{FlagSet: flag.NewFlagSet("keelson", flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	f.begin("General")
	f.text(&f.file, "config-file", "A YAML file with the options, under etcd's keys. All other flags and the environment are then ignored. Durations in it are such as 24h, or whole nanoseconds as in etcd.")
	f.yes(&f.show, "version", "Show the versions of Keelson and of the etcd it is compatible with.")
	f.member(o)
	f.limits(o)
	f.clustering(o)
	f.discovery(o)
	f.security(o)
	f.peerSecurity(o)
	f.auth(o)
	f.monitoring(o)
	f.logging(o)
	f.compaction(o)
	f.unsafe(o)
	f.own(o)
	f.backups(o)
	f.inert()
	f.aliases()
	f.forgotten()
	return f
}

func (f *flags) begin(title string) { f.groups = append(f.groups, group{title: title}) }

func (f *flags) shown(name string) {
	last := &f.groups[len(f.groups)-1]
	last.flags = append(last.flags, name)
}

func (f *flags) value(v flag.Value, name, usage string) { f.Var(v, name, usage); f.shown(name) }

func (f *flags) text(p *string, name, usage string) { f.StringVar(p, name, *p, usage); f.shown(name) }

func (f *flags) yes(p *bool, name, usage string) { f.BoolVar(p, name, *p, usage); f.shown(name) }

func (f *flags) uint(p *uint, name, usage string) { f.UintVar(p, name, *p, usage); f.shown(name) }

func (f *flags) int(p *int, name, usage string) { f.IntVar(p, name, *p, usage); f.shown(name) }

func (f *flags) uint64(p *uint64, name, usage string) { f.Uint64Var(p, name, *p, usage); f.shown(name) }

func (f *flags) duration(p *time.Duration, name, usage string) {
	f.DurationVar(p, name, *p, usage)
	f.shown(name)
}

func (f *flags) member(o *Options) {
	f.begin("Member")
	f.text(&o.Name, "name", "This member's name.")
	f.text(&o.DataDir, "data-dir", "Directory of this member's files; '<name>.etcd' if empty.")
	f.value(&o.ListenClientURLs, "listen-client-urls",
		"Where to listen for clients: http, https, unix or unixs URLs, comma-separated. gRPC and HTTP share them unless --listen-client-http-urls is given.")
	f.value(&o.ListenClientHTTPURLs, "listen-client-http-urls",
		"Where to listen for HTTP alone. --listen-client-urls then serves gRPC alone.")
	f.value(&o.ListenPeerURLs, "listen-peer-urls", "Where to listen for the other members.")
	f.yes(&o.EnableGRPCGateway, "enable-grpc-gateway", "Serve the JSON form of the API under /v3/.")
	f.yes(&o.SocketOptions.ReusePort, "socket-reuse-port", "Let several processes listen on one port (SO_REUSEPORT).")
	f.yes(&o.SocketOptions.ReuseAddress, "socket-reuse-address", "Listen on an address that is still in TIME_WAIT (SO_REUSEADDR).")
	f.value(o.FeatureGates, "feature-gates",
		"etcd's feature gates, as name=true|false, comma-separated. InitialCorruptCheck has a member of a cluster compare its data with the "+
			"others' before it serves, CompactHashCheck has the leader compare all members' after compactions. The others are checked and change nothing here.")
}

func (f *flags) limits(o *Options) {
	f.begin("Limits")
	f.Int64Var(&o.QuotaBackendBytes, "quota-backend-bytes", o.QuotaBackendBytes,
		"Size of the store, in bytes, beyond which it takes no more writes and raises the NOSPACE alarm. 0 means 2 GiB, a negative number none.")
	f.shown("quota-backend-bytes")
	f.uint(&o.MaxTxnOps, "max-txn-ops", "Most operations in a transaction.")
	f.uint(&o.MaxRequestBytes, "max-request-bytes", "Largest request, in bytes.")
	f.value(uint32Value{&o.MaxConcurrentStreams}, "max-concurrent-streams", "Most concurrent streams on a connection.")
	f.duration(&o.GRPCKeepAliveMinTime, "grpc-keepalive-min-time", "Shortest interval between a client's pings.")
	f.duration(&o.GRPCKeepAliveInterval, "grpc-keepalive-interval", "Interval of the server's pings to a client (0: none).")
	f.duration(&o.GRPCKeepAliveTimeout, "grpc-keepalive-timeout", "How long a client may take to answer one (0: none are sent).")
	f.duration(&o.WatchProgressNotifyInterval, "watch-progress-notify-interval",
		"Interval of progress notifications to watches that asked for them (0: 10m).")
	f.duration(&o.WarningApplyDuration, "warning-apply-duration", "Log a warning for a commit that takes longer.")
	f.duration(&o.WarningUnaryRequestDuration, "warning-unary-request-duration", "Log a warning for a request that takes longer.")
}

func (f *flags) clustering(o *Options) {
	f.begin("Clustering")
	f.value(&o.AdvertiseClientURLs, "advertise-client-urls",
		"Where clients can reach this member. Needed when --listen-client-urls is given.")
	f.value(&o.AdvertisePeerURLs, "initial-advertise-peer-urls", "Where the other members can reach this one.")
	f.text(&o.InitialCluster, "initial-cluster",
		"All members at the start, as name=peer-url, comma-separated. Read only while this member has no data.")
	f.value(choice{&o.ClusterState, []string{ClusterStateNew, ClusterStateExisting}}, "initial-cluster-state",
		"'new' to found a cluster, 'existing' to join one. Read only while this member has no data.")
	f.text(&o.InitialClusterToken, "initial-cluster-token", "A word that sets this cluster apart from others.")
	f.yes(&o.StrictReconfigCheck, "strict-reconfig-check", "Refuse membership changes that would cost the quorum.")
	f.int(&o.MaxLearners, "max-learners", "Most learners in a cluster.")
	f.uint(&o.HeartbeatInterval, "heartbeat-interval", "Milliseconds between a leader's heartbeats.")
	f.uint(&o.ElectionTimeout, "election-timeout", "Milliseconds without one after which a member stands for election.")
	f.yes(&o.PreVote, "pre-vote", "Ask whether an election could be won before disturbing the leader.")
	f.uint64(&o.SnapshotCount, "snapshot-count", "Entries of the Raft log between two snapshots.")
	f.uint64(&o.SnapshotCatchUpEntries, "snapshot-catchup-entries", "Entries of the Raft log kept for slow followers after a snapshot.")
	f.text(&o.WALDir, "wal-dir", "Directory of the Raft log, if it should have its own.")
	f.duration(&o.RaftReadTimeout, "raft-read-timeout", "Read timeout of connections between members (at least 5s).")
	f.duration(&o.RaftWriteTimeout, "raft-write-timeout", "Write timeout of connections between members (at least 5s).")
	f.duration(&o.CorruptCheckTime, "corrupt-check-time", "Interval at which the leader compares the data of all members, which each of them reads for that (0: never).")
	f.duration(&o.CompactHashCheckTime, "compact-hash-check-time", "Interval at which the leader looks whether there was a compaction after which to compare the members' data (see --feature-gates).")
}

func (f *flags) discovery(o *Options) {
	d := &o.Discovery
	f.begin("Discovery (not supported: name the members in --initial-cluster)")
	f.value(set{&d.Endpoints}, "discovery-endpoints", "Endpoints of a discovery service.")
	f.text(&d.Token, "discovery-token", "Token of the cluster at the discovery service.")
	f.text(&o.DNSCluster, "discovery-srv", "Domain whose SRV records name the members.")
	f.text(&o.DNSClusterServiceName, "discovery-srv-name", "Suffix of the name of those records.")
	f.text(&d.URL, "discovery", "URL of a discovery service of version 2.")
	f.text(&d.Proxy, "discovery-proxy", "HTTP proxy in front of it.")
	f.value(choice{&d.Fallback, []string{fallbackExit, fallbackProxy}}, "discovery-fallback", "What to do when discovery fails: only 'exit'.")
	for _, name := range []string{"dial-timeout", "request-timeout", "keepalive-time", "keepalive-timeout"} {
		f.duration(new(time.Duration), "discovery-"+name, "Of connections to the discovery service.")
	}
	insecure := true
	f.yes(&insecure, "discovery-insecure-transport", "Speak to the discovery service in plaintext.")
	f.yes(new(bool), "discovery-insecure-skip-tls-verify", "Do not verify its certificate.")
	for _, name := range []string{"cert", "key", "cacert", "user", "password"} {
		f.text(new(string), "discovery-"+name, "For connections to the discovery service.")
	}
}

func (f *flags) security(o *Options) {
	t := &o.ClientTLS
	f.begin("Security, of client and metrics URLs")
	f.text(&t.CertFile, "cert-file", "The server's certificate. Read anew when it changes, as the other files are.")
	f.text(&t.KeyFile, "key-file", "The key of that certificate.")
	f.yes(&t.AutoTLS, "auto-tls", "Make a self-signed certificate if none is given.")
	f.uint(&o.SelfSignedCertValidity, "self-signed-cert-validity", "Years that a self-signed certificate is valid.")
	f.yes(&t.ClientCertAuth, "client-cert-auth", "Demand a client certificate that --trusted-ca-file vouches for.")
	f.text(&t.TrustedCAFile, "trusted-ca-file", "Certificates of the authorities that sign client certificates.")
	f.text(&t.CRLFile, "client-crl-file", "Revocation list of client certificates.")
	f.value(words{&t.AllowedHostnames}, "client-cert-allowed-hostname", "Host names of which a client certificate must have one, comma-separated.")
	f.text(&t.ClientCertFile, "client-cert-file", "Certificate for connections that this server makes to itself; --cert-file if empty.")
	f.text(&t.ClientKeyFile, "client-key-file", "The key of that certificate.")
	f.value(words{&o.CipherSuites}, "cipher-suites", "Cipher suites below TLS 1.3, by Go's names, comma-separated; all that Go holds safe if empty.")
	f.text(&o.TLSMinVersion, "tls-min-version", "Lowest version of TLS: TLS1.2 or TLS1.3.")
	f.text(&o.TLSMaxVersion, "tls-max-version", "Highest version of TLS: TLS1.2, TLS1.3, or the highest known if empty.")
	f.value(origins{&o.CORS}, "cors", "Origins that browsers may call from, comma-separated, or *.")
	f.value(&o.HostWhitelist, "host-whitelist", "Host names that plaintext HTTP requests may carry, comma-separated, or *.")
}

func (f *flags) peerSecurity(o *Options) {
	t := &o.PeerTLS
	f.begin("Security, of peer URLs")
	f.text(&t.CertFile, "peer-cert-file", "This member's certificate for the other members.")
	f.text(&t.KeyFile, "peer-key-file", "The key of that certificate.")
	f.yes(&t.AutoTLS, "peer-auto-tls", "Make a self-signed certificate if none is given.")
	f.yes(&t.ClientCertAuth, "peer-client-cert-auth", "Demand of members a certificate that --peer-trusted-ca-file vouches for.")
	f.text(&t.TrustedCAFile, "peer-trusted-ca-file", "Certificates of the authorities that sign members' certificates.")
	f.text(&t.CRLFile, "peer-crl-file", "Revocation list of members' certificates.")
	f.value(words{&t.AllowedCNs}, "peer-cert-allowed-cn", "Common names of which a member's certificate must have one, comma-separated.")
	f.value(words{&t.AllowedHostnames}, "peer-cert-allowed-hostname", "Host names of which a member's certificate must have one, comma-separated.")
	f.yes(&t.SkipClientSANVerify, "peer-skip-client-san-verification", "Accept a member's certificate from whatever address it comes.")
	f.text(&t.ClientCertFile, "peer-client-cert-file", "Certificate for connections to other members; --peer-cert-file if empty.")
	f.text(&t.ClientKeyFile, "peer-client-key-file", "The key of that certificate.")
}

func (f *flags) auth(o *Options) {
	f.begin("Auth")
	f.text(&o.AuthToken, "auth-token", "Kind of token and its options: 'simple' or 'jwt,...'.")
	f.uint(&o.AuthTokenTTL, "auth-token-ttl", "Seconds that a simple token lives.")
	f.uint(&o.BcryptCost, "bcrypt-cost", "Cost of hashing a password with bcrypt, 4 to 31.")
}

func (f *flags) monitoring(o *Options) {
	f.begin("Profiling and monitoring")
	f.yes(&o.EnablePprof, "enable-pprof", "Serve Go's profiles under /debug/pprof/ on the client URLs.")
	f.text(&o.Metrics, "metrics", "'basic', or 'extensive' for histograms of the RPCs too.")
	f.value(&o.ListenMetricsURLs, "listen-metrics-urls",
		"Where to serve /metrics, /health, /livez and /readyz in addition. https URLs use the client URLs' TLS.")
}

func (f *flags) logging(o *Options) {
	f.begin("Logging")
	f.text(&o.Logger, "logger", "Only 'zap', which etcd calls its logger; --log-format chooses the format.")
	f.text(&o.LogLevel, "log-level", "debug, info, warn, error, panic or fatal.")
	f.text(&o.LogFormat, "log-format", "json or console.")
	f.value(set{&o.LogOutputs}, "log-outputs", "stderr (the default), stdout, systemd/journal or paths of files, comma-separated.")
	f.yes(&o.EnableLogRotation, "enable-log-rotation", "Rotate the one file among --log-outputs.")
	f.text(&o.LogRotationJSON, "log-rotation-config-json",
		"How: maxsize in MB, maxage in days, maxbackups (0: no limit), localtime, compress.")
}

func (f *flags) compaction(o *Options) {
	f.begin("Compaction")
	f.text(&o.AutoCompactionMode, "auto-compaction-mode", "How --auto-compaction-retention is read: 'periodic' or 'revision'.")
	f.text(&o.AutoCompactionRetention, "auto-compaction-retention",
		"History to keep: a duration, or a number of hours, in mode periodic; a number of revisions in mode revision. 0 compacts nothing.")
	f.int(&o.CompactionBatchLimit, "compaction-batch-limit", "Most revisions deleted in one slice of a compaction (0: 1000).")
	f.duration(&o.CompactionSleepInterval, "compaction-sleep-interval", "Pause between two slices (0: 10ms).")
}

func (f *flags) unsafe(o *Options) {
	f.begin("Unsafe")
	f.yes(&o.ForceNewCluster, "force-new-cluster", "Make this member a cluster of its own, whatever its data say.")
	f.yes(&o.UnsafeNoFsync, "unsafe-no-fsync", "No effect: nothing is acknowledged before it is durable.")
}

func (f *flags) own(o *Options) {
	f.begin("Keelson's own")
	f.text(&o.Datastore, "datastore", "URL of the PostgreSQL database that holds the data, with libpq's parameters, as postgres://user@host/database?sslmode=verify-full; several servers may share it. Empty for an SQLite file under --data-dir.")
	f.text(&o.DatastoreName, "datastore-name", "Name of the data in that database, its schema: each cluster has its own.")
	f.duration(&o.HistoryRetention, "history-retention", "How long the data keep what was overwritten, deleted and compacted, for 'keelson history' and 'keelson rewind'; the same on all servers. It takes room, which counts for --quota-backend-bytes, and gives way when that is nearly used up. 0: no longer than it takes to remove.")
	f.text(&o.DatastorePasswordFile, "datastore-password-file", "File with the database's password, read for every connection. PGPASSWORD and libpq's passfile do as well.")
	f.text(&o.SnapshotDir, "snapshot-dir", "Directory for the file of a snapshot while it is made and sent (etcdctl snapshot save). Empty for the member directory under --data-dir, or, with --datastore, the one for temporary files (TMPDIR).")
}

func (f *flags) backups(o *Options) {
	f.begin("Backups, Keelson's own")
	f.text(&o.BackupSchedule, "backup-schedule", "When to make backups: five fields as in crontab, in local time or behind CRON_TZ=Zone/Name, or @daily, or '@every 6h'. "+
		"What came while no server ran is made up for. Of several servers one makes it.")
	f.text(&o.BackupDir, "backup-dir", "Directory to put them in.")
	f.text(&o.BackupS3Bucket, "backup-s3-bucket", "Bucket to put them in, of any S3-compatible store.")
	f.text(&o.BackupS3Endpoint, "backup-s3-endpoint", "URL of that store; Amazon's if empty.")
	f.text(&o.BackupS3Region, "backup-s3-region", "The bucket's region; AWS_REGION, or what the store says, if empty.")
	f.text(&o.BackupS3Prefix, "backup-s3-prefix", "Folder in the bucket.")
	f.text(&o.BackupS3CredentialsFile, "backup-s3-credentials-file", "AWS's file of credentials, read anew for every backup, with the profile default or that of AWS_PROFILE; "+
		"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the machine at Amazon, if empty.")
	f.text(&o.BackupS3CAFile, "backup-s3-trusted-ca-file", "Certificates of authorities that vouch for the store, beside the system's.")
	f.int(&o.BackupKeep, "backup-keep", "Keep the newest backups, so many. Older ones are removed when a new one was verified, unless --backup-keep-for keeps them (0 and no --backup-keep-for: keep all).")
	f.duration(&o.BackupKeepFor, "backup-keep-for", "Keep the backups that are no older.")
}
