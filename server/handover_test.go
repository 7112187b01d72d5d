package server

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/drivers"
)

// TestAnswerOfAnEarlierLeader: who asked a leader that does not answer is told so when another one leads, and not only when that one answers or its connection breaks.
func TestAnswerOfAnEarlierLeader(t *testing.T) {
	m := newMembers(t, 3)
	nodes, _ := m.start(t)
	leader := -1
	until(t, func() bool {
		for i, n := range nodes {
			if n.leads() {
				leader = i
			}
		}
		return leader >= 0
	})
	asked, next := nodes[(leader+1)%3], nodes[(leader+2)%3]
	conn, err := grpc.NewClient(m.clients[(leader+1)%3][len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	for range 3 {
		if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	// While the leader's database is read as a whole nothing is freed there, which the answer to this one waits for.
	reading, read := make(chan struct{}), make(chan struct{})
	loaded := make(chan error, 1)
	go func() {
		first := true
		_, err := nodes[leader].cluster.log.Load(context.Background(), false, func([]drivers.Entry) error {
			if first {
				first = false
				close(reading)
				<-read
			}
			return nil
		})
		loaded <- err
	}()
	<-reading
	compacted := make(chan error, 1)
	go func() {
		_, err := kv.Compact(context.Background(), &pb.CompactionRequest{Revision: 3, Physical: true})
		compacted <- err
	}()
	until(t, func() bool { return asked.store.Index().Compact == 3 })
	id, _ := next.clustered()
	if err := nodes[leader].cluster.MoveLeader(t.Context(), id.Member); err != nil {
		t.Fatal(err)
	}
	if err := <-compacted; status.Code(err) != status.Code(rpctypes.ErrGRPCTimeoutDueToConnectionLost) || status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCTimeoutDueToConnectionLost).Message() {
		t.Errorf("the answer of the earlier leader, which it still owes: %v", err)
	}
	close(read)
	if err := <-loaded; err != nil {
		t.Error(err)
	}
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")}); err != nil {
		t.Errorf("the next request: %v", err)
	}
}
