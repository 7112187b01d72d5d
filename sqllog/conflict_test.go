package sqllog

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/drivers"
	"github.com/keelson-io/keelson/drivers/memory"
)

// A log that calls an append a conflict though its end has not moved fails the
// request instead of holding the loop for good.
func TestConflictWithNobody(t *testing.T) { bothWays(t, testConflictWithNobody) }

func testConflictWithNobody(t *testing.T, start starter) {
	s := start(t, memory.NewStore())
	s.log.Inject(memory.OpAppend, memory.Fault{Err: drivers.ErrConflict})
	if _, err := s.do(&pb.PutRequest{Key: []byte("k")}); !errors.Is(err, ErrStorage) {
		t.Errorf("a put that conflicts with nobody is answered %v, want ErrStorage", err)
	}
	s.must(&pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if got := s.get("k"); got != "v" {
		t.Errorf("afterwards k is %q", got)
	}
}
