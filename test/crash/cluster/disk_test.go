package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keelson-io/keelson/test/conformance/history"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

const (
	// diskSize is in megabytes; etcd takes a part of it before it has written anything.
	diskSize = 256
	// large is the size of values that fill what servers have set aside, and largeWrites their number.
	large       = 900 << 10
	largeWrites = 100
)

// TestFullDisk fills the disk of a member. It may end, or refuse; the others go on, and so does it when there is room.
func TestFullDisk(t *testing.T) {
	for name, is := range map[string]struct{ leads, apart bool }{"a follower": {}, "the leader": {leads: true}, "the leader, and its Raft log": {true, true}} {
		t.Run(name, func(t *testing.T) { fullDisk(t, is.leads, is.apart) })
	}
}

// fullDisk fills the disk of the leader or of a follower, of all that it has or of its Raft log alone.
func fullDisk(t *testing.T, leads, apart bool) {
	d := newDrill(t, 3)
	d.full = leads // by a follower's disk nobody is refused
	full := 2
	m := d.members[full]
	m.apart = apart
	if err := m.smallDisk(diskSize); err != nil {
		t.Fatal(err)
	}
	d.form(3)
	d.step("a disk is full", func() error {
		for {
			leader, err := d.anyLeader()
			if err != nil {
				return err
			}
			if (leader == full) == leads {
				break
			}
			if err := d.handOver(); err != nil {
				return err
			}
		}
		if err := m.fill(); err != nil {
			return err
		}
		for range largeWrites {
			if m.gone() {
				break
			}
			err := d.until("a large write", func(ctx context.Context) error {
				value := d.value("kz9")
				value.Value = append(value.Value, bytes.Repeat([]byte("."), large)...)
				return d.asks(ctx, d.pick(d.others(full)), value)
			})
			if err != nil {
				return err
			}
		}
		err := d.withoutMe(full)
		if apart && !m.gone() {
			err = errors.Join(err, d.outOfIt(full))
		}
		err = errors.Join(err, m.free())
		d.t.Logf("the member with a full disk has ended: %v", m.gone())
		if err != nil {
			return err
		}
		return d.recover(full)
	})
	d.finish()
}

// outOfIt waits until a member says that it has no leader, and sees that it says so to those who ask it for something, instead of letting them wait.
func (d *drill) outOfIt(n int) error {
	return d.until("a member that knows that it is out of it", func(ctx context.Context) error {
		s, err := d.status(ctx, n)
		if err != nil || s.GetLeader() != 0 {
			return fmt.Errorf("its leader is %x: %w", s.GetLeader(), err)
		}
		for _, request := range []proto.Message{everything(), d.value("k0")} {
			if err := d.asks(ctx, n, request); !history.Is(err, rpctypes.ErrGRPCNoLeader) {
				return fmt.Errorf("%T: %w", request, err)
			}
		}
		return nil
	})
}

// recover sees that a member goes on when there is room, and starts it again if it takes that.
func (d *drill) recover(n int) error {
	m := d.members[n]
	if !m.gone() {
		ctx, cancel := context.WithTimeout(d.t.Context(), try)
		defer cancel()
		for ctx.Err() == nil {
			if _, err := pb.NewKVClient(d.conn(n)).Range(ctx, everything()); err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(pollInterval): // it may be refused until the member has found the room
			}
		}
		d.t.Log("there is room again, and it takes a restart")
	}
	if err := m.kill(); err != nil {
		return err
	}
	return d.begin(n)
}
