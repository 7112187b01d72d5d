package mvcc

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
)

// A transaction may delete from a key on and put one of the keys again. The
// tombstones share an entry, which a compaction at that very revision must not free.
func TestPruneKeepsSharedTombstones(t *testing.T) {
	put := func(k string) *pb.PutRequest { return &pb.PutRequest{Key: []byte(k), Value: []byte("v")} }
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: put("b")}},
	}}
	b, results := Evaluate(NewIndex(), Env{MinLeaseTTL: 1}, []any{put("a"), put("b"), put("c"), txn, &pb.CompactionRequest{Revision: 5}})
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	ix := b.Index(drivers.End{Position: b.next() - 1})
	keys, _ := ix.Prunable("", 5, 100)
	freed := Positions(ix.Edit(false).Prune(keys, 5))
	for _, pos := range freed {
		if pos > 3 {
			t.Errorf("position %d is freed: the entry of revision 5 is kept", pos)
		}
	}
	if len(freed) != 3 {
		t.Errorf("freed %v, want the three puts before revision 5", freed)
	}
}
