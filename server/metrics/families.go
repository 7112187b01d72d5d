package metrics

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"github.com/keelson-io/keelson/sqllog"
	"github.com/keelson-io/keelson/sqllog/mvcc"
	"github.com/keelson-io/keelson/watch"
)

// Sources are asked when somebody wants to see the metrics. All are required.
type Sources struct {
	Index func() *mvcc.Index
	Hub   func() watch.Stats
	// Size gives the bytes of the database on disk, and those of them in use.
	Size func(context.Context) (total, inUse int64, err error)
	// Kept gives what the log has for --history-retention alone.
	Kept func() sqllog.Kept
	// HasLeader and IsLearner are this member's view of the cluster; IsLeader says that it leads.
	HasLeader, IsLeader, IsLearner func() bool
	// Consensus is the part that this member has in agreeing on the log.
	Consensus func() Consensus
	// Members gives the ids of the members, this one included, and Connected tells whether this one is connected to another one.
	Members   func() []uint64
	Connected func(id uint64) bool
	// Member is the member's id, Quota the size of the store at which NOSPACE is raised, or 0 for none.
	Member uint64
	Quota  int64
	// ServerVersion and ClusterVersion are etcd's versions, such as "3.7.3" and "3.7".
	ServerVersion, ClusterVersion string
}

// Consensus is a member's part in agreeing on the log. Where the log is in one place, and nothing has to be agreed on, the indexes are positions of the log.
type Consensus struct {
	// Committed and Applied are how far the log is agreed on, and taken in here.
	Committed, Applied uint64
	// LeaderChanges, LateHeartbeats and SlowReads count since the start.
	LeaderChanges, LateHeartbeats, SlowReads uint64
	// Installing is set while a copy of another member's data takes the place of this one's.
	Installing bool
}

// Register shows the metrics, and those of the process and of Go, in a registry.
func (m *Metrics) Register(r prometheus.Registerer, s Sources) error {
	set := newSet()
	m.server(set, s)
	m.storage(set, s)
	m.leases(set)
	m.network(set, s)
	m.promoted.show(set)
	m.leads = s.IsLeader
	m.rpcs(set)
	all := []prometheus.Collector{
		set, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}
	for _, c := range m.calls {
		if c.handling != nil {
			all = append(all, c.handling)
		}
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

func (m *Metrics) server(f *set, s Sources) {
	f.gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not.", truth(s.HasLeader))
	f.gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise.", truth(s.IsLeader))
	f.gauge("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", truth(s.IsLearner))
	f.counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen since the start, the first leader included.", func() float64 { return float64(s.Consensus().LeaderChanges) })
	f.label("etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", "server_version", s.ServerVersion)
	f.label("etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", "cluster_version", s.ClusterVersion)
	f.label("etcd_server_go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", "server_go_version", runtime.Version())
	f.label("etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", "server_id", fmt.Sprintf("%x", s.Member))

	f.gauge("etcd_server_proposals_committed_total", "The total number of consensus proposals committed: the index of the last entry of the Raft log that is committed, or, if there is none, the log's last position.", func() float64 { return float64(s.Consensus().Committed) })
	f.gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied: the index of the last entry of the Raft log that is applied, or, if there is none, the log's last position.", func() float64 { return float64(s.Consensus().Applied) })
	f.gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit: of this member's clients.", func() float64 { return m.calls.pending(writes()...) })
	f.counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen: of this member's clients.", func() float64 { return float64(m.calls.failures(writes())) })
	f.counter("etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen.", func() float64 { return float64(m.calls.failures(reads())) })
	f.counter("etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests: of those that had to be repeated.", func() float64 { return float64(s.Consensus().SlowReads) })
	f.counter("etcd_server_slow_apply_total", "The total number of slow apply requests (likely overloaded from slow disk): appends to the log that took longer than --warning-apply-duration. In a cluster the leader's, until they are committed.", count(&m.slow))
	f.counter("etcd_server_heartbeat_send_failures_total", "The total number of leader heartbeat send failures (likely overloaded from slow disk): of those that were sent more than an interval late.", func() float64 { return float64(s.Consensus().LateHeartbeats) })
	f.gauge("etcd_server_snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none.", truth(func() bool { return s.Consensus().Installing }))
	f.gauge("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", func() float64 { return float64(s.Quota) })
	f.add("etcd_debugging_server_alarms", "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm", []string{"server_id", "alarm_type"}, func(e emitter) {
		for _, a := range s.Index().Alarms() {
			e.value(prometheus.GaugeValue, 1, fmt.Sprintf("%x", a.Member), pb.AlarmType(a.Type).String())
		}
	})
	f.gauge("os_fd_limit", "The file descriptor limit.", fileLimit)
	f.gauge("os_fd_used", "The number of used file descriptors.", filesUsed)
}

func (m *Metrics) storage(f *set, s Sources) {
	f.histogram("etcd_disk_wal_fsync_duration_seconds", "The latency distribution of fsyncs of the Raft log, or, if there is none, of durable appends to the log. Each carries all requests that waited.", m.syncs)
	f.histogram("etcd_disk_backend_commit_duration_seconds", "The latency distribution of commits to the database: in a cluster of those in the background, or else of durable appends to the log.", m.commits)
	f.histogram("etcd_disk_backend_defrag_duration_seconds", "The latency distribution of backend defragmentation.", m.calls[pb.Maintenance_Defragment_FullMethodName].duration)
	f.histogram("etcd_disk_backend_snapshot_duration_seconds", "The latency distribution of backend snapshots.", m.calls[pb.Maintenance_Snapshot_FullMethodName].duration)
	f.gauge("etcd_disk_defrag_inflight", "Whether or not defrag is active on the member. 1 means active, 0 means not.", func() float64 {
		return min(1, m.calls.pending(pb.Maintenance_Defragment_FullMethodName))
	})
	f.histogram("etcd_mvcc_hash_duration_seconds", "The latency distribution of storage hash operation.", m.calls[pb.Maintenance_Hash_FullMethodName].duration)
	f.histogram("etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation.", m.calls[pb.Maintenance_HashKV_FullMethodName].duration)
	size := func(pick func(total, inUse int64) int64) func() float64 {
		return func() float64 {
			total, inUse, err := s.Size(context.Background())
			if err != nil {
				return 0 // the health checks tell of a storage that fails
			}
			return float64(pick(total, inUse))
		}
	}
	f.gauge("etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.", size(func(total, _ int64) int64 { return total }))
	f.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.", size(func(_, inUse int64) int64 { return inUse }))
	f.gauge("keelson_history_kept_entries", "The number of entries that stay in the log after a compaction because of --history-retention: of those that this member would remove.", func() float64 { return float64(s.Kept().Entries) })
	f.gauge("keelson_history_kept_bytes", "The bytes of their keys and values, which the database has beside what is there without --history-retention.", func() float64 { return float64(s.Kept().Bytes) })
	f.gauge("keelson_history_kept_other_entries", "The number of those entries that are no changes of keys: of leases and their renewals, of compactions and the like.", func() float64 { return float64(s.Kept().Others) })
	f.counter("etcd_mvcc_put_total", "Total number of puts seen by this member.", count(&m.puts))
	f.counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member: keys deleted.", count(&m.deletes))
	f.counter("etcd_mvcc_txn_total", "Total number of txns seen by this member: those of its clients.", m.succeeded(pb.KV_Txn_FullMethodName))
	f.counter("etcd_mvcc_range_total", "Total number of ranges seen by this member: those of its clients, but for those in transactions.", m.succeeded(pb.KV_Range_FullMethodName, pb.KV_RangeStream_FullMethodName))
	f.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "The total size of put kv pairs seen by this member.", func() float64 { return float64(m.putBytes.Load()) })
	f.gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", func() float64 { return float64(s.Index().Keys()) })
	f.gauge("etcd_debugging_mvcc_current_revision", "The current revision of store.", func() float64 { return float64(s.Index().Rev) })
	f.gauge("etcd_debugging_auth_revision", "The current revision of auth store.", func() float64 { return float64(s.Index().AuthRev) })
	f.gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction in store.", func() float64 { return float64(s.Index().Compact) })
	f.counter("etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted: entries removed from the log.", count(&m.scrubbed))
	f.gauge("etcd_debugging_mvcc_db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start.", func() float64 { return float64(m.scrubbedS.Load()) })
	f.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Bucketed histogram of db compaction pause duration: of one slice, between which there are rests.", m.slices)
	f.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of db compaction total duration.", m.scrubs)
	f.gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", func() float64 { return float64(s.Hub().Streams) })
	f.gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", func() float64 { return float64(s.Hub().Watchers) })
	f.gauge("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", func() float64 { return float64(s.Hub().Lagging) })
	f.counter("etcd_debugging_mvcc_events_total", "Total number of events sent by this member: put on streams, whether or not they were read.", func() float64 { return float64(s.Hub().Events) })
}

// succeeded counts the calls of methods that were answered without an error.
func (m *Metrics) succeeded(methods ...string) func() float64 {
	return func() (n float64) {
		for _, name := range methods {
			n += float64(m.calls[name].handled[codes.OK].Load())
		}
		return n
	}
}

func (m *Metrics) leases(f *set) {
	f.counter("etcd_debugging_lease_granted_total", "The total number of granted leases.", count(&m.granted))
	f.counter("etcd_debugging_lease_revoked_total", "The total number of revoked leases.", count(&m.revoked))
	f.counter("etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader: of those, the ones that this member's clients have renewed.", count(&m.renewed))
	f.counter("etcd_debugging_server_lease_expired_total", "The total number of expired leases: of those that ended while this member was counting them, in a cluster as the leader.", count(&m.expired))
	f.histogram("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", m.ttls)
}

func (m *Metrics) rpcs(f *set) {
	f.counter("etcd_network_client_grpc_received_bytes_total", "The total number of bytes received from grpc clients.", count(&m.received))
	f.counter("etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.", count(&m.sent))
	f.add("etcd_server_client_requests_total", "The total number of client requests per client version.", []string{"type", "client_api_version"}, func(e emitter) {
		for version, n := range *m.clients.known.Load() {
			if u := n.unary.Load(); u > 0 {
				e.value(prometheus.CounterValue, float64(u), "unary", version)
			}
			if s := n.stream.Load(); s > 0 {
				e.value(prometheus.CounterValue, float64(s), "stream", version)
			}
		}
	})
	f.add("etcd_server_request_duration_seconds", "Response latency distribution in seconds for each type.", []string{"type", "success"}, func(e emitter) {
		for name, kind := range requestTypes() {
			e.histogram(m.calls[name].answered, kind, "true")
			e.histogram(m.calls[name].refused, kind, "false")
		}
	})
	f.add("etcd_server_range_duration_seconds", "The latency distributions of ranges, but for those in transactions.", []string{"success"}, func(e emitter) {
		e.histogram(m.calls[pb.KV_Range_FullMethodName].answered, "true")
		e.histogram(m.calls[pb.KV_Range_FullMethodName].refused, "false")
	})
	labels := []string{"grpc_service", "grpc_method", "grpc_type"}
	each := func(read func(*method) uint64) func(emitter) {
		return func(e emitter) {
			for _, c := range m.calls {
				e.value(prometheus.CounterValue, float64(read(c)), c.service, c.name, c.kind)
			}
		}
	}
	f.add("grpc_server_started_total", "Total number of RPCs started on the server.", labels, each(func(c *method) uint64 { return c.started.Load() }))
	f.add("grpc_server_msg_received_total", "Total number of RPC stream messages received on the server.", labels, each(func(c *method) uint64 {
		if c.kind == "unary" {
			return c.started.Load()
		}
		return c.received.Load()
	}))
	f.add("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.", labels, each(func(c *method) uint64 {
		if c.kind == "unary" {
			return c.handled[codes.OK].Load()
		}
		return c.sent.Load()
	}))
	f.add("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.", append(labels, "grpc_code"), func(e emitter) {
		for _, c := range m.calls {
			for code := range c.handled {
				e.value(prometheus.CounterValue, float64(c.handled[code].Load()), c.service, c.name, c.kind, codes.Code(code).String())
			}
		}
	})
}

func fileLimit() float64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return float64(limit.Cur)
}

func filesUsed() float64 {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0
	}
	return float64(len(names) - 1) // but for the directory itself
}
