package server

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/config"
)

// serveNode runs a node on a free port until the test ends and gives its address.
func serveNode(t *testing.T, args ...string) string {
	t.Helper()
	args = append(args, "--data-dir", t.TempDir(), "--listen-client-urls", "http://127.0.0.1:0", "--advertise-client-urls", "http://127.0.0.1:1")
	opts, _, err := config.Load(config.Input{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(t.Context(), opts, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the node ended: %v", err)
		}
		if err := n.Close(); err != nil {
			t.Errorf("the node was closed: %v", err)
		}
	})
	return n.endpoints[0].listeners[0].Addr().String()
}

// scrape gives the samples of /metrics, by name and labels as they stand there.
func scrape(t *testing.T, address string) map[string]float64 {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	samples := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 {
			continue
		}
		if v, err := strconv.ParseFloat(lines.Text()[at+1:], 64); err == nil {
			samples[lines.Text()[:at]] = v
		}
	}
	return samples
}

// TestMetrics: what a client does shows on /metrics.
func TestMetrics(t *testing.T) {
	address := serveNode(t, "--metrics=extensive", "--warning-apply-duration=1ns")
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataClientAPIVersionKey, "3.7")
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)

	watch, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte("a")}
	if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil { // created
		t.Fatal(err)
	}
	if _, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 60}); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("value"), Lease: 7}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil { // the event
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, &pb.PutRequest{}); err == nil {
		t.Fatal("a put without a key was let through")
	}
	if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7}); err != nil {
		t.Fatal(err)
	}

	got := scrape(t, address)
	const unary, kvPut = `,grpc_type="unary"}`, `grpc_method="Put",grpc_service="etcdserverpb.KV"`
	for name, want := range map[string]float64{
		`etcd_server_has_leader`: 1,
		`etcd_server_version{server_version="` + config.EtcdVersion() + `"}`:        1,
		`etcd_cluster_version{cluster_version="3.7"}`:                               1,
		`etcd_server_client_requests_total{client_api_version="3.7",type="unary"}`:  5,
		`etcd_server_client_requests_total{client_api_version="3.7",type="stream"}`: 1,
		`etcd_server_proposals_pending`:                                             0,
		`etcd_mvcc_put_total`:                                                       1,
		`etcd_mvcc_delete_total`:                                                    1,
		`etcd_mvcc_range_total`:                                                     1,
		`etcd_debugging_mvcc_current_revision`:                                      3,
		`etcd_debugging_mvcc_keys_total`:                                            0,
		`etcd_debugging_mvcc_watcher_total`:                                         1,
		`etcd_debugging_mvcc_watch_stream_total`:                                    1,
		`etcd_debugging_lease_granted_total`:                                        1,
		`etcd_debugging_lease_revoked_total`:                                        1,
		`etcd_debugging_server_lease_expired_total`:                                 0,
		`grpc_server_started_total{` + kvPut + unary:                                2,
		`grpc_server_handled_total{grpc_code="OK",` + kvPut + unary:                 1,
		`grpc_server_handled_total{grpc_code="InvalidArgument",` + kvPut + unary:    1,
		`grpc_server_handling_seconds_count{` + kvPut + unary:                       2,
		`grpc_server_msg_received_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}`: 1,
	} {
		if value, ok := got[name]; value != want || !ok {
			t.Errorf("%s is %v, want %v", name, value, want)
		}
	}
	for _, name := range []string{
		"etcd_disk_wal_fsync_duration_seconds_count", "etcd_server_slow_apply_total", "etcd_server_proposals_applied_total",
		"etcd_mvcc_db_total_size_in_bytes", "etcd_network_client_grpc_received_bytes_total", "etcd_network_client_grpc_sent_bytes_total",
		"etcd_server_quota_backend_bytes", "process_resident_memory_bytes", "go_goroutines",
	} {
		if got[name] == 0 {
			t.Errorf("%s is 0", name)
		}
	}
}
