package server

import (
	"fmt"
	"os"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/sqllog/mvcc"
)

// page is what a node's /metrics says.
func (n *Node) page(t *testing.T) map[string]float64 {
	t.Helper()
	return scrape(t, n.endpoints[0].listeners[0].Addr().String())
}

// client connects to a node.
func (n *Node) client(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(n.endpoints[0].listeners[0].Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// expectFamilies holds a page to the table of etcd's metrics: those of it that this server has are there.
func expectFamilies(t *testing.T, page map[string]float64) {
	t.Helper()
	table, err := os.ReadFile("metrics/testdata/etcd.txt")
	if err != nil {
		t.Fatal(err)
	}
	// As in etcd these are there once there is something to count.
	late := map[string]bool{
		"etcd_debugging_server_alarms": true, "etcd_server_client_requests_total": true, "etcd_server_learner_promote_failures": true,
		"grpc_server_handling_seconds": true, "promhttp_metric_handler_requests_total": true,
	}
	for line := range strings.Lines(string(table)) {
		parts := strings.Fields(line)
		if len(parts) < 3 || parts[0] == "#" || strings.HasPrefix(parts[2], "absent") || late[parts[0]] {
			continue
		}
		has := false
		for name := range page {
			name, _, _ = strings.Cut(name, "{")
			has = has || name == parts[0] || parts[1] != "gauge" && parts[1] != "counter" && name == parts[0]+"_count"
		}
		if !has {
			t.Errorf("%s is missing", parts[0])
		}
	}
}

// TestClusterMetrics: what each of three members says of the cluster is true, and each of etcd's metrics is there.
func TestClusterMetrics(t *testing.T) {
	nodes, stops := newMembers(t, 3).start(t)
	leader := -1
	until(t, func() bool {
		for i, n := range nodes {
			if n.leads() {
				leader = i
			}
		}
		return leader >= 0
	})
	follower, third := (leader+1)%3, (leader+2)%3
	id := func(i int) string { c, _ := nodes[i].clustered(); return fmt.Sprintf("%x", c.Member) }

	kv := pb.NewKVClient(nodes[follower].client(t))
	const puts = 10
	for i := range puts {
		if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 1<<16)}); err != nil {
			t.Fatal(err)
		}
	}
	// Without waiting for more than what comes by itself: commits in the background, and the first round trips.
	for i, n := range nodes {
		until(t, func() bool {
			page := n.page(t)
			ok := page["etcd_disk_backend_commit_duration_seconds_count"] > 0 && page["etcd_mvcc_put_total"] == puts
			for j := range nodes {
				ok = ok && (i == j || page[`etcd_network_peer_round_trip_time_seconds_count{To="`+id(j)+`"}`] > 0)
			}
			return ok
		})
	}
	const put = `{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`
	for i, n := range nodes {
		page := n.page(t)
		expectFamilies(t, page)
		want := map[string]float64{
			"etcd_server_has_leader": 1, "etcd_server_is_leader": 0, "etcd_server_is_learner": 0, "etcd_server_proposals_pending": 0,
			"etcd_server_snapshot_apply_in_progress_total": 0, "grpc_server_started_total" + put: 0,
		}
		if i == leader {
			want["etcd_server_is_leader"] = 1
		}
		if i == follower {
			want["grpc_server_started_total"+put] = puts // and not the leader's, too
		}
		for j := range nodes {
			local := fmt.Sprintf(`{Local="%s",Remote="%s"}`, id(i), id(j))
			want["etcd_network_known_peers"+local] = 1
			if i != j {
				want["etcd_network_active_peers"+local] = 1
				want["etcd_network_disconnected_peers_total"+local] = 0
				want[`etcd_network_snapshot_send_success{To="`+id(j)+`"}`] = 0
				for _, name := range []string{`sent_bytes_total{To="`, `received_bytes_total{From="`} {
					if page["etcd_network_peer_"+name+id(j)+`"}`] == 0 {
						t.Errorf("member %d: no %s%s", i, name, id(j))
					}
				}
			}
		}
		for name, v := range want {
			if got, ok := page[name]; got != v || !ok {
				t.Errorf("member %d: %s is %v, want %v", i, name, got, v)
			}
		}
		for _, name := range []string{"etcd_disk_wal_fsync_duration_seconds_count", "etcd_server_leader_changes_seen_total", "etcd_server_proposals_applied_total"} {
			if page[name] == 0 {
				t.Errorf("member %d: %s is 0", i, name)
			}
		}
		if page["etcd_server_proposals_committed_total"] < page["etcd_server_proposals_applied_total"] {
			t.Errorf("member %d has applied what is not committed", i)
		}
	}
	// All values went from the follower to the leader, and from that to the third.
	for from, to := range map[int]int{follower: leader, leader: third} {
		if got := nodes[from].page(t)[`etcd_network_peer_sent_bytes_total{To="`+id(to)+`"}`]; got < puts<<16 {
			t.Errorf("member %d has sent %v bytes to member %d", from, got, to)
		}
		if got := nodes[to].page(t)[`etcd_network_peer_received_bytes_total{From="`+id(from)+`"}`]; got < puts<<16 {
			t.Errorf("member %d has received %v bytes from member %d", to, got, from)
		}
	}
	// The Raft log is synced for every write, the database seldom.
	page := nodes[third].page(t)
	if page["etcd_disk_wal_fsync_duration_seconds_count"] <= page["etcd_disk_backend_commit_duration_seconds_count"] {
		t.Error("the database is committed as often as the Raft log is synced")
	}

	changes := nodes[follower].page(t)["etcd_server_leader_changes_seen_total"]
	stops[leader]()
	gone := id(leader)
	for _, i := range []int{follower, third} {
		until(t, func() bool {
			page := nodes[i].page(t)
			local := fmt.Sprintf(`{Local="%s",Remote="%s"}`, id(i), gone)
			return page["etcd_server_has_leader"] == 1 && page["etcd_network_active_peers"+local] == 0 && page["etcd_network_disconnected_peers_total"+local] > 0 &&
				(page["etcd_server_is_leader"] == 0 || page[`etcd_network_peer_sent_failures_total{To="`+gone+`"}`] > 0)
		})
	}
	if now := nodes[follower].page(t)["etcd_server_leader_changes_seen_total"]; now <= changes {
		t.Errorf("%v leader changes were seen, and then %v", changes, now)
	}
}

// TestGrownMetrics: a server that was alone and grows goes on counting, and in Raft's indexes.
func TestGrownMetrics(t *testing.T) {
	m := newMembers(t, 1)
	nodes, _ := m.start(t)
	n := nodes[0]
	before := n.page(t)
	expectAlone := map[string]float64{"etcd_server_leader_changes_seen_total": 1, "etcd_server_is_leader": 1, "etcd_server_has_leader": 1}
	for name, want := range expectAlone {
		if before[name] != want {
			t.Errorf("alone: %s is %v, want %v", name, before[name], want)
		}
	}
	if before["etcd_disk_wal_fsync_duration_seconds_count"] == 0 || before["etcd_disk_wal_fsync_duration_seconds_count"] != before["etcd_disk_backend_commit_duration_seconds_count"] {
		t.Error("alone, an append is both")
	}
	urls := []string{freeURL(t)}
	if _, err := n.cluster.Change(t.Context(), &mvcc.AddMember{Member: &pb.Member{ID: 0xbeef, PeerURLs: urls, IsLearner: true}, MaxLearners: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.store.Do(t.Context(), &pb.PutRequest{Key: []byte("k")}, 1); err != nil {
		t.Fatal(err)
	}
	self := fmt.Sprintf("%x", n.member.Load())
	until(t, func() bool {
		page := n.page(t)
		for name := range before {
			if strings.HasSuffix(name, "_count") && page[name] < before[name] || name == "etcd_server_leader_changes_seen_total" && page[name] < 1 {
				t.Errorf("%s has fallen from %v to %v", name, before[name], page[name])
			}
		}
		return page["etcd_disk_wal_fsync_duration_seconds_count"] > before["etcd_disk_wal_fsync_duration_seconds_count"] &&
			page[`etcd_network_peer_sent_failures_total{To="beef"}`] > 0 && page[fmt.Sprintf(`etcd_network_active_peers{Local="%s",Remote="beef"}`, self)] == 0
	})
	page := n.page(t)
	c, _ := n.cluster.log.Counts()
	if page["etcd_server_proposals_applied_total"] > float64(c.Applied) || page["etcd_server_proposals_applied_total"] == 0 {
		t.Errorf("%v applied, Raft says %d", page["etcd_server_proposals_applied_total"], c.Applied)
	}
	if got := page[fmt.Sprintf(`etcd_network_known_peers{Local="%s",Remote="beef"}`, self)]; got != 1 {
		t.Errorf("the added member is known: %v", got)
	}
	if _, err := n.cluster.Change(t.Context(), &mvcc.RemoveMember{ID: 0xbeef}); err != nil {
		t.Fatal(err)
	}
	if got, ok := n.page(t)[fmt.Sprintf(`etcd_network_known_peers{Local="%s",Remote="beef"}`, self)]; got != 0 || !ok {
		t.Errorf("the removed member is known: %v, %v", got, ok)
	}
}

// TestCopyMetrics: who joins a server that was alone fetches a copy of its database, which both count, and the leader counts that it is promoted.
func TestCopyMetrics(t *testing.T) {
	m := newMembers(t, 2)
	one := members{m.dir[:1], m.names[:1], m.peers[:1], m.clients[:1]}
	nodes, _ := one.start(t)
	first := nodes[0]
	cluster := pb.NewClusterClient(first.client(t))
	added, err := cluster.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: m.peers[1:], IsLearner: true})
	if err != nil {
		t.Fatal(err)
	}
	promote := &pb.MemberPromoteRequest{ID: added.Member.ID}
	if _, err := cluster.MemberPromote(t.Context(), promote); err == nil {
		t.Fatal("a learner that is not there was promoted")
	}
	joiner, err := m.open(t, 1, "existing")
	if err != nil {
		t.Fatal(err)
	}
	run(t, joiner)
	from, to := fmt.Sprintf("{From=\"%x\"}", first.member.Load()), fmt.Sprintf("{To=\"%x\"}", added.Member.ID)
	until(t, func() bool {
		page, other := first.page(t), joiner.page(t)
		return page["etcd_network_snapshot_send_success"+to] > 0 && page["etcd_network_snapshot_send_total_duration_seconds_count"+to] > 0 &&
			other["etcd_network_snapshot_receive_success"+from] > 0 && other["etcd_network_snapshot_receive_total_duration_seconds_count"+from] > 0
	})
	until(t, func() bool {
		_, err := cluster.MemberPromote(t.Context(), promote)
		return err == nil
	})
	page := first.page(t)
	for name, want := range map[string]float64{
		"etcd_server_learner_promote_successes": 1, "etcd_network_snapshot_send_inflights_total" + to: 0,
	} {
		if got, ok := page[name]; got != want || !ok {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	failures := 0.0
	for name, v := range page {
		if strings.HasPrefix(name, "etcd_server_learner_promote_failures{") {
			failures += v
		}
	}
	if failures == 0 {
		t.Error("no promotion has failed")
	}
	if joiner.page(t)["etcd_server_learner_promote_successes"] != 0 {
		t.Error("who was promoted counts it")
	}
}
