package ctl

import (
	"bytes"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// two servers, each with values of its own.
func two() (*names, *names) {
	var n [2]*names
	for i := range uint64(len(n)) {
		n[i] = newNames(Target{Endpoint: []string{"127.0.0.1:2379", "127.0.0.1:40001"}[i], Peer: []string{"127.0.0.1:2380", "127.0.0.1:40002"}[i], Dir: []string{"/tmp/a", "/tmp/other"}[i]})
		n[i].id("cluster", 0xabcdef0123456789+i)
		n[i].id("member", 0x123456789abcdef+i*17)
		n[i].lease(0x694d000000000001 + i*99)
	}
	return n[0], n[1]
}

// TestMasks proves that what must differ is masked, and nothing else.
func TestMasks(t *testing.T) {
	tests := []struct {
		name, command, format string
		etcd, tested          string
		same                  bool
	}{
		{"ids", "get a", "json", `{"cluster_id":12379813738877118345,"member_id":81985529216486895,"revision":3}`, `{"cluster_id":12379813738877118346,"member_id":81985529216486912,"revision":3}`, true},
		{"another id in its place", "get a", "json", `{"cluster_id":12379813738877118345,"member_id":81985529216486895}`, `{"cluster_id":12379813738877118346,"member_id":12379813738877118346}`, false},
		{"an id that is not the server's", "get a", "json", `{"member_id":81985529216486895}`, `{"member_id":7}`, false},
		{"the other server's id", "get a", "json", `{"member_id":81985529216486895}`, `{"member_id":81985529216486895}`, false},
		{"revision", "get a", "json", `{"revision":3}`, `{"revision":4}`, false},
		{"leases", "lease grant 5", "simple", "lease 694d000000000001 granted with TTL(5s)", "lease 694d000000000064 granted with TTL(5s)", true},
		{"TTL", "lease grant 5", "simple", "lease 694d000000000001 granted with TTL(5s)", "lease 694d000000000064 granted with TTL(6s)", false},
		{"remaining time", "lease timetolive x", "json", `{"ttl":99,"granted-ttl":100}`, `{"ttl":98,"granted-ttl":100}`, true},
		{"a lease that is gone", "lease timetolive x", "json", `{"ttl":99}`, `{"ttl":-1}`, false},
		{"remaining time in another command", "lease list", "json", `{"ttl":99}`, `{"ttl":98}`, false},
		{"health", "endpoint health", "simple", "127.0.0.1:2379 is healthy: successfully committed proposal: took = 1.5ms", "127.0.0.1:40001 is healthy: successfully committed proposal: took = 817µs", true},
		{"no health", "endpoint health", "simple", "127.0.0.1:2379 is healthy: took = 1.5ms", "127.0.0.1:40001 is unhealthy: took = 817µs", false},
		{"status", "endpoint status", "simple", "127.0.0.1:2379, 123456789abcdef, 3.7.3, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 34, 34, , , false", "127.0.0.1:40001, 123456789abce00, 3.7.3, 3.7.0, 4.1 kB, 4.1 kB, 0%, 2.1 GB, true, false, 2, 16, 16, , , false", true},
		{"status: term", "endpoint status", "simple", "127.0.0.1:2379, 123456789abcdef, 3.7.3, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 34, 34, , , false", "127.0.0.1:40001, 123456789abce00, 3.7.3, 3.7.0, 4.1 kB, 4.1 kB, 0%, 2.1 GB, true, false, 3, 16, 16, , , false", false},
		{"status: quota", "endpoint status", "json", `{"raftTerm":2,"dbSize":20480,"dbSizeQuota":2147483648}`, `{"raftTerm":2,"dbSize":4096,"dbSizeQuota":0}`, false},
		{"status: size", "endpoint status", "json", `{"raftTerm":2,"dbSize":20480}`, `{"raftTerm":2,"dbSize":4096}`, true},
		{"tables", "member list", "table", "┌──────┐\n│ 123456789abcdef │", "┌───┐\n│  123456789abce00 │", true},
		{"text of an error", "get a", "simple", `{"ts":"2026-01-01T00:00:00Z","target":"etcd-endpoints://0xc0001/127.0.0.1:2379","error":"desc = a"}`, `{"ts":"2026-01-01T00:00:01Z","target":"etcd-endpoints://0xc2/127.0.0.1:40001","error":"desc = b"}`, false},
	}
	e, s := two()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			step := run(test.command)
			a, b := e.mask(step, test.format, []byte(test.etcd)), s.mask(step, test.format, []byte(test.tested))
			if bytes.Equal(a, b) != test.same {
				t.Errorf("equal: %v\n%s\n%s", !test.same, a, b)
			}
		})
	}
}

// TestMasksOfMessages does so for a message in protobuf.
func TestMasksOfMessages(t *testing.T) {
	e, s := two()
	message := func(member uint64, count int64) []byte {
		b, err := proto.Marshal(&pb.RangeResponse{Header: &pb.ResponseHeader{MemberId: member}, Count: count})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	etcd := e.mask(run("get a"), "protobuf", message(0x123456789abcdef, 1))
	if !strings.Contains(string(etcd), `"count":"1"`) {
		t.Errorf("%s", etcd)
	}
	if same := s.mask(run("get a"), "protobuf", message(0x123456789abce00, 1)); !bytes.Equal(etcd, same) {
		t.Errorf("%s\n%s", etcd, same)
	}
	if other := s.mask(run("get a"), "protobuf", message(0x123456789abce00, 2)); bytes.Equal(etcd, other) {
		t.Errorf("no difference: %s", other)
	}
	if more := s.mask(run("get a"), "protobuf", append(message(0x123456789abce00, 1), 0xf8, 0x07, 1)); bytes.Equal(etcd, more) {
		t.Errorf("an unknown field is not seen: %s", more)
	}
}

// TestCompare proves that each kind of difference is found, and a mark that is no longer due.
func TestCompare(t *testing.T) {
	all := func() []Result {
		return []Result{
			{Args: "get a", Stdout: []byte("a\n1\n"), step: run("get a")},
			{Args: "get b", Stderr: []byte("Error: x\n"), Code: 1, step: run("get b")},
			{Args: "snapshot save x", Stdout: []byte("saved"), step: run("snapshot save x").differs("because")},
		}
	}
	spoil := func(f func([]Result) []Result) []Result {
		r := all()
		r[2].Stdout = []byte("not saved")
		return f(r)
	}
	tests := []struct {
		name   string
		tested []Result
		found  int
	}{
		{"nothing", spoil(func(r []Result) []Result { return r }), 0},
		{"output", spoil(func(r []Result) []Result { r[0].Stdout = []byte("a\n2\n"); return r }), 1},
		{"error", spoil(func(r []Result) []Result { r[1].Stderr = []byte("Error: y\n"); return r }), 1},
		{"code", spoil(func(r []Result) []Result { r[1].Code = 2; return r }), 1},
		{"a mark that is not due", all(), 1},
		{"a command less", spoil(func(r []Result) []Result { return r[:2] }), 1},
	}
	for _, test := range tests {
		if found := Compare(all(), test.tested); len(found) != test.found {
			t.Errorf("%s: %q", test.name, found)
		}
	}
}
