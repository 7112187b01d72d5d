package metrics

import (
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestConsensus(t *testing.T) {
	f := newFixture(t)
	f.part = Consensus{Committed: 9, Applied: 8, LeaderChanges: 3, LateHeartbeats: 4, SlowReads: 5, Installing: true}
	f.expect(9, "etcd_server_proposals_committed_total")
	f.expect(8, "etcd_server_proposals_applied_total")
	f.expect(3, "etcd_server_leader_changes_seen_total")
	f.expect(4, "etcd_server_heartbeat_send_failures_total")
	f.expect(5, "etcd_server_slow_read_indexes_total")
	f.expect(1, "etcd_server_snapshot_apply_in_progress_total")
}

// TestPeers: what passes between two members, under the labels that etcd gives it.
func TestPeers(t *testing.T) {
	f := newFixture(t)
	p := f.m.Peer(other)
	p.Sent(10)
	p.Received(20)
	p.SendFailed(3)
	p.ReceiveFailed()
	p.Disconnected()
	p.RoundTrip(time.Millisecond)
	broken, whole := p.Sending(), p.Sending()
	f.expect(2, "etcd_network_snapshot_send_inflights_total", "To", "def")
	broken(errors.New("broken off"))
	whole(nil)
	p.Receiving()(nil)
	for name, want := range map[string]float64{
		"peer_sent_bytes_total": 10, "peer_sent_failures_total": 3, "peer_round_trip_time_seconds": 1,
		"snapshot_send_inflights_total": 0, "snapshot_send_success": 1, "snapshot_send_failures": 1, "snapshot_send_total_duration_seconds": 1,
	} {
		f.expect(want, "etcd_network_"+name, "To", "def")
	}
	for name, want := range map[string]float64{
		"peer_received_bytes_total": 20, "peer_received_failures_total": 1,
		"snapshot_receive_inflights_total": 0, "snapshot_receive_success": 1, "snapshot_receive_failures": 0, "snapshot_receive_total_duration_seconds": 1,
	} {
		f.expect(want, "etcd_network_"+name, "From", "def")
	}
	f.expect(1, "etcd_network_disconnected_peers_total", "Local", "abc", "Remote", "def")
	f.expect(1, "etcd_network_active_peers", "Local", "abc", "Remote", "def")
	f.expect(1, "etcd_network_known_peers", "Local", "abc", "Remote", "abc")
	f.expect(1, "etcd_network_known_peers", "Local", "abc", "Remote", "def")

	f.members = []uint64{self} // the other one is removed
	f.expect(0, "etcd_network_known_peers", "Local", "abc", "Remote", "def")
	f.expect(10, "etcd_network_peer_sent_bytes_total", "To", "def")
	if kinds := gathered(t, f.registry); kinds["etcd_network_active_peers"] != "" {
		t.Error("who was removed is active")
	}
}

// TestManyPeers: whatever ids callers say they have, the labels are few.
func TestManyPeers(t *testing.T) {
	f := newFixture(t)
	for id := range uint64(200) {
		f.m.Peer(1000 + id).Sent(1)
	}
	if n := len(f.m.peers.known); n != maxPeers+1 {
		t.Errorf("%d members are told apart, want %d and 0", n-1, maxPeers)
	}
	f.expect(200-maxPeers+1, "etcd_network_peer_sent_bytes_total", "To", "0")
}

// TestPromotions: the leader counts them, whoever was asked.
func TestPromotions(t *testing.T) {
	const promote = pb.Cluster_MemberPromote_FullMethodName
	f := newFixture(t)
	f.m.Forwarded().Started("unary", promote, "")
	f.m.Forwarded().Handled("unary", promote, nil, time.Millisecond)
	f.m.Handled("unary", promote, rpctypes.ErrGRPCLearnerNotReady, time.Millisecond)
	f.leads = false
	f.m.Handled("unary", promote, nil, time.Millisecond)
	f.expect(1, "etcd_server_learner_promote_successes")
	f.expect(1, "etcd_server_learner_promote_failures", "Reason", "etcdserver: can only promote a learner member which is in sync with leader")
	f.expect(0, "grpc_server_started_total", "grpc_method", "MemberPromote")
	f.expect(2, "grpc_server_handled_total", "grpc_method", "MemberPromote")
	f.leads = true
	for i := range 100 {
		f.m.Handled("unary", promote, fmt.Errorf("reason %d", i), time.Millisecond)
	}
	f.expect(101, "etcd_server_learner_promote_failures")
	f.expect(100-maxReasons+1, "etcd_server_learner_promote_failures", "Reason", otherReason)
}
