package mvcc

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
)

// creates gives n transactions as kube-apiserver sends them to create an object.
func creates(n int, key func(i int) string) []any {
	requests := make([]any, n)
	for i := range requests {
		k := []byte(key(i))
		requests[i] = &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: k, Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k, Value: make([]byte, 1024)}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: k}}}},
		}
	}
	return requests
}

// BenchmarkCreate evaluates and publishes batches of 50 creates on a store of 100,000 keys; an op is one create.
func BenchmarkCreate(b *testing.B) {
	const batch = 50
	name := func(i int) string {
		return fmt.Sprintf("/registry/pods/namespace-%03d/pod-%06x", i%100, i*7919%(1<<24))
	}
	ix, position := NewIndex(), int64(0)
	run := func(requests []any) {
		built, results := Evaluate(ix, Env{}, requests)
		for _, r := range results {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
		position += int64(len(built.Entries()))
		ix = built.Index(drivers.End{Position: position})
	}
	n := 0
	next := func() []any { n += batch; return creates(batch, func(i int) string { return name(n + i) }) }
	for ix.Keys() < 100_000 {
		run(next())
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N / batch {
		b.StopTimer()
		requests := next()
		b.StartTimer()
		run(requests)
	}
}
