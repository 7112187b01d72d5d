package cluster

import (
	"bytes"
	"context"
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
	for name, leads := range map[string]bool{"a follower": false, "the leader": true} {
		t.Run(name, func(t *testing.T) { fullDisk(t, leads) })
	}
}

func fullDisk(t *testing.T, leads bool) {
	d := newDrill(t, 3)
	d.full = leads // by a follower's disk nobody is refused
	full := 2
	m := d.members[full]
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
		err := errors.Join(d.withoutMe(full), m.free())
		d.t.Logf("the member with a full disk has ended: %v", m.gone())
		if err != nil {
			return err
		}
		return d.recover(full)
	})
	d.finish()
}

// recover sees that a member goes on when there is room, and starts it again if it takes that.
func (d *drill) recover(n int) error {
	m := d.members[n]
	if !m.gone() {
		ctx, cancel := context.WithTimeout(d.t.Context(), try)
		defer cancel()
		if _, err := pb.NewKVClient(d.conn(n)).Range(ctx, everything()); err == nil {
			return nil
		}
		d.t.Log("there is room again, and it takes a restart")
	}
	if err := m.kill(); err != nil {
		return err
	}
	return d.begin(n)
}
