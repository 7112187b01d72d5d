package linear

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func protoreflectHeader(rev int64) protoreflect.Value {
	return protoreflect.ValueOfMessage((&pb.ResponseHeader{Revision: rev}).ProtoReflect())
}

// TestRight proves that what a right server says is found right, also where answers are lost.
func TestRight(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{none, lostAnswers} {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("fault=%d/seed=%d", f, seed), func(t *testing.T) {
				t.Parallel()
				fake := newFake(f, seed)
				ops := record(t, fake, seed, 250)
				v, err := Check(ops, fake.events, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if open := v.Open > 0; open != (f == lostAnswers) {
					t.Errorf("%d of %d requests were open", v.Open, v.Calls)
				}
				t.Logf("%d requests, %d open, %d revisions, %v", v.Calls, v.Open, fake.rev, v.Took)
			})
		}
	}
}

// TestWrong proves that each fault is found.
func TestWrong(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{
		"an acknowledged write is lost":                      lostWrite,
		"an acknowledged write is done later":                lateAcknowledged,
		"a write is done twice":                              doneTwice,
		"a stale read":                                       staleRead,
		"a stale read with a new revision":                   staleReadNewHeader,
		"a comparison with stale state":                      staleCompare,
		"a failed comparison with stale state":               staleRefusal,
		"a revision is used twice":                           revisionReused,
		"a revision is skipped":                              revisionSkipped,
		"a lease that was granted is not found":              leaseNotFound,
		"a revoked lease is found":                           leaseOutlives,
		"half a transaction":                                 halfTransaction,
		"a write that was refused is done":                   refusedAndDone,
		"a compaction that was acknowledged is not done":     compactionForgotten,
		"a version that is not the number of the key's puts": versionWrong,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := newFake(f, 1)
			ops := record(t, fake, 1, 400)
			if fake.faults == 0 {
				t.Fatal("the fault did not happen")
			}
			v, err := Check(ops, fake.events, time.Minute)
			if f == revisionSkipped && err != nil {
				return // the watch itself shows it
			}
			if !errors.Is(err, ErrIllegal) {
				t.Fatalf("%d faults: %v", fake.faults, err)
			}
			if !bytes.Contains(v.Page, []byte("<html")) {
				t.Error("there is no page")
			}
			t.Logf("%d faults, %v, %d bytes of a page, %.300v", fake.faults, v.Took, len(v.Page), err)
		})
	}
}
