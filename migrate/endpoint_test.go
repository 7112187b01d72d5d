package migrate

import (
	"context"
	"net"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/migrate/kine"
)

// keys is a server that has keys, and takes puts of others.
type keys struct {
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedKVServer
	kvs []*mvccpb.KeyValue
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
		k.kvs = append(k.kvs, &mvccpb.KeyValue{Key: put.Key, Value: put.Value})
	}
	return &pb.TxnResponse{}, nil
}

// TestMergeTellsOthers: keys that were there are no part of the proof, and it says how many they are.
func TestMergeTellsOthers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, target := grpc.NewServer(), &keys{kvs: []*mvccpb.KeyValue{{Key: []byte("other")}, {Key: []byte("third")}}}
	pb.RegisterMaintenanceServer(server, target)
	pb.RegisterKVServer(server, target)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	from := fill(t, []kine.Change{{ID: 2, Name: "k", Created: true, Value: []byte("v")}})
	proof := moved(t, Options{
		From: Place{Kind: Kine, Dialect: kine.SQLite, Where: from}, To: Place{Kind: Endpoint, Where: "http://" + l.Addr().String()}, Merge: true, Accept: true,
	})
	if proof.Others != 2 || proof.Source.Keys != 1 || proof.Source != proof.Target {
		t.Errorf("%+v", proof)
	}
}
