package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// shows is an answer by a member.
func shows(server int, rev int64, begin, end time.Duration) *history.Op {
	return &history.Op{Server: server, Begin: begin, End: end, Request: &pb.RangeRequest{Serializable: true}, Response: &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rev}}}
}

// TestGoesBack proves that members that forget are found, and others are not.
func TestGoesBack(t *testing.T) {
	began := [][]time.Duration{{0, 100}, {0}}
	for name, c := range map[string]struct {
		ops  []*history.Op
		back bool
	}{
		"rises":                                   {[]*history.Op{shows(0, 5, 1, 2), shows(0, 5, 3, 4), shows(0, 6, 5, 6)}, false},
		"falls":                                   {[]*history.Op{shows(0, 5, 1, 2), shows(0, 4, 3, 4)}, true},
		"falls on another connection":             {[]*history.Op{shows(0, 5, 1, 2), shows(2, 4, 3, 4)}, true},
		"falls long after":                        {[]*history.Op{shows(1, 5, 1, 2), shows(1, 6, 3, 9), shows(1, 4, 200, 201)}, true},
		"was recorded in another order":           {[]*history.Op{shows(0, 5, 3, 4), shows(0, 4, 1, 2)}, false},
		"overlaps":                                {[]*history.Op{shows(0, 5, 1, 4), shows(0, 4, 3, 6)}, false},
		"is another member":                       {[]*history.Op{shows(0, 5, 1, 2), shows(1, 4, 3, 4)}, false},
		"is another process":                      {[]*history.Op{shows(0, 5, 1, 2), shows(0, 4, 103, 104)}, false},
		"is perhaps another process":              {[]*history.Op{shows(0, 5, 1, 2), shows(0, 4, 99, 104)}, false},
		"falls in the second process":             {[]*history.Op{shows(0, 5, 101, 102), shows(0, 4, 103, 104)}, true},
		"a write is missing in a read afterwards": {[]*history.Op{{Server: 1, Begin: 1, End: 2, Request: &pb.PutRequest{}, Response: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 9}}}, shows(1, 8, 3, 4)}, true},
	} {
		if err := goesBack(c.ops, 2, began); (err != nil) != c.back {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLeaseJudge proves that leases that end early are told from those that had to.
func TestLeaseJudge(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for name, c := range map[string]struct {
		answered time.Time
		ttl      int64
		want     error
	}{
		"renewed": {at(14), keptTTL, nil},
		"early":   {at(14), 0, errEarly},
		"expired": {at(16), 0, errExpired},
	} {
		k := &keeper{renewed: start}
		k.judge(c.answered, c.answered, c.ttl)
		if !errors.Is(k.over, c.want) {
			t.Errorf("%s: %v, want %v", name, k.over, c.want)
		}
	}
	if k := (&keeper{renewed: start}); true {
		if k.judge(at(1), at(1), keptTTL-1); k.over == nil {
			t.Error("a renewal to less than was granted is not found")
		}
	}
}

// TestComparisons proves that members that differ are found.
func TestComparisons(t *testing.T) {
	h := &pb.HashKVResponse{Hash: 1, CompactRevision: 2, HashRevision: 3}
	if err := sameHash(h, &pb.HashKVResponse{Hash: 1, CompactRevision: 2, HashRevision: 3}); err != nil {
		t.Error(err)
	}
	for _, other := range []*pb.HashKVResponse{{Hash: 2, CompactRevision: 2, HashRevision: 3}, {Hash: 1, HashRevision: 3}, {Hash: 1, CompactRevision: 2}} {
		if sameHash(h, other) == nil {
			t.Errorf("%v is as %v", other, h)
		}
	}
	a := &pb.Member{Name: "a", PeerURLs: []string{"p"}, ClientURLs: []string{"c"}}
	b := &pb.Member{Name: "b", PeerURLs: []string{"q"}, ClientURLs: []string{"d"}}
	learner := &pb.Member{Name: "b", PeerURLs: []string{"q"}, ClientURLs: []string{"d"}, IsLearner: true}
	want := []string{"a p c", "b q d"}
	if err := sameMembers([]*pb.Member{b, a}, want); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][]*pb.Member{{a}, {a, a}, {a, learner}, {a, b, learner}, {a, {Name: "b", PeerURLs: []string{"x"}, ClientURLs: []string{"d"}}}} {
		if sameMembers(wrong, want) == nil {
			t.Errorf("%v are %v", wrong, want)
		}
	}
}
