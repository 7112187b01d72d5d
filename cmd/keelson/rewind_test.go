package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/history/historypb"
)

// past is a server at revision 400 that has some keys to put back, to what they were at revision 309.
type past struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	historypb.UnimplementedHistoryServer
	keys []*historypb.Rewound

	mu      sync.Mutex
	asked   *historypb.RewoundRequest
	txns    int
	refused int // the transaction that is refused, 0 if none is
}

func (s *past) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Version: "3.7.0"}, nil
}

func (s *past) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 400}}, nil
}

func (s *past) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	return &pb.LeaseLeasesResponse{Leases: []*pb.LeaseStatus{{ID: 7}}}, nil
}

func (s *past) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.txns++; s.txns != s.refused {
		return &pb.TxnResponse{Succeeded: true, Header: &pb.ResponseHeader{Revision: 400 + int64(s.txns)}}, nil
	}
	resp := &pb.TxnResponse{}
	for range r.Failure {
		kv := &pb.RangeResponse{}
		resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: kv}})
	}
	return resp, nil
}

func (s *past) Rewound(r *historypb.RewoundRequest, stream historypb.History_RewoundServer) error {
	s.mu.Lock()
	s.asked = r
	s.mu.Unlock()
	if r.To.GetRevision() == 1 {
		return status.Error(codes.OutOfRange, "revision 1: the log does not go back so far")
	}
	first := &historypb.RewoundResponse{Revision: 309, Extent: &historypb.Extent{Revision: 400, CompleteRevision: 2}}
	if err := stream.Send(first); err != nil {
		return err
	}
	return stream.Send(&historypb.RewoundResponse{Keys: s.keys})
}

// serve serves it, and gives the flag that names it.
func (s *past) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	pb.RegisterMaintenanceServer(g, s)
	pb.RegisterKVServer(g, s)
	pb.RegisterLeaseServer(g, s)
	historypb.RegisterHistoryServer(g, s)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return "--endpoints=" + l.Addr().String()
}

func was(key string, lease int64) *historypb.Rewound {
	return &historypb.Rewound{
		Key:  []byte(key),
		Then: &historypb.Change{Key: []byte(key), Value: []byte("then"), ModRevision: 300, Version: 1, Lease: lease},
		Now:  &historypb.Change{Key: []byte(key), ModRevision: 350, Version: 2},
	}
}

// TestRewindNamesItsRevision: a dry run says with which revision to go on, however the moment was given, and so does a rewind that has stopped.
func TestRewindNamesItsRevision(t *testing.T) {
	s := &past{refused: 2}
	for i := range 5 {
		s.keys = append(s.keys, was(fmt.Sprint("/a/", i), 0))
	}
	endpoint := s.serve(t)
	for _, to := range []string{"5m", "309", "2026-11-26T21:50:08Z"} {
		got := run(t, nil, "rewind", "--prefix=/a/", "--to="+to, endpoint)
		if got.code != 0 || !strings.HasSuffix(got.stdout, "Nothing has been changed: --to 309 --apply does it.\n") {
			t.Errorf("to %s: %+v", to, got)
		}
	}
	got := run(t, nil, "rewind", "--prefix=/a/", "--to=2026-11-26T21:50:08Z", "--apply", "--max-txn-ops=2", endpoint)
	if got.code != 1 || !strings.Contains(got.stderr, "stopped after 2 keys of 5: ") || !strings.Contains(got.stderr, "--to 309 without --apply: keys that others have changed or made meanwhile are on that list too") {
		t.Errorf("%+v", got)
	}
	s.mu.Lock()
	s.txns = 0
	s.mu.Unlock()
	if got := run(t, nil, "rewind", "--prefix=/a/", "--to=5m", "--apply", endpoint); got.code != 2 || !strings.Contains(got.stderr, "the revision that its last line names") || s.txns > 0 {
		t.Errorf("how long ago with --apply: %+v, %d transactions", got, s.txns)
	}
}

// TestRewindConflictOfBytes: a key that is no text is told whole also where it was in the way.
func TestRewindConflictOfBytes(t *testing.T) {
	s := &past{refused: 1, keys: []*historypb.Rewound{was("/a/\xff\x01", 0)}}
	got := run(t, nil, "rewind", "--prefix=/a/", "--to=309", "--apply", "--json", s.serve(t))
	conflicts := 0
	for line := range strings.Lines(got.stdout) {
		var j struct {
			What  string
			Bytes []byte `json:"key_base64"`
		}
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if j.What == "conflict" {
			if conflicts++; string(j.Bytes) != "/a/\xff\x01" {
				t.Errorf("the key is %q", j.Bytes)
			}
		}
	}
	if got.code != 1 || conflicts != 1 {
		t.Errorf("%+v", got)
	}
}

// TestRewindLeases: a key whose lease has ended is left alone, also if another lease has got its id.
func TestRewindLeases(t *testing.T) {
	again := was("/a/again", 7)
	again.LeaseEnded = true
	s := &past{keys: []*historypb.Rewound{was("/a/there", 7), again, was("/a/gone", 8)}}
	got := run(t, nil, "rewind", "--prefix=/a/", "--to=309", s.serve(t))
	if got.code != 0 || !strings.Contains(got.stdout, "\n0 created again, 1 changed back, 0 deleted, 2 left alone") || !strings.Contains(got.stdout, "changed back   /a/there") {
		t.Errorf("%+v", got)
	}
}

// TestRewindOfANamespace: the server is asked for what may be in the namespace, and of what comes that is taken which is.
func TestRewindOfANamespace(t *testing.T) {
	s := &past{}
	inside := []string{"/registry/namespaces/shop", "/registry/pods/shop/a", "/registry/services/specs/shop/a"}
	for _, key := range append([]string{"/registry/configmaps/other/shop", "/registry/namespaces/shop2"}, inside...) {
		s.keys = append(s.keys, was(key, 0))
	}
	got := run(t, nil, "rewind", "--namespace=shop", "--to=309", s.serve(t))
	if got.code != 0 || strings.Count(got.stdout, "changed back ") != len(inside) || !strings.Contains(got.stdout, fmt.Sprintf(" %d changed back,", len(inside))) {
		t.Errorf("%+v", got)
	}
	for _, key := range inside {
		asked := false
		for _, part := range s.asked.Containing {
			asked = asked || strings.Contains(key, string(part))
		}
		if !asked {
			t.Errorf("%q was not asked for by %q", key, s.asked.Containing)
		}
	}
	for _, part := range s.asked.Containing {
		if strings.Contains("/registry/pods/other/a", string(part)) {
			t.Errorf("other namespaces are asked for by %q", part)
		}
	}
	if len(s.asked.Containing) == 0 {
		t.Error("everything was asked for")
	}
}
