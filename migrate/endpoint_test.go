package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/migrate/kine"
)

// keys is a server that has keys and leases, and takes puts and grants of others.
type keys struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	kvs    []*mvccpb.KeyValue
	minTTL int64
	mu     sync.Mutex
	ttls   map[int64]int64 // of its leases
}

func (k *keys) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{ClusterId: 1}}, nil
}

func (k *keys) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 9}, Kvs: k.kvs, Count: int64(len(k.kvs))}, nil
}

func (k *keys) Txn(_ context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	for _, op := range r.Success {
		put := op.GetRequestPut()
		k.kvs = slices.DeleteFunc(k.kvs, func(kv *mvccpb.KeyValue) bool { return bytes.Equal(kv.Key, put.Key) })
		k.kvs = append(k.kvs, &mvccpb.KeyValue{Key: put.Key, Value: put.Value, Lease: put.Lease})
	}
	return &pb.TxnResponse{}, nil
}

func (k *keys) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.ttls[r.ID]; there {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	k.ttls[r.ID] = max(r.TTL, k.minTTL)
	return &pb.LeaseGrantResponse{ID: r.ID, TTL: k.ttls[r.ID]}, nil
}

func (k *keys) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if ttl, there := k.ttls[r.ID]; there {
		return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: 1, GrantedTTL: ttl}, nil
	}
	return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}, nil
}

func (k *keys) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		k.mu.Lock()
		ttl := k.ttls[r.ID]
		k.mu.Unlock()
		if err := stream.Send(&pb.LeaseKeepAliveResponse{ID: r.ID, TTL: ttl}); err != nil {
			return err
		}
	}
}

func (k *keys) start(t *testing.T) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterMaintenanceServer(server, k)
	pb.RegisterKVServer(server, k)
	pb.RegisterLeaseServer(server, k)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return "http://" + l.Addr().String()
}

// TestLeaseTTLs: a lease that the target has with another TTL is told in the plan, and one that it grants another TTL before there is a key.
func TestLeaseTTLs(t *testing.T) {
	from := Place{Kind: Kine, Dialect: kine.SQLite, Where: fill(t, []kine.Change{{ID: 2, Name: "k", Created: true, Value: []byte("v"), Lease: 60}})}
	for _, c := range []struct {
		target  *keys
		merge   bool
		planned string
		lost    string // is told after the plan
	}{
		{target: &keys{ttls: map[int64]int64{}}},
		{target: &keys{ttls: map[int64]int64{1: 5}}, merge: true},
		{target: &keys{ttls: map[int64]int64{60: 60}}, merge: true},
		{target: &keys{ttls: map[int64]int64{60: 30}}, merge: true, planned: "lease 3c has 30 s and not 60 s"},
		{target: &keys{ttls: map[int64]int64{}, minTTL: 90}, lost: "lease 3c has 90 s and not 60 s"},
		{target: &keys{ttls: map[int64]int64{}, minTTL: 90}, merge: true, lost: "lease 3c has 90 s and not 60 s"},
	} {
		var planned, lost string
		o := Options{
			From: from, To: Place{Kind: Endpoint, Where: c.target.start(t)}, Merge: c.merge, Accept: true, Logger: quiet(),
			Plan: func(p Plan) { planned = strings.Join(p.Lost, "\n") },
			Lost: func(text string) {
				if lost += text; planned == "" || len(c.target.kvs) > 0 {
					t.Errorf("%+v: %q is told at another time", c, text)
				}
			},
		}
		name := fmt.Sprint(c.target.ttls)
		proof := moved(t, o)
		if told := strings.Contains(planned, "TTLs of leases"); told != (c.planned != "") || !strings.Contains(planned, c.planned) {
			t.Errorf("%s: it is planned that there is lost\n%s", name, planned)
		}
		if (lost != "") != (c.lost != "") || !strings.Contains(lost, c.lost) {
			t.Errorf("%s: it is told that there is lost %q", name, lost)
		}
		if proof.Source != proof.Target || proof.Target.Keys != 1 {
			t.Errorf("%s: %+v", name, proof)
		}
		o.Merge, lost = true, ""
		if moved(t, o); !strings.Contains(planned, c.planned+c.lost) || lost != "" {
			t.Errorf("%s: the second time it is planned that there is lost\n%s\nand told %q", name, planned, lost)
		}
	}
}

// TestLeaseEnded: a lease that is not there in the end is told by its id, though all keys are.
func TestLeaseEnded(t *testing.T) {
	target := &keys{ttls: map[int64]int64{}}
	from := fill(t, []kine.Change{{ID: 2, Name: "k", Created: true, Value: []byte("v"), Lease: 60}})
	o := Options{
		From: Place{Kind: Kine, Dialect: kine.SQLite, Where: from}, To: Place{Kind: Endpoint, Where: target.start(t)}, Accept: true, Logger: quiet(),
		Progress: func(step string, _, _ int64) {
			if step == "looking at the target's leases" {
				target.mu.Lock()
				defer target.mu.Unlock()
				delete(target.ttls, 60)
			}
		},
	}
	if proof, err := Run(t.Context(), o); !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "lease 3c has ended") || proof.Source == proof.Target {
		t.Errorf("%+v, %v", proof, err)
	}
}

// TestMergeTellsOthers: keys that were there are no part of the proof, and it says how many they are.
func TestMergeTellsOthers(t *testing.T) {
	target := &keys{kvs: []*mvccpb.KeyValue{{Key: []byte("other")}, {Key: []byte("third")}}}
	from := fill(t, []kine.Change{{ID: 2, Name: "k", Created: true, Value: []byte("v")}})
	proof := moved(t, Options{
		From: Place{Kind: Kine, Dialect: kine.SQLite, Where: from}, To: Place{Kind: Endpoint, Where: target.start(t)}, Merge: true, Accept: true,
	})
	if proof.Others != 2 || proof.Source.Keys != 1 || proof.Source != proof.Target {
		t.Errorf("%+v", proof)
	}
}
