package etcdv3

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/drivers/memory"
	"github.com/keelson-io/keelson/sqllog"
)

type fullBackend struct{ Backend }

func (fullBackend) Size(context.Context) (total, inUse int64, err error) {
	return 1 << 40, 1 << 40, nil
}

// TestQuotaLetsDeletesPass: a transaction that puts nothing is let in over the quota, or space could
// never be freed. The alarm is raised by what needs space alone.
func TestQuotaLetsDeletesPass(t *testing.T) {
	store, err := sqllog.Open(t.Context(), sqllog.Options{Log: memory.NewStore().Open()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	s := &Server{opts: Options{Store: store, Backend: fullBackend{}, QuotaBytes: 1000, MaxRequestBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)}}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}}}
	if err := s.checkQuota(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{del}}); err != nil {
		t.Errorf("a transaction that deletes: %v", err)
	}
	if n := len(store.Index().Alarms()); n != 0 {
		t.Errorf("%d alarms", n)
	}
	if err := s.checkQuota(ctx, &pb.PutRequest{Key: []byte("k")}); !errors.Is(err, rpctypes.ErrGRPCNoSpace) {
		t.Errorf("a put: %v", err)
	}
	if !store.Index().Alarmed(int32(pb.AlarmType_NOSPACE)) {
		t.Error("no alarm")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
