package load

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Raft lists the loads for clusters of several members.
func Raft() []Load {
	const minute = time.Minute
	return []Load{
		{Name: "create-100", Timeout: minute, run: create("create-100", 100, atLeader), Measures: []Measure{
			{"create-100.rate", "create, 100 clients of the leader", PerSecond},
			{"create-100.p99", "", Seconds},
		}},
		{Name: "create-100-all", Timeout: minute, run: create("create-100-all", 100, everywhere), Shares: []string{"create-100-all.share"}, Measures: []Measure{
			{"create-100-all.rate", "create, 100 clients of all three members", PerSecond},
			{"create-100-all.p99", "", Seconds},
			{"create-100-all.share", "", Share},
		}},
		{Name: "create-1", Timeout: minute, run: create("create-1", 1, atLeader), Measures: []Measure{
			{"create-1.rate", "create, 1 client of the leader", PerSecond},
			{"create-1.p99", "", Seconds},
		}},
		{Name: "get-100", Timeout: minute, run: get("get-100", atLeader), Measures: []Measure{
			{"get-100.rate", "get, linearizable, 100 clients of the leader", PerSecond},
			{"get-100.p99", "", Seconds},
		}},
		{Name: "get-100-follower", Timeout: minute, run: get("get-100-follower", atFollower), Measures: []Measure{
			{"get-100-follower.rate", "the same, of one follower", PerSecond},
			{"get-100-follower.p99", "", Seconds},
		}},
		{Name: "get-100-serializable", Timeout: minute, run: get("get-100-serializable", atFollower, clientv3.WithSerializable()), Measures: []Measure{
			{"get-100-serializable.rate", "get, serializable, 100 clients of one follower", PerSecond},
			{"get-100-serializable.p99", "", Seconds},
		}},
		{Name: "watch-10", Timeout: 2 * minute, run: watchUpdates, Measures: []Measure{
			{"watch-10.events", "update at the leader, 10 watchers at a follower of the prefix with prev_kv: events delivered", PerSecond},
			{"watch-10.writes", "", PerSecond},
		}},
		{Name: "failover", Timeout: 5 * minute, run: failover, Measures: []Measure{
			{"failover.gap", "time without writes after kill -9 of the leader, median of 10 kills", Seconds},
			{"failover.longest", "", Seconds},
		}},
		{Name: "memory", Timeout: 20 * minute, run: memoryOfMembers, Measures: []Measure{
			{"memory.10k-largest", "resident memory after 10,000 creates, the largest member", Bytes},
			{"memory.10k-mean", "the same, mean of the members", Bytes},
			{"memory.1m-largest", "resident memory after 1,000,000 updates of them, the largest member", Bytes},
			{"memory.1m-mean", "the same, mean of the members", Bytes},
		}},
		{Name: "disk-100", Timeout: 2 * minute, run: disk(diskWrites{100, "create", (*writes).create}), Measures: []Measure{
			{"disk-100.create", "bytes written to disk per create, mean of the members, 100 clients", Bytes},
			{"disk-100.create-and-stop", "", Bytes},
		}},
		{Name: "disk-1", Timeout: 2 * minute, run: disk(diskWrites{1, "create", (*writes).create}), Measures: []Measure{
			{"disk-1.create", "the same, 1 client", Bytes},
			{"disk-1.create-and-stop", "", Bytes},
		}},
	}
}
