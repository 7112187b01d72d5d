package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/compact"
	"github.com/keelson-io/keelson/watch"
)

const (
	put   = pb.KV_Put_FullMethodName
	get   = pb.KV_Range_FullMethodName
	hash  = pb.Maintenance_HashKV_FullMethodName
	alive = pb.Lease_LeaseKeepAlive_FullMethodName
)

func TestCalls(t *testing.T) {
	f := newFixture(t)
	for range 3 {
		f.m.Started("unary", put, "3.7")
	}
	f.expect(3, "etcd_server_proposals_pending")
	f.m.Handled("unary", put, nil, time.Millisecond)
	f.m.Handled("unary", put, rpctypes.ErrGRPCTimeout, time.Second)
	f.m.Handled("unary", put, rpctypes.ErrGRPCEmptyKey, time.Microsecond)
	f.m.Started("unary", get, "3.7")
	f.m.Handled("unary", get, context.Canceled, time.Millisecond)
	f.m.Started("unary", get, "3.7")
	f.m.Handled("unary", get, nil, time.Millisecond)
	f.m.Started("unary", hash, "3.7")
	f.m.Handled("unary", hash, nil, time.Millisecond)
	f.m.Started("unary", "/none.Such/Method", "3.7")
	f.m.Handled("unary", "/none.Such/Method", nil, time.Millisecond)

	f.expect(0, "etcd_server_proposals_pending")
	f.expect(1, "etcd_server_proposals_failed_total")
	f.expect(1, "etcd_server_read_indexes_failed_total")
	f.expect(1, "etcd_mvcc_range_total")
	f.expect(1, "etcd_mvcc_hash_rev_duration_seconds")
	f.expect(3, "grpc_server_started_total", "grpc_method", "Put", "grpc_service", "etcdserverpb.KV", "grpc_type", "unary")
	f.expect(3, "grpc_server_msg_received_total", "grpc_method", "Put")
	f.expect(1, "grpc_server_msg_sent_total", "grpc_method", "Put")
	f.expect(1, "grpc_server_handled_total", "grpc_method", "Put", "grpc_code", "OK")
	f.expect(1, "grpc_server_handled_total", "grpc_method", "Put", "grpc_code", "Unavailable")
	f.expect(1, "grpc_server_handled_total", "grpc_method", "Put", "grpc_code", "InvalidArgument")
	f.expect(1, "grpc_server_handled_total", "grpc_method", "Range", "grpc_code", "Canceled")
	f.expect(3, "grpc_server_handling_seconds", "grpc_method", "Put")
	f.expect(1, "etcd_server_request_duration_seconds", "type", "Put", "success", "true")
	f.expect(2, "etcd_server_request_duration_seconds", "type", "Put", "success", "false")
	f.expect(0, "grpc_server_started_total", "grpc_method", "RangeStream", "grpc_type", "server_stream")
	f.expect(0, "grpc_server_started_total", "grpc_method", "Watch", "grpc_type", "bidi_stream")
	f.expect(7, "etcd_server_client_requests_total", "type", "unary", "client_api_version", "3.7")
}

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{io.EOF, codes.Unknown},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{rpctypes.ErrGRPCCompacted, codes.OutOfRange},
		{fmt.Errorf("while reading: %w", rpctypes.ErrGRPCNoSpace), codes.ResourceExhausted},
		{status.Error(codes.Code(99), "no such code"), codes.Unknown},
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("the code of %v is %v, want %v", c.err, got, c.want)
		}
	}
}

// TestClients: whatever clients call themselves, the labels are few.
func TestClients(t *testing.T) {
	f := newFixture(t)
	for _, v := range []string{"unknown", "", "evil\"} 1", strings.Repeat("1", 50), "..."} {
		f.m.Started("stream", alive, v)
	}
	f.expect(5, "etcd_server_client_requests_total", "type", "stream", "client_api_version", "unknown")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() { f.m.Started("unary", put, fmt.Sprintf("3.%d", i)) })
	}
	wg.Wait()
	if n := len(*f.m.clients.known.Load()); n != maxClients+1 {
		t.Errorf("%d versions are told apart, want %d and unknown", n-1, maxClients)
	}
	f.expect(100, "etcd_server_client_requests_total", "type", "unary")
	f.expect(100-maxClients, "etcd_server_client_requests_total", "type", "unary", "client_api_version", "unknown")
}

func TestCommits(t *testing.T) {
	f := newFixture(t)
	f.do(
		&pb.LeaseGrantRequest{ID: 7, TTL: 60},
		&pb.PutRequest{Key: []byte("key"), Value: []byte("value")},
		&pb.PutRequest{Key: []byte("kez"), Value: []byte("v")},
		&pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")},
		&pb.AuthUserAddRequest{Name: "u"},
	)
	if f.m.Appended(99 * time.Millisecond) {
		t.Error("99 ms count as slow")
	}
	if !f.m.Appended(101 * time.Millisecond) {
		t.Error("101 ms do not count as slow")
	}
	f.expect(0, "etcd_disk_wal_fsync_duration_seconds")
	f.m.Synced(time.Millisecond)
	f.m.Synced(time.Millisecond)
	f.m.Committed(time.Second)
	f.expect(2, "etcd_disk_wal_fsync_duration_seconds")
	f.expect(1, "etcd_disk_backend_commit_duration_seconds")
	f.expect(1, "etcd_server_slow_apply_total")
	f.expect(4, "etcd_debugging_mvcc_current_revision")
	f.expect(-1, "etcd_debugging_mvcc_compact_revision")
	f.expect(2, "etcd_debugging_auth_revision")
	f.expect(0, "etcd_debugging_mvcc_keys_total")
}

func TestEvents(t *testing.T) {
	f := newFixture(t)
	f.do(&pb.PutRequest{Key: []byte("key"), Value: []byte("value")})
	ix := f.index
	edit := ix.Edit(true)
	if err := edit.Load(f.do(
		&pb.PutRequest{Key: []byte("kez"), Value: []byte("v")},
		&pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")},
	).Entries()); err != nil {
		t.Fatal(err)
	}
	f.m.Published(edit.Events())
	f.expect(1, "etcd_mvcc_put_total")
	f.expect(2, "etcd_mvcc_delete_total")
	f.expect(4, "etcd_debugging_mvcc_total_put_size_in_bytes")
	f.hub = watch.Stats{Streams: 1, Watchers: 2, Lagging: 3, Events: 4}
	f.expect(1, "etcd_debugging_mvcc_watch_stream_total")
	f.expect(2, "etcd_debugging_mvcc_watcher_total")
	f.expect(3, "etcd_debugging_mvcc_slow_watcher_total")
	f.expect(4, "etcd_debugging_mvcc_events_total")
}

func TestLeases(t *testing.T) {
	f := newFixture(t)
	left := map[int64]time.Duration{}
	before := func(id int64) (time.Duration, bool) { d, ok := left[id]; return d, ok }
	f.do(&pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.LeaseGrantRequest{ID: 8, TTL: 3600}, &pb.LeaseGrantRequest{ID: 9, TTL: 5})
	f.m.LeasesChanged(f.index, []int64{7, 8, 9}, before)
	left[7], left[8], left[9] = time.Minute, time.Hour, -time.Millisecond
	f.m.LeasesChanged(f.index, []int64{8}, before) // a checkpoint
	f.do(&pb.LeaseRevokeRequest{ID: 7}, &pb.LeaseRevokeRequest{ID: 9})
	f.m.LeasesChanged(f.index, []int64{7, 9}, before)
	f.expect(3, "etcd_debugging_lease_granted_total")
	f.expect(3, "etcd_debugging_lease_ttl_total")
	f.expect(2, "etcd_debugging_lease_revoked_total")
	f.expect(1, "etcd_debugging_server_lease_expired_total")
}

// keepAlives is a stream of a lease's renewals.
type keepAlives struct {
	grpc.ServerStream
	err error
}

func (s keepAlives) RecvMsg(any) error { return s.err }
func (s keepAlives) SendMsg(any) error { return s.err }

func TestStreams(t *testing.T) {
	f := newFixture(t)
	info := &grpc.StreamServerInfo{FullMethod: alive}
	handler := func(_ any, s grpc.ServerStream) error {
		return errors.Join(s.RecvMsg(nil), s.SendMsg(&pb.LeaseKeepAliveResponse{TTL: 5}), s.SendMsg(&pb.LeaseKeepAliveResponse{}))
	}
	if err := f.m.Stream(nil, keepAlives{}, info, handler); err != nil {
		t.Fatal(err)
	}
	if err := f.m.Stream(nil, keepAlives{err: io.EOF}, info, handler); !errors.Is(err, io.EOF) {
		t.Fatalf("the handler's error became %v", err)
	}
	f.expect(1, "grpc_server_msg_received_total", "grpc_method", "LeaseKeepAlive")
	f.expect(2, "grpc_server_msg_sent_total", "grpc_method", "LeaseKeepAlive")
	f.expect(1, "etcd_debugging_lease_renewed_total")
}

func TestBytes(t *testing.T) {
	f := newFixture(t)
	client, server := net.Pipe()
	defer client.Close()
	conn, _, err := f.m.Credentials(insecure.NewCredentials()).Clone().ServerHandshake(server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		io.WriteString(client, "hello")
		io.ReadFull(client, make([]byte, 3))
	}()
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "you"); err != nil {
		t.Fatal(err)
	}
	f.expect(5, "etcd_network_client_grpc_received_bytes_total")
	f.expect(3, "etcd_network_client_grpc_sent_bytes_total")
}

// pruning is a store whose Prune removes this many entries, in as many slices.
type pruning struct {
	compact.Store
	entries int
	err     error
}

func (p pruning) Prune(ctx context.Context, rest func(context.Context) error) (int, error) {
	for range p.entries {
		if err := rest(ctx); err != nil {
			return 0, err
		}
	}
	return p.entries, p.err
}

func TestCompactions(t *testing.T) {
	f := newFixture(t)
	rested := 0
	rest := func(context.Context) error { rested++; return nil }
	if n, err := f.m.Compactions(pruning{}).Prune(t.Context(), rest); n != 0 || err != nil {
		t.Fatalf("%d entries, %v", n, err)
	}
	f.expect(0, "etcd_debugging_mvcc_db_compaction_last")
	if n, err := f.m.Compactions(pruning{entries: 3, err: io.EOF}).Prune(t.Context(), rest); n != 3 || !errors.Is(err, io.EOF) {
		t.Fatalf("%d entries, %v", n, err)
	}
	if rested != 3 {
		t.Errorf("rested %d times, want 3", rested)
	}
	f.expect(3, "etcd_debugging_mvcc_db_compaction_keys_total")
	f.expect(3, "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds")
	f.expect(1, "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds")
	if f.value("etcd_debugging_mvcc_db_compaction_last") == 0 {
		t.Error("no time of the last compaction")
	}
}

func TestHistogram(t *testing.T) {
	h := newSeconds(time.Millisecond, 3) // up to 1, 2 and 4 ms
	for _, us := range []int{0, 1, 1000, 1001, 2000, 2001, 4000, 4001, 1e9} {
		h.observe(int64(us) * int64(time.Microsecond))
	}
	r := h.read()
	if r.count != 9 || r.buckets[0.001] != 3 || r.buckets[0.002] != 5 || r.buckets[0.004] != 7 || len(r.buckets) != 3 {
		t.Errorf("%+v", r)
	}
	if want := 1000.014003; r.sum < want-1e-6 || r.sum > want+1e-6 {
		t.Errorf("sum %v, want %v", r.sum, want)
	}
}

// TestFree: what a request pays allocates nothing.
func TestFree(t *testing.T) {
	m := New(Options{})
	m.Started("unary", put, "3.7")
	if n := testing.AllocsPerRun(100, func() {
		m.Started("unary", put, "3.7")
		m.Handled("unary", put, nil, time.Millisecond)
	}); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	m := New(Options{})
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			m.Started("unary", put, "3.7")
			m.Handled("unary", put, nil, time.Millisecond)
		}
	})
}
